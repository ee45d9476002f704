"""A zip of images, local or in a bucket: read where it lies, entry by entry, and trusted in nothing."""

import bz2
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

from latentfaces.common import storage
from latentfaces.common.errors import UserError, printable
from latentfaces.preprocessing.resize import MAX_FILE_BYTES, RefusedImage

_LZMA_HEADER = struct.Struct("<HHBI")  # version, length of what follows, properties, size of the dictionary


class ZipEntry(NamedTuple):
    """Where an entry's bytes are in a zip, from the zip's directory at its end."""

    header: int  # offset of the local header
    end: int  # offset of what follows: the next entry's header, or the directory
    compressed: int  # bytes
    size: int  # bytes, as declared
    method: int
    crc: int
    encrypted: bool


@dataclass(frozen=True)
class Zip:
    """A zip file; an image's place is its `ZipEntry`, and its name is never used as a path."""

    location: str

    def entries(self) -> list[tuple[str, ZipEntry]]:
        """What the zip's directory lists, in the order of the bytes: they are then read sequentially.

        Raises:
            UserError: The file is not a zip, or a damaged one.
        """
        try:
            with storage.open_for_reading(storage.resolve(self.location)) as file:
                archive = zipfile.ZipFile(file)
        except (
            zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, MemoryError, struct.error
        ) as error:  # fmt: skip
            raise UserError(
                f"{printable(self.location)} is not a readable zip ({printable(str(error))}): "
                "download it again, or make it anew"
            ) from None
        listed = [info for info in archive.filelist if not info.filename.endswith("/")]  # those are folders
        listed.sort(key=lambda info: (info.header_offset, info.filename))
        ends = [*(info.header_offset for info in listed), archive.start_dir][1:]
        return [
            (
                info.filename,
                ZipEntry(
                    header=info.header_offset,
                    end=min(end, archive.start_dir),
                    compressed=info.compress_size,
                    size=info.file_size,
                    method=info.compress_type,
                    crc=info.CRC,
                    encrypted=bool(info.flag_bits & 0x1),
                ),
            )
            for info, end in zip(listed, ends, strict=True)
        ]

    def stamps(self) -> Iterator[tuple[str, Any]]:
        """One for the zip as a whole; its name does not count."""
        yield "", storage.stamp(storage.resolve(self.location))[:2]

    def read(self, places: Iterable[ZipEntry]) -> Iterator[bytes | RefusedImage]:
        """Reads entries through one open file."""
        with storage.open_for_reading(storage.resolve(self.location)) as file:
            for place in places:
                try:
                    content: bytes | RefusedImage = _read_entry(file, ZipEntry(*place))
                except RefusedImage as refusal:
                    content = refusal
                yield content


def _read_entry(file: BinaryIO, entry: ZipEntry) -> bytes:
    """Reads one entry of an untrusted zip, never more bytes than the limit, and none that are another's.

    So no byte of the zip is decompressed twice.
    """
    if entry.encrypted:
        raise RefusedImage("unreadable zip entry: encrypted")
    if max(entry.size, entry.compressed) > MAX_FILE_BYTES:
        raise RefusedImage(f"too large: {entry.size:,} bytes, more than {MAX_FILE_BYTES:,}")
    header = b""
    if 0 <= entry.header <= entry.end:  # else it is not in the file
        file.seek(entry.header)
        header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise RefusedImage("unreadable zip entry: no header where the zip's directory says")
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    if entry.header + 30 + name_length + extra_length + entry.compressed > entry.end:
        raise RefusedImage("unreadable zip entry: it overlaps another, or the zip's directory")
    data = file.read(name_length + extra_length + entry.compressed)[name_length + extra_length :]
    try:
        content = _decompress(data, entry)
    except (zlib.error, lzma.LZMAError, OSError, ValueError) as error:  # of bz2, the last two
        raise RefusedImage(f"unreadable zip entry: {error}") from None
    if len(content) != entry.size or zlib.crc32(content) != entry.crc:
        raise RefusedImage("unreadable zip entry: truncated or damaged, its checksum does not match")
    return content


def _decompress(data: bytes, entry: ZipEntry) -> bytes:
    most = entry.size + 1
    match entry.method:
        case zipfile.ZIP_STORED:
            return data
        case zipfile.ZIP_DEFLATED:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, most)
        case zipfile.ZIP_BZIP2:
            return bz2.BZ2Decompressor().decompress(data, most)
        case zipfile.ZIP_LZMA:
            return _lzma(data, most).decompress(data[_LZMA_HEADER.size :], most)
    raise RefusedImage(
        f"unreadable zip entry: compression method {entry.method}, only 0, 8, 12 and 14 are read"
    )


def _lzma(data: bytes, most: int) -> lzma.LZMADecompressor:
    """What decompresses an entry, as its header says, but with no more memory than the result can need."""
    if len(data) < _LZMA_HEADER.size:
        raise lzma.LZMAError("no LZMA properties")
    _, length, properties, dictionary = _LZMA_HEADER.unpack_from(data)
    if length != 5 or properties >= 9 * 5 * 5:
        raise lzma.LZMAError("LZMA properties of another kind")
    coding = {"lc": properties % 9, "lp": properties // 9 % 5, "pb": properties // 45}
    filters = [{"id": lzma.FILTER_LZMA1, "dict_size": max(4096, min(dictionary, most)), **coding}]
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters)
