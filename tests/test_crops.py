"""The picture of what was cut out of what."""

import io
import json
import logging

import numpy as np
import pytest
from PIL import Image

from latentfaces.common import pictures, storage
from latentfaces.preprocessing import crops
from latentfaces.preprocessing.job import run
from latentfaces.preprocessing.sources.split import hash_split

INPUT, RESULT = (55, 56), (170, 56)  # places in a pair: the middle of the input, and of the result
COLOURS = {f"{number}.png": (number, 255 - number, 100) for number in range(0, 250, 2)}


@pytest.fixture
def coloured(tmp_path):
    """125 images, each of one colour, but for a stripe that the middle does not have; and 2 that are none."""
    folder = tmp_path / "coloured"
    folder.mkdir()
    for name, colour in COLOURS.items():
        image = Image.new("RGB", (90, 30), colour)
        image.paste("white", (0, 0, 20, 30))
        image.save(folder / name)
    for name in ("00.png", "zz.png"):
        (folder / name).write_text("no image")
    return folder


def pairs(content, count):
    """(middle of the input, its left edge, middle of the result) of each pair in a picture, as colours."""
    sheet = np.asarray(Image.open(io.BytesIO(content)))
    assert sheet.shape == (44 + -(-count // 8) * 126, 8 * 240 + 14, 3)
    tops, lefts = (44 + 126 * (np.arange(count) // 8)), (14 + 240 * (np.arange(count) % 8))
    corners = zip(tops.tolist(), lefts.tolist(), strict=True)
    return [
        tuple(tuple(sheet[top + y, left + x].tolist()) for x, y in (INPUT, (5, 56), RESULT))
        for top, left in corners
    ]


@pytest.mark.parametrize("place", ["local", "gs"])
def test_inputs_of_all_splits_are_shown_beside_their_results(coloured, tmp_path, request, place):
    output = tmp_path / "set" if place == "local" else request.getfixturevalue("bucket") / "set"
    run(str(coloured), str(output), image_size=8, examples_per_shard=30, max_rejected=0.1)
    shown = pairs(storage.read(output / "grids" / "crops.png"), crops.MOST)
    names = {colour: name for name, colour in COLOURS.items()}
    assert all(middle == result and edge == (255, 255, 255) for middle, edge, result in shown)
    shown_names = [names[middle] for middle, _, _ in shown]
    assert len(set(shown_names)) == crops.MOST
    splits = [hash_split(name) for name in shown_names]
    assert splits.count("train") > 40 and splits.count("valid") >= 3 and splits.count("test") > 3
    assert list(storage.list_files(output / "grids")) == ["crops.png"]


def test_few_inputs_are_all_shown_but_for_the_refused(coloured, tmp_path):
    for path in sorted(coloured.glob("1*.png")):
        path.unlink()
    left = len(list(coloured.iterdir())) - 2
    output = tmp_path / "set"
    run(str(coloured), str(output), image_size=8, channels=1, max_rejected=0.9)
    shown = pairs((output / "grids" / "crops.png").read_bytes(), min(left, crops.MOST))
    assert all(middle == result and len(set(middle)) == 1 for middle, _, result in shown)


def test_a_picture_that_fails_ends_no_job_and_no_older_one_stays(coloured, tmp_path, monkeypatch, caplog):
    output = tmp_path / "set"
    run(str(coloured), str(output), image_size=8, max_rejected=0.1)
    assert (output / "grids" / "crops.png").exists()

    def fail(image):
        raise MemoryError("no picture today")

    monkeypatch.setattr(crops, "png", fail)
    with caplog.at_level(logging.WARNING):
        dataset = run(str(coloured), str(output), image_size=4, max_rejected=0.1)
    assert dataset.image_shape == (4, 4, 3) and "no picture today" in caplog.text
    assert not list((output / "grids").iterdir())
    assert json.loads((output / "dataset.json").read_text())["image_shape"] == [4, 4, 3]
    monkeypatch.setattr(crops, "png", pictures.png)
    run(str(coloured), str(output), image_size=8, max_rejected=0.1)
    assert (output / "grids" / "crops.png").exists()


def test_a_picture_that_cannot_be_written_ends_no_job(coloured, tmp_path, monkeypatch, caplog):
    output, publish = tmp_path / "set", storage.publish

    def fail(file, target, **options):
        if target.name == "crops.png":
            raise OSError(28, "No space left on device")
        publish(file, target, **options)

    monkeypatch.setattr(storage, "publish", fail)
    run(str(coloured), str(output), image_size=8, max_rejected=0.1)
    assert (output / "dataset.json").exists() and not list((output / "grids").iterdir())
    assert "grids/crops.png could not be written" in caplog.text and not list(output.glob(".job-*"))


@pytest.mark.parametrize("shape", [(1, 9000, 3), (9000, 1, 1), (1, 1, 3), (200, 300, 1)])
def test_any_shape_fits(shape):
    assert crops.pair(np.zeros(shape, np.uint8), np.zeros((500, 500, shape[2]), np.uint8)).size == (226, 112)
