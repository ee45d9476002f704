"""A gang: the workers that train one model together, and who starts them on one machine.

Every worker is two processes: a small member (`components.train.member`), which meets the others, and the
process with TensorFlow (`components.train.worker`), which the member starts and watches. Whoever starts the
members starts a dead one again: `run_gang` here, a Job on Kubernetes.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import BinaryIO

from components.step import QUIET, StepError
from preprocessing.errors import UserError

OWN_ERROR, USER_ERROR = 1, 2
PEER_LOST = 75  # EX_TEMPFAIL: try again
TERMINATED = 128 + signal.SIGTERM

LEAVE_SECONDS = 25  # to save a checkpoint after SIGTERM; Kubernetes' default grace period is 30


@dataclass(frozen=True)
class Gang:
    """What the members of a gang are told.

    Attributes:
        folder: the model folder, which holds the run's `config.json`.
        workers: how many there are.
        meeting: "host:port" where worker 0's member listens.
        log_steps: steps between two rows of the history.
        checkpoint_steps: steps between two checkpoints.
        checkpoint_minutes: minutes after which a checkpoint is written in between; 0 for never.
        max_restarts: how often the gang goes on from the last checkpoint before it gives up.
        rendezvous_seconds: how long the members wait for each other.
        stuck_seconds: without a step after which a worker counts as lost.
    """

    folder: str
    workers: int
    meeting: str = ""
    log_steps: int = 50
    checkpoint_steps: int = 1000
    checkpoint_minutes: float = 0.0
    max_restarts: int = 3
    rendezvous_seconds: float = 600.0
    stuck_seconds: float = 300.0

    def to_json(self) -> str:
        """Returns the argument of `components.train.member` and `components.train.worker`."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Gang:
        """Returns what `to_json` wrote."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Process:
    """A process that `start` started."""

    popen: subprocess.Popen[bytes]
    link: socket.socket

    def kill(self) -> None:
        """Ends it at once, if it has not ended, and lets its resources go."""
        self.popen.kill()
        self.popen.wait()
        self.link.close()


def start(arguments: list[str], environment: dict[str, str], output: BinaryIO | None) -> Process:
    """Starts a Python module that ends when this process does.

    Its standard input is a socket whose other end is here: `end_with_parent` there waits for it to close,
    and what is written to it there can be read from `link` here.

    Args:
        arguments: the module's name and its arguments.
        environment: added to this process's.
        output: takes the place of standard output and error, if given.
    """
    link, theirs = socket.socketpair()
    with theirs:
        popen = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            env={**QUIET, **os.environ, "PYTHONUNBUFFERED": "1", **environment},
            stdin=theirs,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for the one who started it all
        )
    return Process(popen, link)


def end_with_parent() -> None:
    """Ends this process when the one that called `start` is gone."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os._exit(PEER_LOST)

    threading.Thread(target=wait, daemon=True).start()


def ending(status: int) -> str:
    """Returns how a process ended, for a sentence: "was killed by SIGKILL" or "ended with status 3"."""
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


def run_gang(gang: Gang, gpus_per_worker: int) -> None:
    """Runs a gang on this machine until its model is trained, and starts members that die again.

    The first member shares this process's output; what the others print is shown when one of them fails.

    Args:
        gang: what to tell the members; the meeting is chosen here.
        gpus_per_worker: GPUs that each worker sees, or 0 for all; on a machine without GPUs, nothing.

    Raises:
        UserError: if a worker said so, having told why.
        StepError: if a worker failed otherwise, or members died too often.
        SystemExit: with status 143 after SIGTERM, when the workers have saved a checkpoint.
    """
    terminated = threading.Event()
    with ExitStack() as stack:
        # Bound but not listening, this socket keeps the port for worker 0's member, whichever that is.
        reserved = stack.enter_context(socket.socket())
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))
        gang = dataclasses.replace(gang, meeting=f"127.0.0.1:{reserved.getsockname()[1]}")
        outputs = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(gang.workers)]
        members: list[Process] = []
        stack.callback(lambda: [member.kill() for member in members])

        def start_member(index: int) -> Process:
            gpus = range(index * gpus_per_worker, (index + 1) * gpus_per_worker)
            return start(
                ["components.train.member", str(index), gang.to_json()],
                {"CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus))} if gpus else {},
                outputs[index] if index else None,
            )

        def terminate(*_: object) -> None:
            terminated.set()
            for member in members:
                member.popen.terminate()

        if threading.current_thread() is threading.main_thread():
            stack.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, terminate))
        for index in range(gang.workers):
            members.append(start_member(index))
        deaths = 0
        while any(statuses := [member.popen.poll() for member in members]) or None in statuses:
            failed = [index for index, status in enumerate(statuses) if status in (OWN_ERROR, USER_ERROR)]
            if failed:
                with suppress(subprocess.TimeoutExpired):  # all may fail alike, and the first tells it itself
                    statuses[0] = members[0].popen.wait(2)
                index = 0 if statuses[0] in (OWN_ERROR, USER_ERROR) else failed[0]
                _fail(index, gang.workers, statuses[index], outputs)
            for index, status in enumerate(statuses):
                if status and not terminated.is_set():
                    deaths += 1
                    if deaths > gang.max_restarts:
                        raise StepError(
                            f"worker {index}'s parent {ending(status)}, and was started again "
                            f"{gang.max_restarts} times before"
                        )
                    members[index].kill()
                    members[index] = start_member(index)
            if terminated.is_set() and None not in statuses:
                sys.exit(TERMINATED)
            time.sleep(0.1)


def _fail(index: int, workers: int, status: int, outputs: list[BinaryIO]) -> None:
    outputs[index].seek(0)
    sys.stderr.write(outputs[index].read().decode(errors="replace"))
    message = f"worker {index} of {workers} {ending(status)}; what it said stands above"
    raise UserError(message) if status == USER_ERROR else StepError(message)
