"""A tar of images, plain or compressed, or a folder of tars: read where it lies, and trusted in nothing.

A tar has no directory: its headers are read once, from the first to the last. In a plain one, an image is
then read from its place. In a compressed one nothing has a place, and reading up to each shard's images would
take longer by the square of their number. So a process that reads one decompresses it once, into a temporary
file that has no name and is gone with the process.
"""

import bz2
import contextlib
import errno
import functools
import gzip
import logging
import lzma
import os
import tarfile
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

from latentfaces.common import storage
from latentfaces.common.errors import UserError, printable
from latentfaces.common.storage import AnyPath
from latentfaces.preprocessing.resize import MAX_FILE_BYTES, RefusedImage
from latentfaces.preprocessing.sources.celeba import (
    ATTRIBUTE_FILES,
    PARTITION_FILES,
    Labels,
    Lines,
    class_labels,
)
from latentfaces.preprocessing.sources.folder import archive_stamps, archives, as_utf8, is_input, kind_beside
from latentfaces.preprocessing.sources.split import is_partition, make_parts, split_of_file

logger = logging.getLogger(__name__)

ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")

_BLOCK = tarfile.BLOCKSIZE
_LONGEST_EXTENSION = 1 << 20  # bytes of what is said of the next member before its own header
_LONGEST_NAME = 4096
_LONGEST_CLASS = 20  # digits
_PIECE = 1 << 20  # bytes that are decompressed at a time
_MOST_TIMES, _ALWAYS = 100, 1 << 30  # so many times its size may a tar decompress to, or to so many bytes
_XZ_MEMORY = 256 << 20  # `xz -9` needs 65 MiB
_COPIES = 64  # decompressed tars that a process keeps
_LOCK = threading.Lock()

ReadAt = Callable[[int, int], bytes]  # reads so many bytes from an offset, fewer at the end
Decompress = Callable[[BinaryIO], Iterator[bytes]]
Place = tuple[str, int, int]  # the tar's name below the source, where the member's bytes begin, how many


@dataclass(frozen=True)
class Tar:
    """A tar, or a folder of tars; a member's name is never used as a path.

    In a folder, an image's name begins with its tar's: `train-000000.tar/000017.jpg`. Files with the same
    name but for what follows the first dot are a sample, of whose class `.cls` holds the number.
    """

    location: str

    def entries(self) -> list[tuple[str, Any]]:
        """The members that are no folders, in the order of their bytes, and labels and partition of theirs.

        Raises:
            UserError: A tar is damaged or cut off, decompresses to far more than it is, or finds no space.
        """
        found: list[tuple[str, Any]] = []
        classes: dict[str, bytes] = {}
        splits: dict[str, str] = {}
        for tar, path in archives(self.location, ENDINGS):
            split = split_of_file(tar)
            try:
                with _opened(path) as read_at:
                    for member in _members(read_at):
                        name = f"{as_utf8(tar)}/{member.name}" if tar else member.name
                        found.append((name, _place(tar, member)))
                        if name.endswith(".cls"):
                            classes[_sample(name)] = read_at(member.start, min(member.size, _LONGEST_CLASS))
                        elif is_input(name) and not kind_beside(name):
                            splits[name] = split
            except (tarfile.TarError, ValueError) as error:
                raise UserError(
                    f"{printable(str(path))} is not a readable tar ({printable(str(error))}): "
                    "download it again, or make it anew"
                ) from None
        shown = printable(self.location)
        own = []
        if is_partition(splits.values()):
            parts = functools.partial(make_parts, splits)
            own.append((PARTITION_FILES[1], Lines(f"{shown} (the names of its tars)", parts)))
        if labels := _labels(splits, classes, shown):
            own.append((ATTRIBUTE_FILES[1], Lines(f"{shown} (.cls)", lambda: labels)))
        return [*own, *found]

    def stamps(self) -> Iterator[tuple[str, Any]]:
        """One for each tar as a whole."""
        return archive_stamps(self.location, ENDINGS)

    def read(self, places: Iterable[Place]) -> Iterator[bytes | RefusedImage]:
        """Reads members, of each tar through one open file."""
        source, opened = storage.resolve(self.location), None
        with contextlib.ExitStack() as stack:
            for tar, start, size in places:
                if tar != opened:
                    stack.close()
                    read_at = stack.enter_context(_opened(storage.join(source, tar) if tar else source))
                    opened = tar
                content = read_at(start, size)
                yield content if len(content) == size else RefusedImage("unreadable tar member: cut off")


