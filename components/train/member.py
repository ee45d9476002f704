"""The small parent of one worker: `python -m components.train.member INDEX GANG`.

It meets the other members, starts TensorFlow as a child that finds its peers through `TF_CONFIG`, and watches
it. When a worker is lost, wherever it is, the members end their children, which would wait for it, meet
again, and go on from the last checkpoint. On Kubernetes this is the pod's program.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import stat
import sys
import time

from components.step import reporting
from components.train.config import TrainConfig
from components.train.gang import (
    LEAVE_SECONDS,
    OWN_ERROR,
    PEER_LOST,
    TERMINATED,
    USER_ERROR,
    Gang,
    Process,
    end_with_parent,
    ending,
    start,
)
from components.train.rendezvous import Meeting, meet
from components.train.run import is_finished
from preprocessing import storage

_FIRST_STEP_SECONDS = 600.0  # TensorFlow's start, fetching shards, tracing and compiling


class Member:
    """Runs one worker of a gang until the model is trained.

    Args:
        index: of the worker.
        gang: that it belongs to.
    """

    def __init__(self, index: int, gang: Gang) -> None:
        self._index = index
        self._gang = gang
        self._folder = storage.resolve(gang.folder)
        self._config = TrainConfig.from_json((self._folder / "config.json").read_text())
        self._child: Process | None = None
        self._leave_by = float("inf")
        signal.signal(signal.SIGTERM, self._terminate)

    def run(self) -> int:
        """Returns the exit status: 0 trained, 1 an error of ours, 2 the user's, 143 after SIGTERM.

        Raises:
            StepError: if the members can't meet, or have met too often.
        """
        gang, attempt, reason = self._gang, 0, ""
        if self._index == 0:
            Meeting(
                gang.meeting, gang.workers, max_restarts=gang.max_restarts, seconds=gang.rendezvous_seconds
            ).start()
        while not self._is_finished():
            connection, attempt, addresses = meet(
                gang.meeting,
                self._index,
                _free_port(),
                attempt=attempt,
                reason=reason,
                seconds=gang.rendezvous_seconds,
            )
            with connection:
                task = {"type": "worker", "index": self._index}
                tf_config = json.dumps({"cluster": {"worker": addresses}, "task": task})
                self._child = start(
                    ["components.train.worker", gang.to_json()], {"TF_CONFIG": tf_config}, None
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
        stuck_by = time.monotonic() + max(_FIRST_STEP_SECONDS, self._gang.stuck_seconds)
        while True:
            ready, _, _ = select.select([child.link, connection], [], [], 1.0)
            now = time.monotonic()
            if child.link in ready:
                if not child.link.recv(1 << 16):
                    break
                stuck_by = now + self._gang.stuck_seconds
            if connection in ready or now > self._leave_by:
                return PEER_LOST, ""
            if now > stuck_by:
                return PEER_LOST, f"worker {self._index} made no step for {self._gang.stuck_seconds:.0f} s"
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
    # Another program may take it before TensorFlow does; then TensorFlow fails, and the members meet again.
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def main() -> None:
    """Runs the member that the arguments name, and exits with its status."""
    index, gang = int(sys.argv[1]), Gang.from_json(sys.argv[2])
    if stat.S_ISSOCK(os.fstat(0).st_mode):  # started by `run_gang`, not by a pod
        end_with_parent()
        take_own_cores(index, gang.workers)
    with reporting():
        sys.exit(Member(index, gang).run())


if __name__ == "__main__":
    main()
