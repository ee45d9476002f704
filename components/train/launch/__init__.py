"""Worker groups: the workers that train one model together, and who starts them.

Every worker is two processes: a small agent (`agent`), which meets the others (`rendezvous`), and the process
with TensorFlow (`worker`), which the agent starts and watches. Whoever starts the agents, and a dead one
again, is a launcher, such as `local` or `kubernetes`; `latentfaces.common.config.LAUNCHERS` names them.
"""

from __future__ import annotations

import dataclasses
import json
import signal
from dataclasses import dataclass

from latentfaces.common.config import RunOptions

# Exit statuses of agents and workers
OWN_ERROR, USER_ERROR = 1, 2
PEER_LOST = 75  # EX_TEMPFAIL: try again
TERMINATED, INTERRUPTED = 128 + signal.SIGTERM, 128 + signal.SIGINT  # a checkpoint was saved first

# The environment variable with the secret that the agents of a group share; arguments can be read by anyone
TOKEN = "LATENTFACES_GROUP_TOKEN"

# The environment variable with the address of a pod, at which worker 0's agent listens; without it, at all
ADDRESS = "LATENTFACES_POD_IP"

# Where a platform starts the workers itself: the environment variable with a worker's number, as in Jobs
INDEX = "JOB_COMPLETION_INDEX"

LEAVE_SECONDS = 25  # to save a checkpoint after SIGTERM; Kubernetes' default grace period is 30


@dataclass(frozen=True, kw_only=True)
class WorkerGroup:
    """What the agents and workers of a group are told.

    Attributes:
        folder: the model folder, which holds the run's `config.json`.
        rendezvous: "host:port" where worker 0's agent listens.
        run: how the model is trained, by how many workers, and who started them.
    """

    folder: str
    rendezvous: str
    run: RunOptions

    def to_json(self) -> str:
        """Returns the argument of `agent` and `worker`."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> WorkerGroup:
        """Returns what `to_json` wrote."""
        values = json.loads(text)
        return cls(**{**values, "run": RunOptions(**values["run"])})
