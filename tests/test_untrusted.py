"""Files that are made to cost much: each small one here took gigabytes or minutes, or ran a program."""

import io
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import photograph, resident
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from latentfaces.preprocessing.resize import RefusedImage, decode
from latentfaces.preprocessing.untrusted import (
    MAX_PIXELS,
    MAX_SCANS,
    check_size,
    defused,
    jpeg_layout,
)

PHOTOGRAPH = Image.fromarray(photograph(5, 24, 36))


def encoded(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def chunk(kind, content):
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def with_chunks(png, *chunks, before=b"IDAT"):
    """A PNG with more chunks, by default before its pixels."""
    at = png.index(before) - 4
    return png[:at] + b"".join(chunks) + png[at:]


def tiff(entries, content=b""):
    """A TIFF of (tag, type, values) entries; `content` begins at byte 8."""
    codes = {3: "H", 4: "I"}
    at = 8 + len(content)
    values_at, values = at + 2 + 12 * len(entries) + 4, b""
    directory = struct.pack("<H", len(entries))
    for tag, kind, numbers in sorted(entries):
        packed = struct.pack(f"<{len(numbers)}{codes[kind]}", *numbers)
        place = packed.ljust(4, b"\0")
        if len(packed) > 4:
            place = struct.pack("<I", values_at + len(values))
            values += packed
        directory += struct.pack("<HHI", tag, kind, len(numbers)) + place
    return b"II*\0" + struct.pack("<I", at) + content + directory + bytes(4) + values


def grey_tiff(width, height, *entries, content=b"", compression=1):
    usual = [(256, 4, [width]), (257, 4, [height]), (258, 3, [8]), (259, 3, [compression]), (262, 3, [1])]
    return tiff([*usual, *entries], content)


def overlapping_exif(count=2000, length=100_000):
    """A directory of many long values, all in the same place."""
    entries = (struct.pack("<HHII", 1000 + number, 7, length - 100, 50) for number in range(count))
    return (b"II*\0" + struct.pack("<IH", 8, count) + b"".join(entries)).ljust(length, b"\0")


PLAIN_EXIF = overlapping_exif(0)


def measure(folder):
    """Prints how much memory decoding each file of a folder takes at most, in bytes."""
    decode(encoded(PHOTOGRAPH, "PNG"), 3)
    peaks = {}
    for path in sorted(Path(folder).iterdir()):
        content = path.read_bytes()
        Path("/proc/self/clear_refs").write_text("5")  # the peak is forgotten
        before = resident("VmRSS")
        decode(content, 3)
        peaks[path.name] = resident("VmHWM") - before
    print(json.dumps(peaks))


def in_a_process(code, **environment):
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=os.environ | {"PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout


def test_memory_is_bounded_by_the_pixels_whatever_they_are(tmp_path):
    side = 3000
    flat = np.zeros((side, side), np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 6
    colour = Image.new("RGB", (side, side), (10, 20, 30))
    for name, content in {
        "16-bit.png": encoded(Image.fromarray(flat), "PNG"),
        "float.tiff": encoded(Image.fromarray(flat.astype(np.float32)), "TIFF", compression="tiff_lzw"),
        "int.tiff": encoded(Image.fromarray(flat.astype(np.int32)), "TIFF", compression="tiff_lzw"),
        "alpha.png": encoded(Image.new("RGBA", (side, side), (1, 2, 3, 4)), "PNG"),
        "clear.gif": encoded(Image.new("P", (side, side), 3), "GIF", transparency=3),
        "turned.jpeg": encoded(colour, "JPEG", exif=exif),
        "cmyk.jpeg": encoded(colour.convert("CMYK"), "JPEG"),
        "colour.heic": encoded(colour, "HEIF"),
    }.items():
        assert len(content) < 1 << 20
        (tmp_path / name).write_bytes(content)
    peaks = json.loads(in_a_process(f"import test_untrusted; test_untrusted.measure({str(tmp_path)!r})"))
    # Pillow's 4 bytes a pixel, 3 of the result, and a strip in any form.
    assert len(peaks) == 8 and max(peaks.values()) < 7 * side**2 + (48 << 20), peaks


def test_photographs_of_a_hundred_megapixels_are_read_and_no_more():
    check_size(11_648, 8_736)
    for width, height in ((12_000, 9_000), (MAX_PIXELS + 1, 1)):
        with pytest.raises(RefusedImage, match=f"too many pixels: {width}×{height}, more than 102,000,000"):
            check_size(width, height)


@pytest.mark.parametrize(
    "data",
    [
        b"P5 11000 11000 255\n",
        encoded(PHOTOGRAPH, "PNG", save_all=True, append_images=[PHOTOGRAPH.rotate(180)])
        .replace(struct.pack(">II", 36, 24), struct.pack(">II", 30_000, 30_000)),
        encoded(PHOTOGRAPH, "JPEG").replace(struct.pack(">HH", 24, 36), struct.pack(">HH", 60_000, 60_000)),
        grey_tiff(8, 8, (322, 4, [30_000]), (323, 4, [30_000]), (324, 4, [8]), (325, 4, [64])),
        b"BM" + struct.pack("<IIIIiiHHI", 0, 0, 1078, 40, 500_000, 1, 1, 8, 1) + bytes(1044) + b"\0\2\1\1",
    ],
    ids=["pgm", "animated png", "jpeg", "tile of a tiff", "skipped part of a bmp"],
)  # fmt: skip
def test_more_pixels_than_that_are_refused_wherever_they_hide(data):
    with pytest.raises(RefusedImage, match="too many pixels"):
        decode(data, 3)


def repeated_scan(mode="RGB", times=1500, exif=b""):
    """A progressive JPEG whose last scan comes again and again."""
    data = encoded(PHOTOGRAPH.convert(mode), "JPEG", progressive=True, exif=exif)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * times + data[-2:]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("exif", [b"", b"Exif\0\0"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_jpeg_of_too_many_scans_is_refused(mode, exif, channels):
    with pytest.raises(RefusedImage, match="too many scans: 15"):
        decode(repeated_scan(mode, exif=exif), channels)
    assert decode(repeated_scan(mode, times=20, exif=exif), channels).shape == (24, 36, channels)


def test_scans_are_counted_as_they_are_decoded():
    plain = repeated_scan(times=0)
    scans = jpeg_layout(plain).scans
    assert 3 <= scans <= 20
    assert jpeg_layout(encoded(PHOTOGRAPH, "JPEG")).scans == 1
    # An end within a comment is none, and what follows the real one is another file.
    assert jpeg_layout(plain[:-2] + b"\xff\xfe\0\x04\xff\xd9" + plain[-2:]).scans == scans
    at = plain.index(b"\xff\xda")
    assert jpeg_layout(plain[:at] + b"\xff\xfe\0\x04\xff\xd9" + plain[at:]) == (at + 6, scans)
    behind = plain + b"\xff\xda" * 1000
    assert jpeg_layout(behind).scans == scans <= MAX_SCANS
    np.testing.assert_array_equal(decode(behind, 3), decode(plain, 3))


def test_large_jpegs_may_have_fewer_scans():
    data = repeated_scan(times=40)
    assert decode(data, 3).shape == (24, 36, 3)
    large = data.replace(struct.pack(">HH", 24, 36), struct.pack(">HH", 9_000, 10_000))
    with pytest.raises(RefusedImage, match="too many scans: 50 of 10000×9000"):
        decode(large, 3)


@pytest.mark.parametrize(
    "name, data",
    [
        *((name, encoded(PHOTOGRAPH, name)) for name in ("ICO", "JPEG2000", "PCX", "SGI", "DDS", "TGA")),
        ("EPS", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        ("PSD", b"8BPS\0\1"),
    ],
)  # fmt: skip
def test_other_formats_are_refused_by_name(name, data):
    with pytest.raises(RefusedImage, match=f"^format {name} is not read: convert the image to JPEG or PNG$"):
        decode(data, 3)


def box(kind, *contents):
    content = b"".join(contents)
    return struct.pack(">I4s", 8 + len(content), kind) + content


def heif(parts, side=64, times=1, kind=b"heic"):
    """A HEIF file whose images 1, 2 … have a side; `parts` tells of what images one is made."""
    count = len(parts) + 1
    sizes = box(b"ipco", box(b"ispe", struct.pack(">III", 0, side, side)))
    whose = b"".join(struct.pack(">HBB", item, 1, 1) for item in range(1, count + 1))
    properties = box(b"iprp", sizes, box(b"ipma", struct.pack(">II", 0, count), whose))
    made = [
        box(b"dimg", struct.pack(f">HH{len(of) * times}H", item, len(of) * times, *(of * times)))
        for item, of in parts.items()
    ]
    return box(b"ftyp", kind, bytes(4)) + box(b"meta", bytes(4), properties, box(b"iref", bytes(4), *made))


OVERLAPPING = box(b"iloc", struct.pack(">IHH", 0, 0x4400, 9), struct.pack(">HHHII", 1, 0, 1, 0, 99) * 9)


@pytest.mark.parametrize(
    "data, reason",
    [
        (heif({1: [2]}, times=60_000, side=512), "made of more others"),
        (heif({1: [2], 2: [3]}, times=1000), "made of more others"),
        (heif({1: [2], 2: [1]}), "made of more others"),
        (heif({}, side=30_000), "made of more others"),
        (heif({1: [2]}, times=3_000, kind=b"mif1", side=512), "made of more others"),
        (heif({}) + box(b"meta", bytes(1 + (1 << 20))), "more than 1,048,576 bytes about its images"),
        (heif({}) + box(b"free") * (1 << 20), "more than 1,048,576 boxes"),
        (heif({}) + box(b"meta", bytes(4), OVERLAPPING), "its parts are longer than the file"),
        (box(b"ftyp", b"heic", bytes(4)) + box(b"meta", bytes(4)), "tells no size"),
        (heif({})[:-1] + b"\xff", "not an image"),
    ],
)  # fmt: skip
def test_a_heif_file_is_not_read_again_and_again(data, reason):
    with pytest.raises(RefusedImage, match=reason):
        decode(data, 3)


def test_a_heif_image_of_other_pixels_than_it_says_is_refused_before_they_are_decoded():
    data = encoded(Image.new("RGB", (3000, 3000)), "HEIF")
    assert decode(data, 3).shape == (3000, 3000, 3)
    with pytest.raises(RefusedImage, match="exceeds the maximum image size"):
        decode(data.replace(struct.pack(">II", 3000, 3000), struct.pack(">II", 64, 64)), 3)
    with pytest.raises(RefusedImage, match="more others than it can show|too many pixels"):
        decode(data.replace(struct.pack(">II", 3000, 3000), struct.pack(">II", 30_000, 3_500)), 3)


def test_without_its_package_heic_is_refused_with_what_to_install():
    data = encoded(PHOTOGRAPH, "HEIF")
    reason = in_a_process(
        "import sys; sys.modules['pillow_heif'] = None\n"
        "from latentfaces.preprocessing.resize import RefusedImage, decode\n"
        f"try: decode({data!r}, 3)\n"
        "except RefusedImage as refusal: print(refusal)"
    )
    assert reason == 'HEIC is not read: pip install "latentfaces[heic]"\n'


def test_a_multi_picture_file_is_a_jpeg():
    data = encoded(PHOTOGRAPH, "MPO", save_all=True, append_images=[PHOTOGRAPH.rotate(180)])
    np.testing.assert_array_equal(decode(data, 3), np.asarray(Image.open(io.BytesIO(data))))


def test_no_program_is_started_for_a_file_within_a_file(tmp_path):
    """Ghostscript would run an EPS, and Pillow opens anything that lies in an IPTC."""
    ghostscript = tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    ghostscript.chmod(0o755)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    fields = [(3, 60, b"\1\0"), (3, 20, b"\0\x08"), (3, 30, b"\0\x08"), (3, 120, b"\0\5"), (8, 10, eps)]
    data = b"".join(struct.pack(">BBBH", 0x1C, *tag, len(value)) + value for *tag, value in fields)
    (tmp_path / "face.jpg").write_bytes(data)
    reason = in_a_process(
        "from latentfaces.preprocessing.resize import RefusedImage, decode\n"
        f"try: decode(open({str(tmp_path / 'face.jpg')!r}, 'rb').read(), 3)\n"
        "except RefusedImage as refusal: print(refusal)",
        PATH=f"{tmp_path}:{os.environ['PATH']}",
    )
    assert reason == "format IPTC is not read: convert the image to JPEG or PNG\n"
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize(
    "data",
    [
        overlapping_exif(),
        with_chunks(encoded(PHOTOGRAPH, "PNG"), chunk(b"eXIf", overlapping_exif())),
        encoded(PHOTOGRAPH, "WEBP", exif=b"Exif\0\0" + overlapping_exif()),
        encoded(PHOTOGRAPH, "AVIF", exif=PLAIN_EXIF).replace(PLAIN_EXIF, overlapping_exif()),
        grey_tiff(8, 8, (273, 4, [8]), (65000, 3, [0] * (1 << 21)), content=bytes(64)),
        encoded(PHOTOGRAPH, "WEBP", exif=b"Exif\0\0" * 500 + PLAIN_EXIF),
    ],
    ids=["tiff", "png", "webp", "avif", "numbers", "marks"],
)
def test_metadata_that_would_take_more_than_the_file_is_refused(data):
    with pytest.raises(RefusedImage, match="implausible metadata"):
        decode(data, 3)


def test_broken_metadata_is_passed_over():
    exif = b"Exif\0\0II*\0" + struct.pack("<IHHHII", 8, 1, 0x010F, 2, 1 << 30, 26)
    data = encoded(PHOTOGRAPH, "JPEG", exif=exif)
    np.testing.assert_array_equal(decode(data, 3), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize(
    "data, reason",
    [
        (grey_tiff(8, 8, (278, 4, [4]), (273, 4, [8] * 1000), content=bytes(64)), "implausible image"),
        (b"P2 2 2 255\n" + b"#\n" * 2000 + b"1 2 3 4", "implausible PNM: more than 1,000 comments"),
        (b"\xff\xd8" + b"\xff\xfe\0\2" * 20_000, "implausible JPEG: more than 10,000 segments"),
        (
            b"\xff\xd8" + (b"\xff\xe1" + struct.pack(">H", 65_500) + b"Exif\0\0" + bytes(65_492)) * 20
            + encoded(PHOTOGRAPH, "JPEG")[2:],
            "implausible JPEG: more than 1,048,576 bytes of Exif",
        ),
    ],
    ids=["strips", "comments", "segments", "exif"],
)  # fmt: skip
def test_work_that_is_repeated_again_and_again_is_refused(data, reason):
    with pytest.raises(RefusedImage, match=reason):
        decode(data, 3)


def test_long_comments_of_a_gif_are_left_out_and_short_ones_kept():
    plain = encoded(PHOTOGRAPH.quantize(16), "GIF", transparency=3)
    head = 13 + 3 * 16
    for blocks, shorter in ((100, False), (5000, True)):
        data = plain[:head] + b"!\xfe" + (b"\xff" + bytes(255)) * blocks + b"\0" + plain[head:]
        assert (defused(data) == plain) is shorter and (defused(data) == data) is not shorter
        np.testing.assert_array_equal(decode(data, 3), decode(plain, 3))


def test_a_png_is_read_whatever_comes_with_its_pixels():
    plain = encoded(PHOTOGRAPH, "PNG", transparency=tuple(PHOTOGRAPH.getpixel((0, 0))))
    bomb = zlib.compress(bytes(20 << 20), 9)
    long = (
        chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(2 << 20))),
        chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * (2 << 20))),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + bomb),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + bomb),
        chunk(b"tEXt", b"Comment\0" + bytes(65 << 20)),
        chunk(b"prVt", bytes(1 << 20)),
    )
    for before in (b"IDAT", b"IEND"):
        for chunks in (*((each,) for each in long), long):
            data = with_chunks(plain, *chunks, before=before)
            assert defused(data) == plain
            np.testing.assert_array_equal(decode(data, 3), decode(plain, 3))


def orientation_texts():
    xmp = '<rdf:Description tiff:Orientation="6"/>'
    exif = Image.Exif()
    exif[0x0112] = 6
    raw = exif.tobytes()
    profile = f"\nexif\n{len(raw)}\n{raw.hex()}\n"
    for compressed in (False, True):
        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp, zip=compressed)
        yield encoded(PHOTOGRAPH, "PNG", pnginfo=info)
        info = PngInfo()
        info.add_text("Raw profile type exif", profile, zip=compressed)
        yield encoded(PHOTOGRAPH, "PNG", pnginfo=info)
    yield encoded(PHOTOGRAPH, "PNG", exif=exif)


@pytest.mark.parametrize("data", list(orientation_texts()))
def test_texts_of_a_png_that_tell_its_orientation_are_read(data):
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert expected.shape == (36, 24, 3)
    np.testing.assert_array_equal(decode(data, 3), expected)