def _sample(name: str) -> str:
    """What the names of the files of a sample begin with: all up to the first dot in the last part."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.split(".", 1)[0]


def _labels(images: Iterable[str], classes: Mapping[str, bytes], shown: str) -> Labels | None:
    """The classes of images, from the contents of `.cls` files by sample; None where they are no labels."""
    numbers: dict[str, int] = {}
    try:
        for sample, content in classes.items():
            if not content.strip().isdigit():
                raise ValueError(f"{printable(sample[:200])}.cls holds no class number")
            numbers[sample] = int(content)
        found = ((name, numbers.get(_sample(name))) for name in images)
        return class_labels({name: each for name, each in found if each is not None}) if numbers else None
    except ValueError as error:
        logger.warning("the .cls files of %s are no labels: %s", shown, error)
        return None


class _Member(NamedTuple):
    name: str
    kind: bytes  # one of tarfile's types
    start: int  # where its bytes begin
    size: int


def _place(tar: str, member: _Member) -> Place | RefusedImage:
    if member.kind in (tarfile.LNKTYPE, tarfile.SYMTYPE):
        return RefusedImage("a link in a tar: put the file itself there")
    if member.kind == tarfile.GNUTYPE_SPARSE:
        return RefusedImage("a sparse file in a tar: make the tar without --sparse")
    if member.kind not in tarfile.REGULAR_TYPES:
        return RefusedImage(f"not a file but of type {member.kind!r} in a tar")
    if member.size > MAX_FILE_BYTES:
        return RefusedImage(f"too large: {member.size:,} bytes, more than {MAX_FILE_BYTES:,}")
    return tar, member.start, member.size


def _members(read_at: ReadAt) -> Iterator[_Member]:
    """Goes from header to header; tarfile itself would take a header's word for how much memory to use.

    Raises:
        tarfile.TarError, ValueError: It is no tar, or damaged, or cut off.
    """
    offset, said = 0, dict[str, str]()  # of the next member, before its own header
    while any(header := read_at(offset, _BLOCK)):  # an empty block is the end
        info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        offset += _BLOCK
        if info.type == tarfile.GNUTYPE_SPARSE:
            is_extended = header[482] != 0
            while is_extended:
                is_extended = read_at(offset, _BLOCK)[504:505] not in (b"", b"\0")
                offset += _BLOCK
        is_extension = info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME)
        size = info.size if is_extension else int(said.get("size", info.size))
        if info.type in (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE,
                         tarfile.CHRTYPE, tarfile.BLKTYPE):  # fmt: skip
            size = 0  # whatever it says
        if not 0 <= size < 1 << 60:
            raise tarfile.ReadError(f"a member of {size} bytes")
        if size and not read_at(offset + size - 1, 1):
            raise tarfile.ReadError("it is cut off")
        if is_extension:
            if size > _LONGEST_EXTENSION:
                raise tarfile.ReadError(f"an extended header of {size:,} bytes")
            content = read_at(offset, size)
            is_name = info.type == tarfile.GNUTYPE_LONGNAME
            said |= {"path": _text(content.split(b"\0", 1)[0])} if is_name else _records(content)
        elif info.type not in (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK, b"V"):  # V names a tape
            name, kind = said.get("GNU.sparse.name", said.get("path", info.name)), info.type
            if len(name) > _LONGEST_NAME:
                raise tarfile.ReadError(f"a name of {len(name):,} characters")
            if any(key.startswith("GNU.sparse.") for key in said):
                kind = tarfile.GNUTYPE_SPARSE
            if kind != tarfile.DIRTYPE:
                yield _Member(as_utf8(name.removeprefix("./")), kind, offset, size)
            said = {}
        offset += -(-size // _BLOCK) * _BLOCK
    if not header:
        raise tarfile.ReadError("it is cut off, or is none: there is no empty block at its end")


def _records(content: bytes) -> dict[str, str]:
    """What an extended header of pax says: lines of a length, a space, a name, `=` and a value."""
    found, start = {}, 0
    while start < len(content):
        space = content.find(b" ", start, start + 20)
        end = start + int(content[start:space]) if space > 0 else 0
        name, equals, value = content[space + 1 : end - 1].partition(b"=")
        if space < 0 or end <= space or not equals:
            raise tarfile.ReadError("an extended header is damaged")
        found[_text(name)] = _text(value)
        start = end
    return found


def _text(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")


@contextlib.contextmanager
def _opened(path: AnyPath) -> Iterator[ReadAt]:
    beginning = storage.read(path, length=6)
    if decompress := next((each for sign, each in COMPRESSIONS.items() if beginning.startswith(sign)), None):
        with _LOCK:  # else every thread would decompress the same tar
            copy = _decompressed(str(path), storage.stamp(path)[:2], decompress)
        yield lambda start, size: os.pread(copy.fileno(), size, start)
        return
    with storage.open_for_reading(path) as file:

        def read_at(start: int, size: int) -> bytes:
            file.seek(start)
            return file.read(size)

        yield read_at


@functools.lru_cache(_COPIES)
def _decompressed(path: str, stamp: tuple[int, str], decompress: Decompress) -> BinaryIO:
    """A decompressed copy, which is kept for the next shard, by the tar's place and what it is known by.

    Raises:
        tarfile.TarError: It is damaged, or decompresses to far more than it is.
        UserError: There is no space for it.
    """
    copy, most = tempfile.TemporaryFile(), max(_ALWAYS, _MOST_TIMES * stamp[0])
    try:
        with storage.open_for_reading(storage.resolve(path)) as file:
            for piece in decompress(file):
                if copy.tell() + len(piece) > most:
                    raise tarfile.ReadError(f"implausible: it decompresses to more than {most:,} bytes")
                copy.write(piece)
            copy.flush()
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        raise tarfile.ReadError(str(error)) from None
    except OSError as error:
        if error.errno is None:  # as gzip and bz2 tell of damage
            raise tarfile.ReadError(str(error)) from None
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"there is no space in {tempfile.gettempdir()} for what {printable(path)} decompresses to: "
                "free some, name another folder by TMPDIR, or decompress it yourself"
            ) from None
        raise
    return copy


def _gunzip(file: BinaryIO) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=file) as stream:
        yield from iter(functools.partial(stream.read, _PIECE), b"")


def _decompress(new: Callable[[], Any], file: BinaryIO) -> Iterator[bytes]:
    """Decompresses streams that follow one another, as parallel compressors write them."""
    data = file.read(_PIECE)
    while data:
        stream = new()
        while not stream.eof:
            yield stream.decompress(data, _PIECE)
            data = file.read(_PIECE) if stream.needs_input else b""
            if stream.needs_input and not data:
                raise EOFError("it is cut off")
        data = (stream.unused_data or file.read(_PIECE)).lstrip(b"\0")


COMPRESSIONS: dict[bytes, Decompress] = {
    b"\x1f\x8b": _gunzip,
    b"BZh": functools.partial(_decompress, bz2.BZ2Decompressor),
    b"\xfd7zXZ\0": functools.partial(
        _decompress, functools.partial(lzma.LZMADecompressor, memlimit=_XZ_MEMORY)
    ),
}
"""How compressed files begin, and what decompresses them."""
