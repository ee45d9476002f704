"""The small parent of one worker: `python -m latentfaces.components.train.launch.agent INDEX GROUP`.

It meets the other agents, starts TensorFlow as a child that finds its peers through `TF_CONFIG`, and watches
it. When a worker is lost, wherever it is, the agents end their children, which would wait for it, meet
again, and go on from the last checkpoint. On Kubernetes this is the pod's program.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time

from latentfaces.common import storage
from latentfaces.common.model_folder import is_finished, read_config
from latentfaces.common.program import reporting
from latentfaces.components.train.launch import (
    LEAVE_SECONDS,
    OWN_ERROR,
    PEER_LOST,
    TERMINATED,
    USER_ERROR,
    WorkerGroup,
)
from latentfaces.components.train.launch.processes import Process, end_with_parent, ending, start
from latentfaces.components.train.launch.rendezvous import Rendezvous, meet

_FIRST_STEP_SECONDS = 600.0  # TensorFlow's start, fetching shards, tracing and compiling


class Agent:
    """Runs one worker of a group until the model is trained.

    Args:
        index: of the worker.
        group: that it belongs to.
    """

    def __init__(self, index: int, group: WorkerGroup) -> None:
        self._index = index
        self._group = group
        self._folder = storage.resolve(group.folder)
        self._config = read_config(self._folder)
        self._child: Process | None = None
        self._leave_by = float("inf")
        signal.signal(signal.SIGTERM, self._terminate)

    def run(self) -> int:
        """Returns the exit status: 0 trained, 1 an error of ours, 2 the user's, 143 after SIGTERM.

        Raises:
            RunError: if the agents can't meet, or have met too often.
        """
        group, run, attempt, reason = self._group, self._group.run, 0, ""
        if self._index == 0:
            Rendezvous(
                group.rendezvous, run.workers, max_restarts=run.max_restarts, seconds=run.rendezvous_seconds
            ).start()
        while not self._is_finished():
            connection, attempt, addresses = meet(
                group.rendezvous,
                self._index,
                _free_port(),
                attempt=attempt,
                reason=reason,
                seconds=run.rendezvous_seconds,
            )
            with connection:
                task = {"type": "worker", "index": self._index}
                tf_config = json.dumps({"cluster": {"worker": addresses}, "task": task})
                self._child = start(
                    "latentfaces.components.train.launch.worker", [group.to_json()], {"TF_CONFIG": tf_config}
                )
                try:
                    status, reason = self._watch(self._child, connection)
                finally:
                    self._child.kill()
                    self._child = None
            if status in (OWN_ERROR, USER_ERROR):
                return status
            if self._leave_by < float("inf") and not self._is_finished():
                return TERMINATED
        return 0

    def _watch(self, child: Process, connection: socket.socket) -> tuple[int, str]:
        """Waits until the child has ended, is stuck, or the attempt is over.

        Returns:
            The child's exit status, or "peer lost" where it has none, and what to tell the others.
        """
        stuck_by = time.monotonic() + max(_FIRST_STEP_SECONDS, self._group.run.stuck_seconds)
        while True:
            ready, _, _ = select.select([child.link, connection], [], [], 1.0)
            now = time.monotonic()
            if child.link in ready:
                if not child.link.recv(1 << 16):
                    break
                stuck_by = now + self._group.run.stuck_seconds
            if connection in ready or now > self._leave_by:
                return PEER_LOST, ""
            if now > stuck_by:
                return (
                    PEER_LOST,
                    f"worker {self._index} made no step for {self._group.run.stuck_seconds:.0f} s",
                )
        status = child.popen.wait()
        if status == 0:
            self._wait_for_chief(connection)
        if status == PEER_LOST:
            return status, f"worker {self._index} lost a peer"
        return status, f"worker {self._index}'s process {ending(status)}" if status else ""

    def _wait_for_chief(self, connection: socket.socket) -> None:
        """Waits until the chief has saved the networks too, or the attempt is over."""
        while not self._is_finished() and time.monotonic() < self._leave_by:
            if select.select([connection], [], [], 1.0)[0]:
                return

    def _is_finished(self) -> bool:
        return is_finished(self._folder, self._config)

    def _terminate(self, *_: object) -> None:
        if self._child is None:
            sys.exit(TERMINATED)
        self._leave_by = time.monotonic() + LEAVE_SECONDS
        self._child.popen.terminate()


def take_own_cores(index: int, workers: int) -> None:
    """Keeps this process, and those that it starts, to one worker's share of the machine's cores.

    Else the workers' threads push each other from core to core. TensorFlow starts as many as it has cores.

    Args:
        index: of the worker.
        workers: on this machine. Where they are more than the cores, several share one.
    """
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        share = max(1, len(cores) // workers)
        os.sched_setaffinity(0, {cores[(index * share + i) % len(cores)] for i in range(share)})


def _free_port() -> int:
    # Another program may take it before TensorFlow does; then TensorFlow fails, and the agents meet again.
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def main() -> None:
    """Runs the agent that the arguments name, and exits with its status."""
    index, group = int(sys.argv[1]), WorkerGroup.from_json(sys.argv[2])
    if group.run.launcher == "local":
        end_with_parent()
        take_own_cores(index, group.run.workers)
    with reporting():
        sys.exit(Agent(index, group).run())


if __name__ == "__main__":
    main()
