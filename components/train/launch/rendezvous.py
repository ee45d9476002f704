"""Where the agents of a group meet before TensorFlow starts, and how each learns at once that one is lost.

Worker 0's agent listens. Every agent connects and tells its index and a free port; when all are there
each is answered with the attempt's number and everyone's addresses, as the connections showed them. The
connections stay open: one that closes, or an agent that comes again, ends the attempt for all.
Messages are lines of JSON.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import socket
import threading
import time
from typing import Any, NamedTuple

from latentfaces.common.errors import RunError

logger = logging.getLogger("latentfaces")

_LINE = 1 << 16  # the longest message
PATIENCE = 5.0  # seconds for one message or one connection


def meet(
    rendezvous: str, index: int, port: int, *, attempt: int, reason: str, seconds: float
) -> tuple[socket.socket, int, list[str]]:
    """Goes to the rendezvous and waits until all are there.

    Args:
        rendezvous: "host:port" of worker 0's agent.
        index: of this worker.
        port: where this worker's TensorFlow is going to listen.
        attempt: the last attempt that this agent took part in, or 0.
        reason: why that attempt ended, as far as this agent knows; else "".
        seconds: deadline.

    Returns:
        The connection, whose end is the end of the attempt; the attempt's number, from 1; all workers'
        "address:port" in the order of their indices.

    Raises:
        RunError: if the rendezvous can't be reached, if not all came in time, or if the group gives up.
    """
    host, _, rendezvous_port = rendezvous.rpartition(":")
    hello = {"index": index, "port": port, "attempt": attempt, "reason": reason}
    deadline = time.monotonic() + seconds + PATIENCE  # the rendezvous' own deadline comes first
    while True:
        try:
            connection = socket.create_connection((host, int(rendezvous_port)), PATIENCE)
            connection.settimeout(max(PATIENCE, deadline - time.monotonic()))
            _send(connection, hello)
            answer = _receive(connection)
            if "error" in answer:
                raise RunError(answer["error"])
            connection.settimeout(None)
            return connection, answer["attempt"], answer["addresses"]
        except (OSError, ValueError):  # worker 0 is not there yet, or went away meanwhile
            if time.monotonic() > deadline:
                raise RunError(
                    f"worker {index} could not meet the others: worker 0 at {rendezvous} did not answer "
                    f"within {seconds:.0f} s"
                ) from None
        time.sleep(0.2)


class _Present(NamedTuple):
    connection: socket.socket
    address: str


class Rendezvous(threading.Thread):
    """The listening side, in worker 0's agent, for as long as that lives.

    Args:
        rendezvous: "host:port" to listen on.
        workers: agents to wait for.
        max_restarts: how often the group may meet again.
        seconds: deadline for the last to come.
    """

    def __init__(self, rendezvous: str, workers: int, *, max_restarts: int, seconds: float) -> None:
        super().__init__(daemon=True)
        host, _, port = rendezvous.rpartition(":")
        # A pod's own name may not be known yet when it starts, so there we listen on all addresses.
        where = (host if host == "127.0.0.1" else "", int(port))
        self._listener = socket.create_server(where, reuse_port=True)
        self._workers = workers
        self._max_restarts = max_restarts
        self._seconds = seconds
        self._present: dict[int, _Present] = {}
        self._attempt = 0
        self._lost = 0  # the worker whose connection closed first
        self._reason = ""  # what the first that knew more said

    def run(self) -> None:
        """Gathers the agents, again whenever one is lost."""
        try:
            while True:
                self._answer(self._gather())
                self._watch()
        except BaseException:
            logger.exception("the rendezvous failed")
            os._exit(1)  # or all would wait for it

    def _gather(self) -> dict[str, Any]:
        """Waits until all are there, or for the deadline; returns what they are to be told."""
        deadline = time.monotonic() + self._seconds
        while len(self._present) < self._workers:
            missing = ", ".join(str(index) for index in range(self._workers) if index not in self._present)
            if time.monotonic() > deadline:
                return {
                    "error": f"of {self._workers} workers, these did not come within {self._seconds:.0f} s: "
                    f"{missing}"
                }
            self._wait()
        reason = self._reason or f"worker {self._lost} was lost"
        if self._attempt > self._max_restarts:
            return {"error": f"{reason}; after {self._max_restarts} restarts the workers give up"}
        if self._attempt:
            logger.warning(
                "%s: all go on from the last checkpoint, restart %d of at most %d",
                reason,
                self._attempt,
                self._max_restarts,
            )
        self._attempt += 1
        self._reason = ""
        addresses = [self._present[index].address for index in range(self._workers)]
        return {"attempt": self._attempt, "addresses": addresses}

    def _answer(self, message: dict[str, Any]) -> None:
        for agent in self._present.values():
            with contextlib.suppress(OSError):  # one that is gone is noticed by `_watch`
                _send(agent.connection, message)

    def _watch(self) -> None:
        """Waits until the attempt is over, which closing the connections tells all."""
        attempt = dict(self._present)
        while self._present == attempt:
            self._wait()
        self._lost = next(index for index in attempt if self._present.get(index) is not attempt[index])
        for index, agent in attempt.items():
            if self._present.get(index) is agent:
                self._present.pop(index)
            agent.connection.close()

    def _wait(self) -> None:
        """Waits up to a second for agents that come or leave."""
        connections = {agent.connection: index for index, agent in self._present.items()}
        ready, _, _ = select.select([self._listener, *connections], [], [], 1.0)
        for connection in ready:
            if connection in connections:  # agents say nothing more: it was closed
                self._present.pop(connections[connection]).connection.close()
        if self._listener in ready:
            self._admit()

    def _admit(self) -> None:
        connection, (address, *_) = self._listener.accept()
        try:
            connection.settimeout(PATIENCE)
            hello = _receive(connection)
            index, port, attempt = (int(hello[name]) for name in ("index", "port", "attempt"))
            if not 0 <= index < self._workers:
                raise ValueError(f"there is no worker {index}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("someone at %s came to the rendezvous by mistake (%s)", address, error)
            connection.close()
            return
        if index in self._present:
            self._present[index].connection.close()
        self._present[index] = _Present(connection, f"{address}:{port}")
        self._attempt = max(self._attempt, attempt)  # others remember when worker 0 was the one lost
        self._reason = self._reason or str(hello.get("reason", ""))


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


def _receive(connection: socket.socket) -> dict[str, Any]:
    with connection.makefile("rb") as file:
        message = json.loads(file.readline(_LINE))
    if not isinstance(message, dict):
        raise ValueError("not a message of ours")
    return message
