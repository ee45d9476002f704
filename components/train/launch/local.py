"""Launches a worker group as processes of this machine."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO

from latentfaces.common import storage
from latentfaces.common.config import RunOptions
from latentfaces.common.errors import RunError, UserError
from latentfaces.common.model_folder import read_config
from latentfaces.common.pods import PodOptions
from latentfaces.common.program import LAST_WORDS
from latentfaces.components.train.launch import (
    INTERRUPTED,
    OWN_ERROR,
    TERMINATED,
    TOKEN,
    USER_ERROR,
    WorkerGroup,
)
from latentfaces.components.train.launch.isolation import loopback_network
from latentfaces.components.train.launch.processes import Process, ending, on_signals, start

logger = logging.getLogger(__name__)


def launch(
    folder: str, run: RunOptions, pods: PodOptions, check: Callable[[], object] = lambda: None
) -> None:
    """Runs a worker group on this machine until its model is trained, and starts agents that die again.

    The first agent shares this process's output; what the others print is shown when one of them fails. Each
    worker sees `run.gpus_per_worker` GPUs of its own, or with 0 all. Where data set and model folder are
    local, several workers have a network of their own, if this machine lets them.

    Args:
        folder: the model folder, which holds the run's `config.json`.
        run: how the model is trained.
        pods: of no use here.
        check: called now and then; what it raises ends the group at once.

    Raises:
        UserError: if a worker said so, having told why.
        RunError: if a worker failed otherwise, or agents died too often.
        SystemExit: with status 143 after SIGTERM, 130 after Ctrl-C, when the workers have saved a checkpoint.
    """
    leave_with = 0
    with ExitStack() as stack:
        wrapper = stack.enter_context(loopback_network()) if _is_alone(folder, run) else None
        if run.workers > 1 and wrapper is None:
            logger.warning(
                "TensorFlow's servers of the %d workers listen on all addresses of this machine and obey "
                "anyone: train so only where no stranger can reach it",
                run.workers,
            )
        # Bound but not listening, this socket keeps the port for worker 0's agent, whichever that is.
        reserved = stack.enter_context(socket.socket())
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))
        group = WorkerGroup(folder=folder, rendezvous=f"127.0.0.1:{reserved.getsockname()[1]}", run=run)
        token = secrets.token_hex(32)
        outputs = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(run.workers)]
        last_words = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "words"
        agents: list[Process] = []

        def kill_all() -> None:
            for agent in agents:
                agent.kill()

        stack.callback(kill_all)

        visible = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]

        def start_agent(index: int) -> Process:
            first, last = (each * run.gpus_per_worker for each in (index, index + 1))
            gpus = visible[first:last] if visible else map(str, range(first, last))
            return start(
                "latentfaces.components.train.launch.agent",
                [str(index), group.to_json()],
                {
                    TOKEN: token,
                    LAST_WORDS: f"{last_words}{index}",
                    **({"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if run.gpus_per_worker else {}),
                },
                outputs[index] if index else None,
                wrapper or [],
            )

        def leave(number: int, _: object) -> None:
            nonlocal leave_with
            if leave_with:  # asked twice
                sys.exit(leave_with)
            leave_with = INTERRUPTED if number == signal.SIGINT else TERMINATED

        stack.enter_context(on_signals(leave))
        for index in range(run.workers):
            agents.append(start_agent(index))
        told: set[int] = set()  # process ids of those that were asked to leave
        deaths = 0
        while any(statuses := [agent.popen.poll() for agent in agents]) or None in statuses:
            failed = [index for index, status in enumerate(statuses) if status in (OWN_ERROR, USER_ERROR)]
            if failed:
                with suppress(subprocess.TimeoutExpired):  # all may fail alike, and the first tells it itself
                    statuses[0] = agents[0].popen.wait(2)
                index = 0 if statuses[0] in (OWN_ERROR, USER_ERROR) else failed[0]
                _fail(
                    index,
                    run.workers,
                    statuses[index] or OWN_ERROR,
                    outputs[index],
                    Path(f"{last_words}{index}"),
                )
            for agent in agents if leave_with else ():
                if agent.popen.pid not in told:
                    told.add(agent.popen.pid)
                    agent.popen.terminate()
            for index, status in enumerate(statuses):
                if status and not leave_with:
                    deaths += 1
                    if deaths > run.max_restarts:
                        raise RunError(
                            f"worker {index}'s agent {ending(status)}, and was started again "
                            f"{run.max_restarts} times before"
                        )
                    agents[index].kill()
                    agents[index] = start_agent(index)
            check()
            if leave_with and None not in statuses:
                sys.exit(leave_with)
            time.sleep(0.1)


def _is_alone(folder: str, run: RunOptions) -> bool:
    """Whether several workers need nothing but one another and this machine's files."""
    place = storage.resolve(folder)
    config = read_config(place)  # whose `initial_run` may be a folder in a bucket
    places = (place, *(storage.resolve(each) for each in (config.dataset, config.initial_run)))
    return run.workers > 1 and all(isinstance(each, Path) for each in places)


def _fail(index: int, workers: int, status: int, output: BinaryIO, last_words: Path) -> None:
    output.seek(0)
    sys.stderr.write(output.read().decode(errors="replace"))
    said = f"{ending(status)}; what it said stands above"
    if last_words.exists():
        said = last_words.read_text().partition(" ")[2]
    message = f"worker {index} of {workers}: {said}"
    raise UserError(message) if status == USER_ERROR else RunError(message)
