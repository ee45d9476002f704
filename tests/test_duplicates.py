"""Images that are there twice, as files, mended, recompressed or resized, are found, and nothing else is."""

import io
import json

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from test_job import examples, files

from latentfaces.common.dataset import read_dataset
from latentfaces.preprocessing import duplicates
from latentfaces.preprocessing.drawn_faces import synthesize
from latentfaces.preprocessing.duplicates import Hashes, match
from latentfaces.preprocessing.job import run
from latentfaces.preprocessing.resize import decode, smart_resize
from latentfaces.preprocessing.sources.split import hash_split


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """400 faces, as files."""
    folder = tmp_path_factory.mktemp("drawn")
    synthesize(str(folder), 400, 0)
    return sorted((folder / "img_align_celeba").iterdir())


def recompressed(image):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=40)
    return Image.open(buffer)


def halved(image):
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)


def brightened(image):
    return ImageEnhance.Brightness(image).enhance(1.05)


def saved(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def matches(contents, size=32):
    hashes = Hashes()
    for content in contents:
        hashes.add(smart_resize(decode(content, 3), size))
    return list(match(hashes.array()))


def test_different_faces_are_no_copies_and_changed_ones_are_near(faces):
    originals = [path.read_bytes() for path in faces]
    assert matches(originals) == []
    for change, least in ((recompressed, 40), (brightened, 40), (halved, 36)):
        found = matches([*originals, *(saved(change(Image.open(path))) for path in faces[:40])])
        assert len(found) >= least
        assert all(index == 400 + other and not exact for index, other, exact in found)


def test_of_many_copies_the_first_counts(faces):
    one, two = faces[0].read_bytes(), faces[1].read_bytes()
    near = saved(recompressed(Image.open(faces[0])))
    assert matches([one, two, one, near, near, one]) == [
        (2, 0, True),
        (3, 0, False),
        (4, 0, False),
        (5, 0, True),
    ]
    assert matches([near, one, one]) == [(1, 0, False), (2, 0, False)]
    assert matches([one]) == matches([]) == []


def test_flat_images_are_copies_only_of_the_same_colour():
    flat = [np.full((16, 16, 3), colour, np.uint8) for colour in [(200, 0, 0), (0, 0, 200), (201, 0, 0)]]
    for images, expected in ((flat, [(2, 0, False)]), ([flat[0][..., :1], flat[1][..., :1]], [])):
        hashes = Hashes()
        for image in images:
            hashes.add(np.ascontiguousarray(image))
        assert list(match(hashes.array())) == expected


def test_many_that_look_alike_are_all_told_of_the_first():
    noise, hashes = np.random.default_rng(0), Hashes()
    one = noise.integers(50, 200, (8, 8, 3))
    images = [(one + noise.integers(0, 2, one.shape)).astype(np.uint8) for _ in range(500)]
    for image in images:  # more pairs than are looked at at a time
        hashes.add(image)
    assert list(match(hashes.array())) == [(index, 0, False) for index in range(1, 500)]


def test_where_nearly_all_look_alike_only_the_same_pixels_are_told(monkeypatch):
    monkeypatch.setattr(duplicates, "_MOST_PAIRS", 100)
    noise, hashes = np.random.default_rng(0), Hashes()
    images = [noise.integers(100, 103, (16, 16, 3), np.uint8) for _ in range(30)]
    for image in [*images, images[3]]:
        hashes.add(image)
    assert list(match(hashes.array())) == [(30, 3, True)]


@pytest.fixture(scope="module")
def with_copies(faces, tmp_path_factory):
    """A folder of 40 faces, and of one in each split a copy in each other one; (folder, {copy: original})."""
    folder = tmp_path_factory.mktemp("copies")
    names = {split: [] for split in ("test", "valid", "train")}
    for number, path in enumerate(faces[:40]):
        name = f"{number:04}.jpg"
        names[hash_split(name)].append(name)
        (folder / name).write_bytes(path.read_bytes())
    copies = {}
    for original, change in [("test", None), ("valid", recompressed), ("train", brightened)]:
        taken = names[original][0]
        for split in names:
            name = next(
                name for number in range(1000) if hash_split(name := f"{taken}-{number}.png") == split
            )
            content = (folder / taken).read_bytes()
            (folder / name).write_bytes(saved(change(Image.open(folder / taken))) if change else content)
            copies[name] = taken
    return folder, copies


ORDER = ["test", "valid", "train"]


def expected_of(copies):
    """Of each picture and its copies, which the held-out one is, and so which are copies."""
    result = {}
    for original in set(copies.values()):
        alike = [original, *(name for name, of in copies.items() if of == original)]
        alike.sort(key=lambda name: (ORDER.index(hash_split(name)), name))
        result |= dict.fromkeys(alike[1:], alike[0])
    return result


@pytest.mark.parametrize("place", ["local", "gs"])
def test_copies_are_listed_and_left_out_if_asked(with_copies, tmp_path, request, place, caplog):
    folder, copies = with_copies
    output = tmp_path / "set" if place == "local" else request.getfixturevalue("bucket") / "set"
    caplog.set_level("INFO")
    options = {"image_size": 32, "examples_per_shard": 5}
    everything = run(str(folder), str(output), **options)
    listed = [json.loads(line) for line in files(output)["duplicates.jsonl"].splitlines()]
    found = {each["image"]: each["of"] for each in listed}
    assert found == expected_of(copies)
    assert len(listed) == 9 and not any(each["left_out"] for each in listed)
    assert all(each["split"] == hash_split(each["image"]) for each in listed)
    assert all(each["of_split"] == hash_split(each["of"]) for each in listed)
    assert (
        "9 images are copies of others, exactly or nearly, 8 of them of images in another split"
        in caplog.text
    )
    assert "--drop-duplicates leaves them out" in caplog.text

    fewer = run(str(folder), str(output), drop_duplicates=True, **options)
    listed = [json.loads(line) for line in files(output)["duplicates.jsonl"].splitlines()]
    assert len(listed) == 9 and all(each["left_out"] for each in listed)
    counts = {split: [each["split"] for each in listed].count(split) for split in ORDER}
    for split in ORDER:
        assert fewer.splits[split].examples == everything.splits[split].examples - counts[split]
    if place == "local":
        assert read_dataset(output) == fewer
        names = [name for split in ORDER for _, name, _ in examples(output, split)]
        assert sorted(names) == sorted({path.name for path in folder.iterdir()} - found.keys())
        again = tmp_path / "again"
        run(str(folder), str(again), drop_duplicates=True, beam_options=["--direct_num_workers=1"], **options)
        assert files(again) == files(output)


def test_a_copy_is_left_out_with_its_mirror_image(with_copies, tmp_path):
    folder, copies = with_copies
    run(str(folder), str(tmp_path / "set"), image_size=32, drop_duplicates=True, flip=True)
    names = {name for name in (path.name for path in folder.iterdir()) if name not in expected_of(copies)}
    flipped = {f"{name}#flipped" for name in names if hash_split(name) == "train"}
    assert {name for split in ORDER for _, name, _ in examples(tmp_path / "set", split)} == names | flipped


def test_refused_images_between_do_not_shift_what_is_told(with_copies, tmp_path):
    folder, copies = with_copies
    source = tmp_path / "source"
    source.mkdir()
    for path in folder.iterdir():
        (source / path.name).write_bytes(path.read_bytes())
        (source / f"{path.name}-broken.jpg").write_bytes(b"no image")
    run(str(source), str(tmp_path / "set"), image_size=32, max_rejected=0.6, drop_duplicates=True)
    listed = [json.loads(line) for line in (tmp_path / "set" / "duplicates.jsonl").read_text().splitlines()]
    assert {each["image"]: each["of"] for each in listed} == expected_of(copies)
    names = [name for split in ORDER for _, name, _ in examples(tmp_path / "set", split)]
    assert sorted(names) == sorted(
        {path.name for path in folder.iterdir()} - {each["image"] for each in listed}
    )
