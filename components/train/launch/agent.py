"""The small parent of one worker: `python -m latentfaces.components.train.launch.agent INDEX GROUP`.

It meets the other agents, starts TensorFlow as a child that finds its peers through `TF_CONFIG`, and watches
it. When a worker is lost, wherever it is, the agents end their children, which would wait for it, meet
again, and go on from the last checkpoint.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from latentfaces.common import storage
from latentfaces.common.errors import RunError
from latentfaces.common.model_folder import is_finished, read_config
from latentfaces.common.program import reporting
from latentfaces.components.train.launch import (
    INTERRUPTED,
    LEAVE_SECONDS,
    OWN_ERROR,
    PEER_LOST,
    TERMINATED,
    TOKEN,
    USER_ERROR,
    WorkerGroup,
)
from latentfaces.components.train.launch.processes import (
    Process,
    end_with_parent,
    ending,
    on_signals,
    out_of_memory_kills,
    start,
)
from latentfaces.components.train.launch.rendezvous import Rendezvous, meet
from latentfaces.components.train.launch.tf_config import Task

logger = logging.getLogger(__name__)

_SILENT_SECONDS = 30.0  # after which a chief that nobody hears of is lost
_IMPORT_SECONDS = 60.0  # until TensorFlow looks for its peers
_FIRST_STEP_SECONDS = 600.0  # fetching shards, tracing and compiling


class Agent:
    """Runs one worker of a group until the model is trained.

    Args:
        index: of the worker.
        group: that it belongs to.
        task: the worker that someone else's `TF_CONFIG` names; the group is then theirs to start again.
        check: called now and then; what it raises ends the child at once.
    """

    def __init__(
        self,
        index: int,
        group: WorkerGroup,
        task: Task | None = None,
        check: Callable[[], object] = lambda: None,
    ) -> None:
        self._index = index
        self._group = group
        self._task = task
        self._check = check
        self._folder = storage.resolve(group.folder)
        self._config = read_config(self._folder)
        self._child: Process | None = None
        self._trains = False  # before that, TensorFlow may wait for its peers, deaf, and has nothing to save
        self._attempt, self._reason = 0, ""
        self._leave_by, self._leave_with = float("inf"), TERMINATED

    def run(self) -> int:
        """Returns the exit status: 0 trained, 1 our error, 2 the user's, 75 peer lost, 143 or 130 on request.

        Raises:
            RunError: if the agents can't meet, or have met too often.
        """
        with on_signals(self._terminate):
            return self._run()

    def _run(self) -> int:
        run = self._group.run
        if self._index == 0 and run.workers > 1 and not self._task:
            token = os.environ[TOKEN]
            Rendezvous(
                self._group.rendezvous, run.workers, run.max_restarts, run.rendezvous_seconds, token
            ).start()
        while not self._is_finished():
            # Whatever becomes of the child, its temporary files go.
            with self._meeting() as (connection, environment), tempfile.TemporaryDirectory() as scratch:
                kills = out_of_memory_kills()
                self._child = start(
                    "latentfaces.components.train.launch.worker",
                    [self._group.to_json()],
                    # Its servers can be asked for its environment: the secret is not for it. The only worker
                    # of a TF_CONFIG is none, and opens no server.
                    {
                        TOKEN: "",
                        "TMPDIR": scratch,
                        **({"TF_CONFIG": "{}"} if self._is_alone else {}),
                        **environment,
                    },
                )
                try:
                    status, self._reason = self._watch(self._child, connection)
                    if status == -signal.SIGKILL and out_of_memory_kills() > kills:
                        self._reason += ", since the memory is full: --memory gives a pod more"
                finally:
                    self._child.kill()
                    self._child = None
            if status in (OWN_ERROR, USER_ERROR):
                return status
            if self._leave_by < float("inf") and not self._is_finished():
                return self._leave_with
            if self._task and status:
                logger.error("%s: start all workers again", self._reason)
                return PEER_LOST
        return 0

    @contextmanager
    def _meeting(self) -> Iterator[tuple[socket.socket | None, dict[str, str]]]:
        """Meets the other agents, if there are any of ours.

        Yields:
            The connection whose end is the end of the attempt, and what the child's environment is to have.
        """
        run = self._group.run
        if self._task:
            if len(self._task.addresses) > 1:
                logger.info("waiting for the workers at %s", ", ".join(self._task.addresses))
            yield None, _without_proxy(self._task.addresses)
        elif run.workers == 1:
            if self._attempt > run.max_restarts:
                raise RunError(f"{self._reason}; after {run.max_restarts} restarts the worker gives up")
            if self._attempt:
                logger.warning(
                    "%s: it goes on from the last checkpoint, restart %d of at most %d",
                    self._reason,
                    self._attempt,
                    run.max_restarts,
                )
            self._attempt += 1
            yield None, {}  # without TF_CONFIG, TensorFlow opens no server
        else:
            connection, self._attempt, addresses = meet(
                self._group.rendezvous,
                self._index,
                _free_port(),
                attempt=self._attempt,
                reason=self._reason,
                seconds=run.rendezvous_seconds,
                token=os.environ[TOKEN],
            )
            task = {"type": "worker", "index": self._index}
            tf_config = json.dumps({"cluster": {"worker": addresses}, "task": task})
            with connection:
                yield connection, {"TF_CONFIG": tf_config, **_without_proxy(addresses)}

    def _watch(self, child: Process, connection: socket.socket | None) -> tuple[int, str]:
        """Waits until the child has ended, is stuck, or the attempt is over.

        The child tells that its peers are there, and then each round of steps.

        Returns:
            The child's exit status, or "peer lost" where it has none, and what to tell the others.
        """
        run = self._group.run
        stages = [
            (run.rendezvous_seconds + _IMPORT_SECONDS, "did not find its peers"),
            (max(_FIRST_STEP_SECONDS, run.stuck_seconds), "made no step"),
            (run.stuck_seconds, "made no step"),
        ]
        patience, failing = stages.pop(0)
        stuck_by = time.monotonic() + patience
        self._trains = False
        others = [connection] if connection else []
        while True:
            ready, _, _ = select.select([child.link, *others], [], [], 1.0)
            now = time.monotonic()
            self._check()
            if child.link in ready:
                if not child.link.recv(1 << 16):
                    break
                self._trains = True
                if stages:
                    patience, failing = stages.pop(0)
                stuck_by = now + patience
            if connection in ready or now > self._leave_by:
                return PEER_LOST, ""
            if now > stuck_by:
                return PEER_LOST, f"worker {self._index} {failing} for {patience:.0f} s{self._missing()}"
        status = child.popen.wait()
        if status == 0 and self._is_chief_lost(connection):
            return PEER_LOST, "the chief ended before it had saved the networks"
        if status == PEER_LOST:
            return status, f"worker {self._index} lost a peer"
        return status, f"worker {self._index}'s process {ending(status)}" if status else ""

    def _missing(self) -> str:
        """Who of someone else's group can't be reached, for a sentence."""
        silent = _silent(self._task.addresses if self._task else ())
        return f" (no answer from {', '.join(silent)})" if silent else ""

    def _is_chief_lost(self, connection: socket.socket | None) -> bool:
        """Waits until the chief has saved the networks too, or the attempt is over.

        Returns:
            Whether the chief has ended without: in someone else's group no connection tells.
        """
        heard = time.monotonic()
        while not self._is_finished() and time.monotonic() < self._leave_by:
            if select.select([connection] if connection else [], [], [], 1.0)[0]:
                return False
            if not self._task or not _silent(self._task.addresses[:1]):
                heard = time.monotonic()
            elif time.monotonic() - heard > _SILENT_SECONDS:
                return not self._is_finished()
        return False

    @property
    def _is_alone(self) -> bool:
        return len(self._task.addresses) == 1 if self._task else self._group.run.workers == 1

    def _is_finished(self) -> bool:
        return is_finished(self._folder, self._config)

    def _terminate(self, number: int, _: object) -> None:
        self._leave_with = INTERRUPTED if number == signal.SIGINT else TERMINATED
        if self._child is None or self._leave_by < float("inf"):  # asked twice
            sys.exit(self._leave_with)
        self._leave_by = time.monotonic() + (LEAVE_SECONDS if self._trains else 0)
        self._child.popen.terminate()


def _silent(addresses: Iterable[str]) -> list[str]:
    """Returns those of "host:port" where nobody answers."""
    silent = []
    for address in addresses:
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), 2).close()
        except OSError:
            silent.append(address)
    return silent


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


def _without_proxy(addresses: tuple[str, ...] | list[str]) -> dict[str, str]:
    """What keeps gRPC's traffic to the workers away from a proxy in the environment."""
    hosts = (address.rpartition(":")[0] for address in addresses)
    return {"no_grpc_proxy": ",".join([*hosts, os.environ.get("no_proxy", "")])}


def main() -> None:
    """Runs the agent that the arguments name, and exits with its status."""
    index, group = int(sys.argv[1]), WorkerGroup.from_json(sys.argv[2])
    if group.run.launcher == "local":
        end_with_parent()
        take_own_cores(index, group.run.workers)
    with reporting():
        sys.exit(Agent(index, group).run())


if __name__ == "__main__":
    from latentfaces.components.train.launch import agent  # under its own name, which its logger has

    agent.main()
