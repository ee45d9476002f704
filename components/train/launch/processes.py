"""Processes that end when the one that started them does."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import BinaryIO

from latentfaces.common.program import QUIET
from latentfaces.components.train.launch import PEER_LOST


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


def start(
    module: str, arguments: list[str], environment: dict[str, str], output: BinaryIO | None = None
) -> Process:
    """Starts a Python module that ends when this process does.

    Its standard input is a socket whose other end is here: `end_with_parent` there waits for it to close,
    and what is written to it there can be read from `link` here.

    Args:
        module: the module's full name.
        arguments: its arguments.
        environment: added to this process's.
        output: takes the place of standard output and error, if given.
    """
    link, theirs = socket.socketpair()
    with theirs:
        popen = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env={**QUIET, **os.environ, "PYTHONUNBUFFERED": "1", **environment},
            stdin=theirs.fileno(),
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
