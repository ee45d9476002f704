"""What an image file may not do: what is looked at before Pillow reads it, and before Pillow decodes it.

Pillow believes the sizes and counts that a file gives. So a small file can have the same bytes read, decoded
or copied again and again: 400 KB took 4 GiB, 8 MB an hour. What is refused here is in no photograph; what is
left out says nothing of the pixels.
"""

import contextlib
import functools
import io
import math
import re
import struct
import zlib
from collections import defaultdict
from collections.abc import Iterator
from typing import IO, NamedTuple

from PIL import Image, ImageFile, TiffImagePlugin, features

# The largest cameras that are called "100 megapixels" have 11,662×8,746.
MAX_PIXELS = 102_000_000
MAX_SCANS = 100  # of a progressive JPEG; encoders write 3 to 20
MAX_SCANNED_PIXELS = 20 * MAX_PIXELS  # scans times pixels: one costs 2 ns for each of them

# By Pillow's names; a multi-picture file (MPO) is a JPEG to it, and PBM, PGM, PPM, PNM and PFM are PPM.
FORMATS = tuple(
    name
    for name in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF")
    if name not in ("WEBP", "AVIF") or features.check(name.lower())
)
with contextlib.suppress(ImportError):
    from pillow_heif import register_heif_opener

    register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)
    FORMATS += ("HEIF",)
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

_MAX_EXTRAS = 1 << 20  # bytes of what a file says beside its pixels, where reading more could take long
_MAX_SEGMENTS = 10_000  # of a JPEG, scans included
_MAX_COMMENTS = 1000  # of a PNM in plain text
_MAX_VALUES = 1 << 20  # of a TIFF's or Exif directory, which become Python's objects


class RefusedImage(Exception):
    """The image cannot be used; the message says why."""


def check_size(width: int, height: int) -> None:
    """Checks what an image says of its size, or what it has.

    Raises:
        RefusedImage: It has too many pixels.
    """
    if width * height > MAX_PIXELS:
        raise RefusedImage(f"too many pixels: {width}×{height}, more than {MAX_PIXELS:,}")


def is_heif(data: bytes) -> bool:
    """Whether a file begins as those of telephones that are neither JPEG nor AVIF."""
    return data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS


def unread_format(data: bytes) -> str:
    """The name of a format that is known but not read, or ""."""
    signs = (  # which Pillow does not know by how they begin
        (data[:1], b"\x1c", "IPTC"),
        (data[-18:-2], b"TRUEVISION-XFILE", "TGA"),
    )
    for found, sign, name in signs:
        if found == sign:
            return name
    Image.init()
    for name in Image.ID:
        accepts = Image.OPEN[name][1]
        if name not in FORMATS and accepts and accepts(data[:16].ljust(16, b"\0")):
            return name
    return ""


class JpegLayout(NamedTuple):
    """Where a JPEG's header ends, which is where its first scan begins, and how many scans are decoded."""

    header: int
    scans: int


# Within a scan, 0xFF is followed by 0 or is a restart marker.
_JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]", re.DOTALL)
_JPEG_FRAMES = {0xC0 + kind for kind in range(16)} - {0xC4, 0xC8, 0xCC}
_JPEG_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}


def jpeg_layout(data: bytes) -> JpegLayout:
    """Looks through a JPEG's markers, as its decoder does.

    Raises:
        RefusedImage: It has too many of them.
    """
    position, header, scans, components, several = 2, 0, 0, 0, False
    for _ in range(_MAX_SEGMENTS):
        found = _JPEG_MARKER.search(data, position)
        if not found:
            break
        position = found.end()
        kind = data[position - 1]
        if kind == 0xD9 or len(data) < position + 8:  # the end
            break
        if kind in _JPEG_FRAMES:
            components = data[position + 7]
            several |= kind in _JPEG_PROGRESSIVE
        elif kind == 0xDA:
            scans += 1
            header = header or found.start()
            # The rest is decoded too where not all is in the first scan.
            if not several and not (several := data[position + 2] < components):
                break
        if kind not in (0x01, 0xD8):
            position += data[position] << 8 | data[position + 1]
    else:
        raise RefusedImage(f"implausible JPEG: more than {_MAX_SEGMENTS:,} segments")
    return JpegLayout(header, scans)


def check_jpeg_scans(scans: int, width: int, height: int) -> None:
    """Checks that decoding all scans of a JPEG does not take long.

    Raises:
        RefusedImage: It could take minutes.
    """
    if scans > MAX_SCANS or scans * width * height > MAX_SCANNED_PIXELS:
        raise RefusedImage(f"too many scans: {scans} of {width}×{height}, each is decoded")


