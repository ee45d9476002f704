"""Launches a worker group as processes of this machine."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import BinaryIO

from latentfaces.common.config import RunOptions
from latentfaces.common.errors import RunError, UserError
from latentfaces.components.train.launch import OWN_ERROR, TERMINATED, USER_ERROR, WorkerGroup
from latentfaces.components.train.launch.processes import Process, ending, start


def launch(folder: str, run: RunOptions) -> None:
    """Runs a worker group on this machine until its model is trained, and starts agents that die again.

    The first agent shares this process's output; what the others print is shown when one of them fails. Each
    worker sees `run.gpus_per_worker` GPUs of its own, or with 0 all.

    Args:
        folder: the model folder, which holds the run's `config.json`.
        run: how the model is trained.

    Raises:
        UserError: if a worker said so, having told why.
        RunError: if a worker failed otherwise, or agents died too often.
        SystemExit: with status 143 after SIGTERM, when the workers have saved a checkpoint.
    """
    terminated = threading.Event()
    with ExitStack() as stack:
        # Bound but not listening, this socket keeps the port for worker 0's agent, whichever that is.
        reserved = stack.enter_context(socket.socket())
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))
        group = WorkerGroup(folder=folder, rendezvous=f"127.0.0.1:{reserved.getsockname()[1]}", run=run)
        outputs = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(run.workers)]
        agents: list[Process] = []

        def kill_all() -> None:
            for agent in agents:
                agent.kill()

        stack.callback(kill_all)

        def start_agent(index: int) -> Process:
            gpus = range(index * run.gpus_per_worker, (index + 1) * run.gpus_per_worker)
            return start(
                "latentfaces.components.train.launch.agent",
                [str(index), group.to_json()],
                {"CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus))} if gpus else {},
                outputs[index] if index else None,
            )

        def terminate(*_: object) -> None:
            terminated.set()
            for agent in agents:
                agent.popen.terminate()

        if threading.current_thread() is threading.main_thread():
            stack.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, terminate))
        for index in range(run.workers):
            agents.append(start_agent(index))
        deaths = 0
        while any(statuses := [agent.popen.poll() for agent in agents]) or None in statuses:
            failed = [index for index, status in enumerate(statuses) if status in (OWN_ERROR, USER_ERROR)]
            if failed:
                with suppress(subprocess.TimeoutExpired):  # all may fail alike, and the first tells it itself
                    statuses[0] = agents[0].popen.wait(2)
                index = 0 if statuses[0] in (OWN_ERROR, USER_ERROR) else failed[0]
                _fail(index, run.workers, statuses[index] or OWN_ERROR, outputs)
            for index, status in enumerate(statuses):
                if status and not terminated.is_set():
                    deaths += 1
                    if deaths > run.max_restarts:
                        raise RunError(
                            f"worker {index}'s parent {ending(status)}, and was started again "
                            f"{run.max_restarts} times before"
                        )
                    agents[index].kill()
                    agents[index] = start_agent(index)
            if terminated.is_set() and None not in statuses:
                sys.exit(TERMINATED)
            time.sleep(0.1)


def _fail(index: int, workers: int, status: int, outputs: Sequence[BinaryIO]) -> None:
    outputs[index].seek(0)
    sys.stderr.write(outputs[index].read().decode(errors="replace"))
    message = f"worker {index} of {workers} {ending(status)}; what it said stands above"
    raise UserError(message) if status == USER_ERROR else RunError(message)
