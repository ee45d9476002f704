"""A folder that one process has for itself: no two write there, and what a dead one left can be told.

On a file system it is a lock that the kernel drops when the process ends, however it ends. In a bucket it is
an object that its holder writes anew every few seconds, always on the condition that no one else has written
it since; one that has not been renewed for a minute is a dead process's. The service's clock decides, on
both sides of the comparison, so nobody's own clock has to be right.

In a bucket, a process that was stopped for longer than that minute has lost its claim and does not know it
yet. What must not happen twice is therefore also written with a condition of its own: `storage.replace`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from cloudpathlib import GSPath
from google.api_core import exceptions as google_exceptions

from latentfaces.common import storage
from latentfaces.common.errors import RunError, UserError
from latentfaces.common.storage import AnyPath

# In seconds; the second is a fraction of the first, so that a few renewals may fail.
EXPIRY = float(os.environ.get("LATENTFACES_LEASE_SECONDS", "60"))
RENEWAL = EXPIRY / 4
POLL = (0.1, 1.0)  # between two looks at a folder that one waits for: a local one, one in a bucket

logger = logging.getLogger(__name__)


class Lease:
    """A claim on a folder.

    Attributes:
        lost: set when the claim is, or may be, someone else's: the holder must stop writing there.
        renewed: when it was last renewed, by this machine's monotonic clock; None if it need not be.
    """

    def __init__(self, folder: AnyPath, renewed: float | None = None) -> None:
        self._folder = folder
        self.lost = threading.Event()
        self.renewed = renewed

    def check(self) -> None:
        """Raises `RunError` if the claim was lost, or has run out."""
        if self.renewed is not None and time.monotonic() - self.renewed >= EXPIRY:
            self.lost.set()
        if self.lost.is_set():
            raise RunError(
                f"{self._folder} was taken over by another process, since this one was out of touch with it "
                f"for {EXPIRY:g} s: start again when the other one has ended"
            )


@contextlib.contextmanager
def hold(folder: AnyPath, name: str = ".lease", *, wait: float = 0.0) -> Iterator[Lease]:
    """Claims a folder, which is made if need be, for as long as the block runs.

    What a dead process held is taken over: locally at once, in a bucket when its lease has run out.

    Args:
        folder: local or in a bucket.
        name: the lock's or lease's file in it; it is gone when the block ends.
        wait: for how many seconds to wait for a live process that has it.

    Yields:
        The claim; whoever holds a folder of a bucket for long should look at its `lost` now and then.

    Raises:
        UserError: a live process holds it, or the folder can't be written or locked.
    """
    deadline = time.monotonic() + wait
    with contextlib.ExitStack() as stack:
        while not (lease := _take(folder, name, stack)):
            if time.monotonic() >= deadline:
                raise UserError(
                    f"{folder} is in use by another process{_holder(folder / name)}: wait until that has "
                    "ended, or name another folder"
                )
            time.sleep(POLL[0] if isinstance(folder, Path) else POLL[1])
        yield lease


def _take(folder: AnyPath, name: str, stack: contextlib.ExitStack) -> Lease | None:
    """Claims a folder until the stack ends; None if another process has."""
    return _lock(folder, name, stack) if isinstance(folder, Path) else _claim(folder, name, stack)


def _me() -> bytes:
    return f"process {os.getpid()} on {socket.gethostname()}".encode()


def _holder(path: AnyPath) -> str:
    try:
        words = storage.read(path, length=200).decode("ascii", "replace")
    except OSError:
        words = ""
    return f" ({words})" if words.isprintable() and words else ""


def _lock(folder: Path, name: str, stack: contextlib.ExitStack) -> Lease | None:
    """Takes a local folder: with a lock on a file."""
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}") from None
    with contextlib.ExitStack() as opened:
        opened.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
                raise
            raise UserError(
                f"{folder} cannot be locked ({error.strerror}): mount its file system with locks, or name a "
                "folder on another one"
            ) from None
        if not _is_same(descriptor, path):  # its last holder has just removed it
            return None
        opened.callback(_remove, descriptor, path)
        with contextlib.suppress(OSError):  # on a full disk nobody reads who it is
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, _me(), 0)
        stack.push(opened.pop_all())
    return Lease(folder)


def _is_same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def _remove(descriptor: int, path: Path) -> None:
    """Removes a lock's file while it is locked; whoever waits for it then makes a new one."""
    with contextlib.suppress(OSError):  # it is only untidy
        if _is_same(descriptor, path):
            os.unlink(path)


def _claim(folder: GSPath, name: str, stack: contextlib.ExitStack) -> Lease | None:
    """Takes a folder of a bucket: with an object that is renewed."""
    path, writer = folder / name, uuid.uuid4().hex
    asked = time.monotonic()
    try:
        held = storage.version(path)
        if held and _service_time(folder / f"{name}.now", writer) - held.updated.timestamp() < EXPIRY:
            return None
        held = storage.replace(path, _me(), held.generation if held else 0, writer)
    except storage.ChangedError:
        return None
    except (google_exceptions.Forbidden, google_exceptions.Unauthorized) as error:
        raise UserError(f"{folder} cannot be written: {error.message}") from None
    renewal = _Renewal(path, writer, held, lease := Lease(folder, asked))
    stack.callback(renewal.end)
    renewal.start()
    return lease


def _service_time(probe: GSPath, writer: str) -> float:
    """What time it is for the storage service: that of an object that is written now."""
    now = storage.replace(probe, b"", None, writer).updated.timestamp()
    storage.delete(probe)
    return now


class _Renewal(threading.Thread):
    """Renews a lease until it ends; a storage that fails is asked again."""

    def __init__(self, path: GSPath, writer: str, held: storage.Version, lease: Lease) -> None:
        super().__init__(name="lease", daemon=True)
        self._path, self._writer, self._held, self._lease = path, writer, held, lease
        self._pause, self._over = RENEWAL, threading.Event()

    def run(self) -> None:
        while not self._over.wait(self._pause):
            asked = time.monotonic()
            try:
                generation = self._held.generation
                self._held = storage.replace(self._path, _me(), generation, self._writer, self._pause)
                self._lease.renewed = asked
            except storage.ChangedError:
                self._lease.lost.set()
            except Exception as error:  # it must not end the process; the time tells
                logger.debug("%s was not renewed: %s", self._path, error)
            try:
                self._lease.check()
            except RunError as error:
                logger.error("%s", error)
                return

    def end(self) -> None:
        """Stops renewing and gives the lease up, unless it is someone else's by now."""
        self._over.set()
        self.join()
        with contextlib.suppress(google_exceptions.GoogleAPIError, OSError):  # it will run out
            storage.delete(self._path, self._held.generation)