def defused(data: bytes) -> bytes:
    """The file without what could cost much in opening it and says nothing of its pixels.

    Raises:
        RefusedImage: Opening it could cost much all the same.
    """
    if data.count(b"Exif\0\0Exif\0\0") > 100:  # Pillow takes them off one by one
        raise RefusedImage("implausible metadata: the mark of Exif again and again")
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png_without_extras(data)
    if data.startswith((b"GIF87a", b"GIF89a")):
        return _gif_without_comments(data)
    if data.startswith((b"P1", b"P2", b"P3")) and data.count(b"#") > _MAX_COMMENTS:
        raise RefusedImage(f"implausible PNM: more than {_MAX_COMMENTS:,} comments")
    if is_heif(data):
        _check_heif(data)
    if data.startswith(b"\xff\xd8"):
        header = jpeg_layout(data).header
        if data.count(b"Exif\0\0", 0, header) << 16 > _MAX_EXTRAS:  # a segment has up to 64 KiB
            raise RefusedImage(f"implausible JPEG: more than {_MAX_EXTRAS:,} bytes of Exif")
    return data


_PNG_KEPT = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT"}
_PNG_TEXTS = {b"tEXt", b"zTXt", b"iTXt"}
_PNG_ORIENTATION_TEXTS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0", b"exif\0")


def _png_without_extras(data: bytes) -> bytes:
    """Leaves out colour profiles, texts and unknown chunks, but for texts that may tell the orientation."""
    if len(data) >= 24:
        check_size(*struct.unpack_from(">II", data, 16))  # Pillow makes room for an animation at once
    pieces, start, position = [], 0, 8
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if kind not in _PNG_KEPT and not _may_turn(kind, data[position + 8 : end - 4]):
            pieces.append(data[start:position])
            start = end
        position = end
    return b"".join((*pieces, data[start:])) if pieces else data


def _may_turn(kind: bytes, text: bytes) -> bool:
    """Whether a chunk of a PNG is a text that may tell the orientation, and is short enough to be read."""
    if kind not in _PNG_TEXTS or len(text) > _MAX_EXTRAS or not text.startswith(_PNG_ORIENTATION_TEXTS):
        return False
    _, value = text.split(b"\0", 1)
    if kind == b"tEXt" or kind == b"iTXt" and value[:1] == b"\0":
        return True
    # A byte for the method precedes a compressed text; in iTXt flag, method, language and translation.
    compressed = value[1:] if kind == b"zTXt" else value[2:].split(b"\0", 2)[-1]
    stream = zlib.decompressobj()
    try:
        stream.decompress(compressed, _MAX_EXTRAS)
    except zlib.error:
        return True  # Pillow passes over it
    return not stream.unconsumed_tail


def _gif_without_comments(data: bytes) -> bytes:
    """Leaves out long comments before the first picture: Pillow would copy each block with all before it."""
    if len(data) < 13:
        return data
    flags = data[10]
    pieces, start, position = [], 0, 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    while position + 1 < len(data) and data[position] not in b",;":  # a picture, the end
        end = position + 1
        if data[position] == 0x21:
            end += 1
            while end < len(data) and data[end]:
                end += data[end] + 1
            end += 1
            if data[position + 1] == 0xFE:
                pieces.append(data[start:position])
                start = end
        position = end
    shorter = b"".join((*pieces, data[start:]))
    return shorter if len(data) - len(shorter) > _MAX_EXTRAS else data


def _check_heif(data: bytes) -> None:
    """Checks how much is read of a HEIF file, and decoded for an image: that can be made of others, they too.

    None has more pixels than its "ispe" says: libheif sees to that.
    """
    about, areas = 0, dict[int, int]()
    parts: defaultdict[int, list[int]] = defaultdict(list)
    for meta in _boxes_of(b"meta", memoryview(data)):
        about += len(meta)
        if about > _MAX_EXTRAS:
            raise RefusedImage(f"implausible HEIF: more than {_MAX_EXTRAS:,} bytes about its images")
        for places in _boxes_of(b"iloc", meta[4:]):
            _check_heif_places(places, len(data))
        for properties in _boxes_of(b"iprp", meta[4:]):
            for item, area in _heif_areas(properties):
                areas[item] = max(area, areas.get(item, 0))
        for references in _boxes_of(b"iref", meta[4:]):
            number = "I" if references[0] else "H"
            for made in _boxes_of(b"dimg", references[4:]):
                item, count = struct.unpack_from(f">{number}H", made)
                parts[item] += struct.unpack_from(f">{count}{number}", made, struct.calcsize(f">{number}H"))

    @functools.cache
    def decoded(item: int, depth: int = 0) -> float:
        """Pixels that are decoded for an image, and its own."""
        if depth > 3:
            return math.inf
        return areas.get(item, MAX_PIXELS) + sum(decoded(part, depth + 1) for part in parts.get(item, []))

    if not areas:
        raise RefusedImage("damaged image: it tells no size")
    # A telephone's image is made of tiles, and its tone map of the image and another one.
    if max(map(decoded, [*areas, *parts])) > 5 * MAX_PIXELS:
        raise RefusedImage("implausible HEIF: an image made of more others than it can show")


