"""Faces: the eyes of a real one are found however it lies, and end where CelebA has them."""

import importlib.util
import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import photograph
from PIL import Image

from latentfaces.common.errors import UserError
from latentfaces.common.examples import load_split
from latentfaces.preprocessing import faces
from latentfaces.preprocessing.drawn_faces import draw_face
from latentfaces.preprocessing.faces import crop_face, find_eyes
from latentfaces.preprocessing.job import run
from latentfaces.preprocessing.untrusted import RefusedImage

# Eileen Collins, from a portrait by NASA, which is in the public domain
ASTRONAUT = np.asarray(Image.open(Path(__file__).parent / "astronaut.jpg"))
EYES = np.array([[64.2, 86.2], [107, 88]])  # as one sees them
EYES_IN_CELEBA = np.array([[69.5, 111], [108, 111]]) + 0.5  # in 178×218 pixels


def placed(image, middle, angle, scale, canvas):
    """Draws a square image into another, turned and scaled; returns the map from its pixels, [2, 3]."""
    half = len(image) / 2
    turn = cv2.getRotationMatrix2D((half, half), angle, scale)
    turn[:, 2] += np.subtract(middle, half)
    size = canvas.shape[1::-1]
    reduced = cv2.GaussianBlur(image, (0, 0), 0.4 / scale) if scale < 1 else image
    drawn = cv2.warpAffine(reduced, turn, size, flags=cv2.INTER_LINEAR)
    mask = cv2.warpAffine(np.ones_like(image), turn, size, flags=cv2.INTER_NEAREST)
    canvas[mask > 0] = drawn[mask > 0]
    return turn


def moved(points, turn):
    return points @ turn[:, :2].T + turn[:, 2]


def away(found, eyes):
    """How far eyes are from where they should be, as a part of their distance."""
    return np.linalg.norm(found - eyes, axis=1).max() / math.dist(*eyes)


def test_the_eyes_of_a_real_face_are_where_one_sees_them():
    assert away(find_eyes(ASTRONAUT), EYES) < 0.06
    mirrored = find_eyes(np.ascontiguousarray(ASTRONAUT[:, ::-1]))[::-1] * [-1, 1] + [176, 0]
    assert away(mirrored, EYES) < 0.06
    assert away(find_eyes(np.asarray(Image.fromarray(ASTRONAUT).convert("L"))[..., None]), EYES) < 0.06


@pytest.mark.parametrize("angle", [-40, -20, 0, 10, 35])
@pytest.mark.parametrize("scale", [0.6, 1, 3])
def test_a_face_is_cut_the_same_however_it_lies(angle, scale):
    canvas = np.full((800, 1000, 3), (120, 140, 110), np.uint8)
    turn = placed(ASTRONAUT, (540, 410), angle, scale, canvas)
    assert away(find_eyes(canvas), moved(EYES, turn)) < 0.08
    # The square that CelebA's alignment and the middle of 178×218 pixels make of the eyes, without its border
    square = EYES_IN_CELEBA - [0, 20]
    across, there = np.diff(EYES, axis=0)[0] @ [1, 1j], np.diff(square, axis=0)[0] @ [1, 1j]
    factor = there / across * 32 / 178
    straight = np.array([[factor.real, -factor.imag, 0], [factor.imag, factor.real, 0]])
    straight[:, 2] = square[0] * 32 / 178 - straight[:, :2] @ EYES[0]
    straight[:, 2] += straight[:, :2] @ [0.5, 0.5] - 0.5
    expected = cv2.warpAffine(cv2.GaussianBlur(ASTRONAUT, (0, 0), 2), straight, (32, 32))
    inside = (slice(8, 26), slice(8, 24))
    difference = crop_face(canvas, 32)[inside].astype(float) - expected[inside]
    assert np.abs(difference).mean() < 14
    assert np.corrcoef(crop_face(canvas, 32)[inside].ravel(), expected[inside].ravel())[0, 1] > 0.93


def test_drawn_faces_are_found_where_they_are_drawn():
    found = 0
    for seed in range(12):
        face = np.asarray(draw_face(np.random.default_rng(seed))[0])
        try:
            eyes = find_eyes(face)
        except RefusedImage:
            continue
        found += 1
        assert away(eyes, EYES_IN_CELEBA) < 0.35  # they look where they like
    assert found >= 5


def test_of_several_faces_the_largest_is_taken():
    canvas = np.full((700, 1200, 3), 128, np.uint8)
    turns = [
        placed(ASTRONAUT, (200 + 400 * i, 350), 15 * i, scale, canvas) for i, scale in enumerate((1, 2, 1.5))
    ]
    assert away(find_eyes(canvas), moved(EYES, turns[1])) < 0.08


