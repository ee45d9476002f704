"""Where the agents of a group meet before TensorFlow starts, and how each learns at once that one is lost.

Worker 0's agent listens. Every agent connects and tells its index and a free port; when all are there
each is answered with the attempt's number and everyone's addresses, as the connections showed them. The
connections stay open: one that closes, or an agent that comes again, ends the attempt for all.

What is counted are attempts that failed with all agents alive. One that ended because an agent was lost is
not: who starts the agents counts those, and knows which of them had to leave a node.

Messages are lines: a proof that the sender knows the group's token, and JSON. The proof is an HMAC over that
and a number that the other side chose for this connection, so that nothing can be forged or replayed. What a
stranger sends is not looked into, and no one is waited for: all connections are read as their bytes come.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import logging
import os
import secrets
import select
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from latentfaces.common.errors import RunError
from latentfaces.components.train.launch import ADDRESS

logger = logging.getLogger(__name__)

PATIENCE = 5.0  # seconds for one who connects to say who it is, and for an answer to be taken
_LINE = 1 << 16  # bytes of the longest message
_TELLING = 60.0  # seconds between two lines about strangers
_STRANGERS = 64  # connections that have not proved anything yet; beyond these the oldest is closed


def meet(
    rendezvous: str, index: int, port: int, *, attempt: int, reason: str, seconds: float, token: str
) -> tuple[socket.socket, int, list[str]]:
    """Goes to the rendezvous and waits until all are there.

    Args:
        rendezvous: "host:port" of worker 0's agent.
        index: of this worker.
        port: where this worker's TensorFlow is going to listen.
        attempt: the last attempt that this agent took part in; 0 for an agent that has just started.
        reason: why that attempt ended, as far as this agent knows; else "".
        seconds: deadline.
        token: the group's secret.

    Returns:
        The connection, whose end is the end of the attempt; the attempt's number, from 1, which is the same
        again after an agent was lost; all workers' "address:port" in the order of their indices.

    Raises:
        RunError: if the rendezvous can't be reached, if not all came in time, or if the group gives up.
    """
    host, _, rendezvous_port = rendezvous.rpartition(":")
    nonce = secrets.token_hex(16)
    hello = {"index": index, "port": port, "attempt": attempt, "reason": reason, "nonce": nonce}
    deadline = time.monotonic() + seconds + PATIENCE  # the rendezvous' own deadline comes first
    while True:
        with contextlib.ExitStack() as stack:
            try:
                connection = stack.enter_context(
                    socket.create_connection((host, int(rendezvous_port)), PATIENCE)
                )
                challenge = _read_line(connection, time.monotonic() + PATIENCE).decode()
                connection.sendall(_sealed(token, challenge, hello))
                answer = _opened(token, nonce, _read_line(connection, deadline))
                if "error" in answer:
                    raise RunError(answer["error"])
                connection.settimeout(None)
                stack.pop_all()
                return connection, answer["attempt"], answer["addresses"]
            except (
                OSError,
                ValueError,
            ):  # worker 0 is not there yet, went away meanwhile, or is someone else
                if time.monotonic() > deadline:
                    raise RunError(
                        f"worker {index} could not meet the others: worker 0 at {rendezvous} did not answer "
                        f"within {seconds:.0f} s"
                    ) from None
        time.sleep(0.2)


@dataclass
class _Guest:
    """A connection: a stranger until its message is proved, then an agent."""

    connection: socket.socket
    address: str
    challenge: str = field(default_factory=lambda: secrets.token_hex(16))
    nonce: str = ""
    attempt: int = 0
    received: bytes = b""
    leaves_at: float = field(default_factory=lambda: time.monotonic() + PATIENCE)


class Rendezvous(threading.Thread):
    """The listening side, in worker 0's agent, for as long as that lives.

    Args:
        rendezvous: "host:port" to listen on.
        workers: agents to wait for.
        max_restarts: how often the group may meet again for another reason than that an agent was lost.
        seconds: deadline for the last to come.
        token: the group's secret.
    """

    def __init__(self, rendezvous: str, workers: int, max_restarts: int, seconds: float, token: str) -> None:
        super().__init__(daemon=True)
        host, _, port = rendezvous.rpartition(":")
        # A pod's own name may not be known yet when it starts
        where = host if host == "127.0.0.1" else os.environ.get(ADDRESS, "")
        family = socket.AF_INET6 if ":" in where else socket.AF_INET
        self._listener = socket.create_server((where, int(port)), family=family, reuse_port=True)
        self._listener.setblocking(False)
        self._workers = workers
        self._max_restarts = max_restarts
        self._seconds = seconds
        self._token = token
        self._strangers: list[_Guest] = []
        self._present: dict[int, _Guest] = {}
        self._attempt = 0
        self._lost = 0  # the worker whose connection closed first
        self._reason = ""  # what the first that knew more said
        self._sent_away, self._tell_at = 0, 0.0

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
        if self._attempt and any(agent.attempt < self._attempt for agent in self._present.values()):
            logger.warning("%s: all go on from the last checkpoint", reason)
        elif self._attempt > self._max_restarts:
            return {"error": f"{reason}; after {self._max_restarts} restarts the workers give up"}
        else:
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
                agent.connection.settimeout(PATIENCE)
                agent.connection.sendall(_sealed(self._token, agent.nonce, message))

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
        now = time.monotonic()
        for guest in [each for each in self._strangers if each.leaves_at < now]:
            self._send_away(guest, "it did not say who it is")
        strangers = {guest.connection: guest for guest in self._strangers}
        agents = {agent.connection: index for index, agent in self._present.items()}
        ready, _, _ = select.select([self._listener, *strangers, *agents], [], [], 1.0)
        for connection in ready:
            if connection in agents:  # agents say nothing more: it was closed
                self._present.pop(agents[connection]).connection.close()
            elif connection in strangers:
                self._listen_to(strangers[connection])
        if self._listener in ready:
            self._let_in()

    def _let_in(self) -> None:
        with contextlib.suppress(OSError):  # gone already
            connection, (address, *_) = self._listener.accept()
            connection.setblocking(False)
            guest = _Guest(connection, address)
            connection.send(guest.challenge.encode() + b"\n")
            self._strangers.append(guest)
        if len(self._strangers) > _STRANGERS:
            self._send_away(self._strangers[0], "too many come at once")

    def _listen_to(self, guest: _Guest) -> None:
        try:
            received = guest.connection.recv(_LINE)
            guest.received += received
            if b"\n" not in guest.received:
                if not received or len(guest.received) > _LINE:
                    raise ValueError("its message has no end")
                return
            hello = _opened(self._token, guest.challenge, guest.received)
        except (OSError, ValueError) as error:
            self._send_away(guest, str(error))
            return
        self._strangers.remove(guest)
        index, guest.nonce, guest.attempt = hello["index"], hello["nonce"], hello["attempt"]
        host = f"[{guest.address}]" if ":" in guest.address else guest.address
        guest.address = f"{host}:{hello['port']}"
        if index in self._present:
            self._present[index].connection.close()
        self._present[index] = guest
        self._attempt = max(self._attempt, guest.attempt)  # others remember when worker 0 was the one lost
        self._reason = self._reason or hello["reason"]

    def _send_away(self, guest: _Guest, why: str) -> None:
        self._sent_away += 1
        if time.monotonic() >= self._tell_at:  # strangers must not fill the log
            logger.warning(
                "%d came to the rendezvous by mistake, the last from %s: %s",
                self._sent_away,
                guest.address,
                why,
            )
            self._sent_away, self._tell_at = 0, time.monotonic() + _TELLING
        self._strangers.remove(guest)
        guest.connection.close()


def _proof(token: str, challenge: str, content: bytes) -> bytes:
    return hmac.digest(token.encode(), challenge.encode() + b"\n" + content, "sha256").hex().encode()


def _sealed(token: str, challenge: str, message: dict[str, Any]) -> bytes:
    """Returns a message as a line with the proof that it is from one of the group, for this connection."""
    content = json.dumps(message).encode()
    return _proof(token, challenge, content) + b" " + content + b"\n"


def _opened(token: str, challenge: str, line: bytes) -> dict[str, Any]:
    """Returns the message in a line.

    Raises:
        ValueError: if it is not from one of the group.
    """
    proof, _, content = line.rstrip(b"\n").partition(b" ")
    if not hmac.compare_digest(proof, _proof(token, challenge, content)):
        raise ValueError("it does not know the group's token")
    message: dict[str, Any] = json.loads(content)
    return message


def _read_line(connection: socket.socket, deadline: float) -> bytes:
    """Reads up to the end of a line.

    Raises:
        OSError: if the connection breaks or the deadline passes.
    """
    line = b""
    while not line.endswith(b"\n"):
        connection.settimeout(max(0.01, deadline - time.monotonic()))
        received = connection.recv(_LINE)
        line += received
        if not received or len(line) > _LINE:
            raise ConnectionError("no whole line came")
    return line.rstrip(b"\n")
