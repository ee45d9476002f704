"""This user's copies of remote shards: checked, shared by the processes of one machine, limited in size.

They lie in a folder that is this user's alone, under names that are their checksums. Nothing in it is taken
on trust: links are not followed, and a copy counts only as long as it matches.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import stat
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from latentfaces.common import storage
from latentfaces.common.dataset import Shard
from latentfaces.common.errors import UserError
from latentfaces.common.storage import AnyPath

FOLDER = "LATENTFACES_CACHE"
GIGABYTES = "LATENTFACES_CACHE_GB"

_DEFAULT_GIGABYTES = "50"
_SHARD = re.compile(r"[0-9a-f]{64}\.tfrecord")
_PART = re.compile(r"\.[0-9a-f]{32}\.part")
_DEAD_SECONDS = 86_400.0  # after which an unfinished copy is one of a process that was killed

logger = logging.getLogger(__name__)


class ShardCache:
    """The cache of this user.

    It lies where `LATENTFACES_CACHE` says, by default in `latentfaces` below `XDG_CACHE_HOME` or `~/.cache`,
    and holds at most `LATENTFACES_CACHE_GB`, by default 50.

    Raises:
        UserError: it can't be made, is not this user's alone, or its size is no number.
    """

    def __init__(self) -> None:
        self._path = _folder() / "shards"
        self._limit = _limit()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                self._path.mkdir(mode=0o700)
            self._folder = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError as error:
            raise UserError(
                f"the cache folder {self._path} cannot be used ({error.strerror}): name another by {FOLDER}"
            ) from None
        status = os.fstat(self._folder)
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            self.close()
            raise UserError(
                f"the cache folder {self._path} is not this user's alone: make it so, or name another one by "
                f"{FOLDER}"
            )

    def close(self) -> None:
        """Lets go of the folder."""
        os.close(self._folder)

    def make_room(self, shards: Sequence[Shard]) -> None:
        """Removes the copies that were not used for longest, until there is room for some shards."""
        wanted = {f"{shard.sha256}.tfrecord" for shard in shards}
        left = self._limit - sum(shard.bytes for shard in shards)
        if left < 0:
            logger.warning(
                "the shards have %.1f GB, %.1f more than the cache folder %s may hold, and will have to be "
                "fetched again: set %s to more",
                *((self._limit - left) / 1e9, -left / 1e9, self._path, GIGABYTES),
            )
        others = []
        with os.scandir(self._folder) as found:
            for entry in found:
                with contextlib.suppress(FileNotFoundError):  # another process is making room, too
                    status = entry.stat(follow_symlinks=False)
                    if _SHARD.fullmatch(entry.name) and entry.name not in wanted:
                        others.append((status.st_mtime, entry.name, status.st_size))
                    elif _PART.fullmatch(entry.name) and time.time() - status.st_mtime > _DEAD_SECONDS:
                        self._remove(entry.name)
        for _, name, size in sorted(others, reverse=True):  # the newest first
            left -= size
            if left < 0:
                self._remove(name)

    def open(self, source: AnyPath, shard: Shard) -> BinaryIO:
        """Opens the copy of a shard, which is fetched if there is none.

        Args:
            source: where the shard is.
            shard: what it must be.

        Raises:
            FileNotFoundError: there is no such shard.
            ValueError: it has another checksum.
            UserError: there is no space for it.
        """
        name = f"{shard.sha256}.tfrecord"
        return self._open_copy(name, shard) or self._fetch(source, name, shard)

    def _open_copy(self, name: str, shard: Shard) -> BinaryIO | None:
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(name, flags, dir_fd=self._folder)
        except OSError:
            return None
        file = os.fdopen(descriptor, "rb")
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and status.st_size == shard.bytes:
            if hashlib.file_digest(file, "sha256").hexdigest() == shard.sha256:
                with contextlib.suppress(OSError):
                    os.utime(descriptor)  # it was used
                return file
        file.close()
        return None

    def _fetch(self, source: AnyPath, name: str, shard: Shard) -> BinaryIO:
        part, digest = f".{uuid.uuid4().hex}.part", hashlib.sha256()
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            file = os.fdopen(os.open(part, flags, 0o600, dir_fd=self._folder), "w+b")
            try:
                for start in range(0, shard.bytes, storage.SEQUENTIAL_READ):
                    piece = storage.read(source, start, storage.SEQUENTIAL_READ)
                    digest.update(piece)
                    file.write(piece)
                file.flush()
                if digest.hexdigest() != shard.sha256:
                    raise ValueError("its checksum is another one than dataset.json's")
                os.replace(part, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            except BaseException:
                file.close()
                self._remove(part)
                raise
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise UserError(
                f"there is no space left for copies of shards in {self._path}: free some, or name another "
                f"folder by {FOLDER}"
            ) from None
        return file

    def _remove(self, name: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=self._folder)


def _folder() -> Path:
    if given := os.environ.get(FOLDER):
        return Path(given).expanduser()
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (base if base.is_absolute() else Path.home() / ".cache") / "latentfaces"
    except RuntimeError:
        raise UserError(
            f"there is no home folder to keep copies of shards in: name one by {FOLDER}"
        ) from None


def _limit() -> float:
    text = os.environ.get(GIGABYTES, _DEFAULT_GIGABYTES)
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if not limit >= 0:  # which a NaN is not, either
        raise UserError(f"{GIGABYTES}={text} is no size: give a number of gigabytes, 0 or more")
    return limit * 1e9
