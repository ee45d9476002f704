"""Damaged and hostile inputs by the thousand: no crash, no hang, bounded memory, every one accounted for."""

import io
import json
import os
import random
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from conftest import photograph, resident
from PIL import Image

from latentfaces.common.dataset import read_dataset
from latentfaces.preprocessing.job import run
from latentfaces.preprocessing.resize import RefusedImage, decode, smart_resize
from latentfaces.preprocessing.untrusted import MAX_PIXELS

CASES = 4000
LONGEST_SECONDS = 10.0
LARGEST_MEMORY = 16 * MAX_PIXELS + (400 << 20)  # WebP and AVIF take most; and the process

FORMATS = {
    "JPEG": {},
    "PNG": {},
    "WEBP": {},
    "GIF": {},
    "BMP": {},
    "TIFF": {"compression": "tiff_lzw"},
    "PPM": {},
    "AVIF": {},
    "HEIF": {},
}
REFUSED_FORMATS = {
    "TGA": {"compression": "tga_rle"},
    "ICO": {},
    "PCX": {},
    "SGI": {},
    "JPEG2000": {},
}


def valid_images():
    """{format: content} of small photographs, some with transparency."""
    images = {}
    for number, (name, options) in enumerate({**FORMATS, **REFUSED_FORMATS}.items()):
        image = Image.fromarray(photograph(number, 24, 32))
        if name in ("PNG", "WEBP", "ICO"):
            image.putalpha(128)
        buffer = io.BytesIO()
        image.save(buffer, name, **options)
        images[name] = buffer.getvalue()
    return images


def mutate(source, images):
    """One damaged or hostile file."""
    name = source.choice(sorted(images))
    content = bytearray(images[name])
    kind = source.choice(["cut", "bits", "bytes", "zeros", "header", "huge", "insert", "garbage", "zip"])
    if kind == "cut":
        del content[source.randrange(len(content)) :]
    elif kind == "bits":
        for _ in range(source.randint(1, 20)):
            content[source.randrange(len(content))] ^= 1 << source.randrange(8)
    elif kind == "bytes":
        for _ in range(source.randint(1, 8)):
            content[source.randrange(min(len(content), 200))] = source.choice([0, 1, 0x7F, 0x80, 0xFF])
    elif kind == "zeros":
        start = source.randrange(len(content))
        content[start : start + source.randint(1, 200)] = bytes(min(200, len(content) - start))
    elif kind == "header":
        other = images[source.choice(sorted(images))]
        length = source.choice([2, 4, 8, 16, 32])
        content[:length] = other[:length]
    elif kind == "huge":  # a declared size, wherever the format has it: 24 or 32 in any width and byte order
        side = source.choice([9000, 60_000, 65_535, 1 << 24, (1 << 31) - 1, (1 << 32) - 1])
        for value in (24, 32):
            for form, limit in (("<I", 32), (">I", 32), ("<H", 16), (">H", 16)):
                content = content.replace(
                    struct.pack(form, value), struct.pack(form, min(side, (1 << limit) - 1)), 1
                )
    elif kind == "insert":
        place = source.randrange(len(content))
        content[place:place] = source.randbytes(source.randint(1, 300))
    elif kind == "garbage":
        content = bytearray(source.randbytes(source.randint(0, 500)))
    else:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("inner.zip" if source.random() < 0.5 else "face.jpg", bytes(content))
        content = buffer.getvalue()
    return bytes(content)


def decode_all(seed):
    """Decodes all the cases; prints how many were decoded and refused, the slowest, and the memory."""
    source, images = random.Random(seed), valid_images()
    decoded = refused = 0
    slowest = 0.0
    for number in range(CASES):
        content = mutate(source, images)
        started = time.monotonic()
        try:
            pixels = smart_resize(decode(content, 1 + 2 * (number % 2)), 16)
            assert pixels.shape == (16, 16, 1 + 2 * (number % 2)) and pixels.dtype == "uint8"
            decoded += 1
        except RefusedImage as refusal:
            assert str(refusal) and "\n" not in str(refusal)
            refused += 1
        slowest = max(slowest, time.monotonic() - started)
    counts = {"decoded": decoded, "refused": refused}
    print(json.dumps(counts | {"slowest": slowest, "memory": resident()}))


def test_no_damaged_image_crashes_hangs_or_takes_all_memory():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    script = "import test_fuzz; test_fuzz.decode_all(3)"
    # A process of its own: what a decoder written in C can do at worst, it then does there.
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    assert result["decoded"] + result["refused"] == CASES
    assert min(result["decoded"], result["refused"]) > CASES // 20  # both ends of the scale were met
    assert result["slowest"] < LONGEST_SECONDS
    assert result["memory"] < LARGEST_MEMORY


NAMES = [
    "../../{}",
    "/etc/{}",
    "C:\\{}",
    "a/../{}",
    "\u202e{}",
    "x\n{}",
    "{}\t ",
    "%2e%2e/{}",
    "{} é",
    "'{}\"",
    "d{}/e.jpg",
]


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_every_damaged_input_of_a_job_is_accounted_for_by_name(tmp_path, form):
    source, images = random.Random(7), valid_images()
    inputs = {f"{number:04d}.jpg": mutate(source, images) for number in range(300)}
    inputs |= {
        f"good{number}.{name.lower()}": content for number, (name, content) in enumerate(images.items())
    }
    if form == "folder":
        path = tmp_path / os.fsdecode(b"source-\xfc")
        path.mkdir()
        for name, content in inputs.items():
            (path / name).write_bytes(content)
        for number, content in enumerate(images.values()):  # names that are not UTF-8
            (path / os.fsdecode(b"\xff%d.jpg" % number)).write_bytes(content)
            inputs[rf"\xff{number}.jpg"] = content
    else:
        path = tmp_path / "source.zip"
        inputs |= {
            name.format(number): content for name in NAMES for number, content in enumerate(images.values())
        }
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in inputs.items():
                archive.writestr(name, content)
            archive.writestr("bomb.jpg", bytes(300 << 20))
        inputs["bomb.jpg"] = b""
    before = {file for file in tmp_path.parent.rglob("*") if tmp_path not in file.parents}
    dataset = run(str(path), str(tmp_path / "set"), image_size=16, max_rejected=1)
    rejected = [json.loads(line) for line in (tmp_path / "set" / "rejected.jsonl").open()]
    written = [name for split in dataset.splits for name in names(tmp_path / "set", split)]
    assert sorted([*written, *(line["source"] for line in rejected)]) == sorted(inputs)
    assert all(line["reason"] for line in rejected) and dataset.rejected == len(rejected)
    assert {f"good{number}.{name.lower()}" for number, name in enumerate(FORMATS)} <= set(written)
    for number, name in enumerate(REFUSED_FORMATS, len(FORMATS)):
        reasons = [line["reason"] for line in rejected if line["source"] == f"good{number}.{name.lower()}"]
        assert reasons == [f"format {name} is not read: convert the image to JPEG or PNG"]
    assert {file for file in tmp_path.parent.rglob("*") if tmp_path not in file.parents} == before


def names(folder, split):
    """The file names of a split's examples, read by TensorFlow."""
    import tensorflow as tf

    for shard in read_dataset(folder).splits[split].shards:
        for record in tf.data.TFRecordDataset(str(folder / shard.name)):
            example = tf.train.Example.FromString(record.numpy())
            yield example.features.feature["filename"].bytes_list.value[0].decode()