def _boxes(content: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """The kind and the content of each box in a part of a HEIF file."""
    start = 0
    for _ in range(_MAX_EXTRAS):
        if start + 8 > len(content):
            return
        size, kind = struct.unpack_from(">I4s", content, start)
        head = 8
        if size == 1:
            (size,), head = struct.unpack_from(">Q", content, start + 8), 16
        end = start + max(size, head) if size else len(content)  # 0 for all there is
        yield kind, content[start + head : end]
        start = end
    raise RefusedImage(f"implausible HEIF: more than {_MAX_EXTRAS:,} boxes")


def _boxes_of(wanted: bytes, content: memoryview) -> Iterator[memoryview]:
    return (box for kind, box in _boxes(content) if kind == wanted)


def _check_heif_places(places: memoryview, size: int) -> None:
    """Checks that a HEIF file's parts do not lie on one another again and again: each is read."""
    file, total = io.BytesIO(places), 0

    def number(length: int) -> int:
        content = file.read(length)
        if len(content) < length:
            raise EOFError("truncated")
        return int.from_bytes(content)

    version, _, lengths = number(1), number(3), number(2)
    of_offset, of_length, of_base, of_index = (lengths >> shift & 15 for shift in (12, 8, 4, 0))
    of_number, of_method = (4 if version == 2 else 2), (2 if version else 0)
    for _ in range(number(of_number)):
        number(of_number + of_method + 2 + of_base)
        for _ in range(number(2)):
            number((of_index if version else 0) + of_offset)
            total += number(of_length) or size  # 0 for all there is
            if total > 2 * size:
                raise RefusedImage("implausible HEIF: its parts are longer than the file")


def _heif_areas(properties: memoryview) -> Iterator[tuple[int, int]]:
    """The area of each image, by its number."""
    sizes = []
    for listed in _boxes_of(b"ipco", properties):
        for kind, box in _boxes(listed):
            sizes.append(math.prod(struct.unpack_from(">4xII", box)) if kind == b"ispe" else 0)
    for associations in _boxes_of(b"ipma", properties):
        file = io.BytesIO(associations)
        version, flags, items = struct.unpack(">B2xBI", file.read(8))
        bits = 15 if flags & 1 else 7
        for _ in range(items):
            item, count = struct.unpack(">IB" if version else ">HB", file.read(5 if version else 3))
            for _ in range(count):
                place = int.from_bytes(file.read((bits + 1) // 8)) & (1 << bits) - 1
                if 0 < place <= len(sizes) and sizes[place - 1]:
                    yield item, sizes[place - 1]


def check_opened(image: ImageFile.ImageFile) -> None:
    """Checks what Pillow understood of a file, before it decodes it.

    Raises:
        RefusedImage: The image is too large, or decoding it would take much more than its size tells.
    """
    check_size(*image.size)
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    if 322 in tags and 323 in tags:  # a tile is decoded whole, whatever part of it lies in the image
        check_size(tags[322], tags[323])
    places = (tile.extents or (0, 0, 0, 0) for tile in image.tile)
    covered = sum((right - left) * (lower - upper) for left, upper, right, lower in places)
    if covered > 8 * image.width * image.height:  # up to five planes of one band each
        raise RefusedImage("implausible image: its parts cover it again and again")
    if image.tile and image.tile[0].codec_name == "bmp_rle":
        check_size(image.width, 255)  # as much is filled at one stroke, within the image or not


_VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}


class _Directory(TiffImagePlugin.ImageFileDirectory_v2):
    """Pillow's directory of a TIFF or of Exif, whose values may not lie on one another again and again.

    Pillow copies each of them.
    """

    def __init__(
        self, ifh: bytes = b"II\x2a\0\0\0\0\0", prefix: bytes | None = None, group: int | None = None
    ) -> None:
        super().__init__(ifh, prefix, group)
        self._big = ifh[2] == 43  # as Pillow has it

    def load(self, fp: IO[bytes]) -> None:
        """Reads the directory where the file stands."""
        start = fp.tell()
        size = fp.seek(0, 2)
        fp.seek(start)
        values = total = 0
        for kind, count, offset in self._entries(fp):
            length = count * _VALUE_BYTES.get(kind, 0)
            if length > (8 if self._big else 4):
                if offset + length > size:
                    break  # so does Pillow
                total += length
                values += 0 if kind in (1, 2, 7) else count
        if total > 2 * size or values > _MAX_VALUES:
            raise RefusedImage("implausible metadata: longer than the file, or of too many numbers")
        fp.seek(start)
        super().load(fp)

    def _entries(self, fp: IO[bytes]) -> Iterator[tuple[int, int, int]]:
        """The type, the count and the offset of each entry."""
        order = "<" if self.prefix == b"II" else ">"
        head, entry = (order + "Q", order + "2xHQQ") if self._big else (order + "H", order + "2xHII")
        raw = fp.read(struct.calcsize(head))
        count = struct.unpack(head, raw)[0] if len(raw) == struct.calcsize(head) else 0
        if count > 0xFFFF:
            raise RefusedImage(f"implausible metadata: {count:,} entries")
        raw = fp.read(count * struct.calcsize(entry))
        yield from struct.iter_unpack(entry, raw[: len(raw) - len(raw) % struct.calcsize(entry)])


# Wherever Pillow meets a TIFF or Exif, in any format, it makes its directory by this name.
TiffImagePlugin.ImageFileDirectory_v2 = _Directory  # type: ignore[misc]
