"""Processes that end when the one that started them does."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from latentfaces.components.train.launch import PEER_LOST

_PR_SET_PDEATHSIG = 1  # Linux' prctl


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
    module: str,
    arguments: list[str],
    environment: dict[str, str],
    output: BinaryIO | None = None,
    wrapper: Sequence[str] = (),
) -> Process:
    """Starts a Python module that ends when this process does.

    Its standard input is a socket whose other end is here: `end_with_parent` there waits for it to close,
    and what is written to it there can be read from `link` here.

    Args:
        module: the module's full name.
        arguments: its arguments.
        environment: added to this process's.
        output: takes the place of standard output and error, if given.
        wrapper: a command that runs the rest of its arguments as a command in its own place.
    """
    link, theirs = socket.socketpair()
    with theirs:
        popen = subprocess.Popen(
            # -P: nothing is imported from the working directory, which may be a downloaded folder
            [*wrapper, sys.executable, "-P", "-m", module, *arguments],
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            stdin=theirs.fileno(),
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for the one who started it all
        )
    return Process(popen, link)


@contextlib.contextmanager
def on_signals(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Handles SIGTERM, SIGINT and SIGHUP, a closed terminal's, while the block runs in the main thread."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def end_with_parent() -> None:
    """Ends this process when the one that called `start` is gone."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os._exit(PEER_LOST)

    threading.Thread(target=wait, daemon=True).start()
    if sys.platform == "linux":  # the thread can't run while TensorFlow blocks in a call
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def out_of_memory_kills() -> int:
    """Returns how many processes of this container the kernel killed for want of memory; 0 where unknown."""
    for file in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        with contextlib.suppress(OSError):
            if found := re.search(r"^oom_kill (\d+)$", Path(file).read_text(), re.MULTILINE):
                return int(found[1])
    return 0


def ending(status: int) -> str:
    """Returns how a process ended, for a sentence: "was killed by SIGKILL" or "ended with status 3"."""
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
