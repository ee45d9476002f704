"""A gang: the worker processes that train one model together on this machine."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack

from components.step import QUIET, StepError
from preprocessing.errors import UserError


def run_gang(arguments: list[str], workers: int, gpus_per_worker: int) -> None:
    """Runs `python -m components.train.worker` in N processes that find each other through `TF_CONFIG`.

    The first worker, the chief, shares this process's output; what the others print is shown when one of
    them fails. When one ends badly the others, which would wait for it, are ended too.

    Args:
        arguments: of the program.
        workers: processes.
        gpus_per_worker: GPUs that each process sees, or 0 for all; on a machine without GPUs, nothing.

    Raises:
        UserError: if a worker said so, having told why.
        StepError: if a worker failed otherwise.
    """
    threads = max(1, (os.cpu_count() or 1) // workers)
    command = [sys.executable, "-m", "components.train.worker", *arguments, str(threads)]
    with ExitStack() as stack:
        addresses = [f"127.0.0.1:{port}" for port in _free_ports(workers)]
        processes: list[subprocess.Popen[bytes]] = []
        outputs = []
        stack.callback(_end, processes)
        for index in range(workers):
            environment = {**QUIET, **os.environ, "PYTHONUNBUFFERED": "1"}
            environment["TF_CONFIG"] = json.dumps(
                {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            )
            if gpus_per_worker:
                first = index * gpus_per_worker
                environment["CUDA_VISIBLE_DEVICES"] = ",".join(
                    map(str, range(first, first + gpus_per_worker))
                )
            output = stack.enter_context(tempfile.TemporaryFile())
            outputs.append(output)
            share = None if index == 0 else output
            processes.append(
                subprocess.Popen(command, env=environment, stdout=share, stderr=share, start_new_session=True)
            )
        index, status = _wait(processes)
        if status:
            outputs[index].seek(0)
            sys.stderr.write(outputs[index].read().decode(errors="replace"))
            name = signal.Signals(-status).name if status < 0 else f"exit status {status}"
            message = f"worker {index} of {workers} ended with {name}; what it said stands above"
            raise UserError(message) if status == 2 else StepError(message)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _wait(processes: list[subprocess.Popen[bytes]]) -> tuple[int, int]:
    """Waits until all have ended well or one has not; returns that one's index and exit status."""
    while True:
        statuses = [process.poll() for process in processes]
        for index, status in enumerate(statuses):
            if status:
                return index, status
        if None not in statuses:
            return 0, 0
        time.sleep(0.1)


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.kill()
    for process in processes:
        process.wait()