def test_what_is_cut_out_lies_on_the_pixels_where_it_should():
    # A slope's value is its place: so half a pixel's error would be seen, in every size.
    x, y = np.meshgrid(np.arange(0.5, 240), np.arange(0.5, 240))
    slopes = np.stack([x, y, x], axis=2).astype(np.uint8)
    eyes = np.array([[100, 110], [140, 120]])
    for size in (8, 16, 64, 200, 400):
        cut, to_image = faces._cut(slopes, eyes, np.array([[0.3, 0.4], [0.7, 0.4]]), size)
        np.testing.assert_allclose(moved(np.array([[0.3, 0.4], [0.7, 0.4]]) * size, to_image), eyes)
        rows, columns = np.mgrid[0:size, 0:size] + 0.5
        expected = moved(np.stack([columns, rows], axis=2), to_image)
        inside = (expected > 4).all(axis=2) & (expected < 236).all(axis=2)
        assert np.abs(cut[..., :2] + 0.5 - expected)[inside].max() < 1.2, size


def test_nothing_aliases():
    stripes = np.zeros((1600, 1600, 3), np.uint8)
    stripes[:, ::2] = 255
    for eyes in ([[700, 700], [900, 700]], [[700, 700], [840, 780]]):
        cut, _ = faces._cut(stripes, np.array(eyes), np.array([[0.35, 0.5], [0.65, 0.5]]), 32)
        assert cut.std() < 6 and abs(cut.mean() - 127.5) < 3


@pytest.mark.parametrize(
    "image",
    [
        photograph(0, 300, 400),
        np.zeros((1, 1, 3), np.uint8),
        np.zeros((5, 3000, 1), np.uint8),
        np.zeros((40_000, 1, 3), np.uint8),
        np.random.default_rng(0).integers(0, 256, (500, 500, 3), dtype=np.uint8),
    ],
    ids=["photograph", "pixel", "line", "column", "noise"],
)
def test_an_image_without_a_face_is_refused(image):
    with pytest.raises(RefusedImage, match="^no face was found in it$"):
        crop_face(image, 16)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_face_at_the_border_is_cut_with_what_is_beyond_like_the_border(channels):
    near = np.ascontiguousarray(ASTRONAUT[60:, 30:, :channels])
    cut = crop_face(near, 64)
    assert cut.shape == (64, 64, channels) and cut.dtype == np.uint8
    np.testing.assert_array_less(np.abs(np.diff(cut[:8].astype(int), axis=0)), 30)  # rows of the border's


def test_threads_find_the_same(tmp_path):
    canvases = [photograph(seed, 300, 400) for seed in range(6)]
    for number, canvas in enumerate(canvases):
        placed(ASTRONAUT, (200, 150), 5 * number, 1 + number / 10, canvas)
    alone = [crop_face(canvas, 32) for canvas in canvases]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            np.testing.assert_array_equal(list(pool.map(lambda each: crop_face(each, 32), canvases)), alone)


@pytest.fixture
def people(tmp_path):
    """A folder of 9 photographs with a face and 1 without."""
    folder = tmp_path / "people"
    folder.mkdir()
    for number in range(9):
        canvas = photograph(number, 300, 400)
        placed(ASTRONAUT, (160 + 10 * number, 150), 4 * number, 1 + number / 10, canvas)
        Image.fromarray(canvas).save(folder / f"{number}.png")
    Image.fromarray(photograph(99, 300, 400)).save(folder / "landscape.png")
    return folder


def test_a_job_cuts_out_faces_and_refuses_what_has_none(people, tmp_path):
    output = tmp_path / "set"
    dataset = run(str(people), str(output), image_size=32, crop="faces", max_rejected=0.1)
    assert dataset.rejected == 1
    refusal = {"source": "landscape.png", "reason": "no face was found in it"}
    assert json.loads((output / "rejected.jsonl").read_text()) == refusal
    assert {name: split.examples for name, split in dataset.splits.items()} == {
        "train": 8,
        "valid": 0,
        "test": 1,
    }
    images = np.concatenate([load_split(str(output), split)[0] for split in ("train", "test")])
    expected = [crop_face(np.asarray(Image.open(people / f"{number}.png")), 32) for number in range(9)]
    assert {image.tobytes() for image in images} == {image.tobytes() for image in expected}


def test_small_faces_are_refused_by_name():
    canvas = np.full((800, 900, 3), 128, np.uint8)
    placed(ASTRONAUT, (400, 400), 10, 1, canvas)
    side = math.dist(*EYES) * 178 / 38.5
    assert crop_face(canvas, 16, int(0.9 * side)).shape == (16, 16, 3)
    with pytest.raises(RefusedImage, match=r"^too small: its face's square has (1[89]|20)\d×\d+ pixels$"):
        crop_face(canvas, 16, int(1.1 * side))


def test_without_a_detector_the_user_is_told_before_any_work(people, tmp_path, monkeypatch):
    faces.find_detector.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'needs a face detector: pip install "latentfaces\[faces\]"'):
        run(str(people), str(tmp_path / "set"), crop="faces")
    assert not (tmp_path / "set").exists()
