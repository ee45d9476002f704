import io

import numpy as np
import pytest
from PIL import Image

from latentfaces.common.images import to_float, to_uint8
from latentfaces.common.pictures import animated, grid, in_rows, labelled, on_paper, png, written


def random_images(*shape):
    return np.random.default_rng(0).random(shape, np.float32)


def test_large_images_are_pasted_unchanged_in_their_places():
    images = random_images(2, 3, 70, 80, 3)
    sheet = np.asarray(grid(images))
    assert sheet.shape == (2 * 70 + 4, 3 * 80 + 2 * 4, 4)
    for row in range(2):
        for column in range(3):
            cell = sheet[row * 74 : row * 74 + 70, column * 84 : column * 84 + 80]
            np.testing.assert_array_equal(cell[..., :3], to_uint8(images[row, column]))
            assert (cell[..., 3] == 255).all()
    assert (sheet[70:74, :, 3] == 0).all() and (sheet[:, 80:84, 3] == 0).all()


def test_small_images_are_enlarged_by_a_whole_factor():
    for size, enlarged in ((32, 96), (28, 112), (64, 128), (65, 65)):
        assert grid(random_images(1, 1, size, size, 3)).size == (enlarged, enlarged)
    flat = np.full((1, 1, 32, 32, 3), 0.5, np.float32)
    assert (np.asarray(grid(flat))[..., :3] == 128).all()


def test_of_very_long_images_a_line_is_left():
    assert grid(np.zeros((1, 2, 1, 2000, 3), np.uint8)).size == (2 * 256 + 4, 1)


def test_very_large_images_are_reduced():
    images = np.full((1, 2, 512, 384, 3), 0.5, np.float32)
    assert grid(images).size == (2 * 192 + 4, 256)
    assert (np.asarray(grid(images, tight=True)) == (128, 128, 128, 255)).all()
    assert grid(images, tight=True).size == (2 * 192, 256)


def test_tight_grids_have_no_gaps_and_grey_images_stay_grey():
    images = random_images(3, 2, 28, 28, 1)
    sheet = np.asarray(grid(images, tight=True))
    assert sheet.shape == (84, 56, 4) and (sheet[..., 3] == 255).all()
    np.testing.assert_array_equal(sheet[28:56, 28:, 0], to_uint8(images[1, 1, ..., 0]))
    np.testing.assert_array_equal(sheet[..., 0], sheet[..., 2])


def test_groups_of_rows_stand_apart():
    sheet = np.asarray(grid(random_images(4, 1, 70, 70, 3), rows_in_group=2))
    shown = sheet[:, 0, 3] == 255
    starts = np.flatnonzero(np.diff(shown.astype(int), prepend=0) == 1)
    assert np.diff(starts).tolist() == [74, 82, 74]


def test_to_uint8_rounds_and_clips_floats_and_keeps_bytes():
    floats = np.array([-0.2, 0, 0.5, 1, 3], np.float32)
    assert to_uint8(floats).tolist() == [0, 0, 128, 255, 255]
    every = np.arange(256, dtype=np.uint8)
    assert to_uint8(every) is every
    np.testing.assert_array_equal(to_uint8(to_float(every)), every)


def test_in_rows_fills_whole_rows():
    images = np.arange(11)[:, None, None, None]
    assert in_rows(images, 4)[..., 0, 0, 0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert in_rows(images[:3], 8)[..., 0, 0, 0].tolist() == [[0, 1, 2]]


def test_png_is_lossless_and_repeatable():
    sheet = grid(random_images(2, 2, 32, 32, 3))
    content = png(sheet)
    assert content == png(sheet)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), np.asarray(sheet))


def test_names_stand_beside_a_grid_that_stays_as_it_is():
    sheet = grid(random_images(2, 3, 70, 80, 3))
    for columns, is_upright in ((["-1", "0", "1"], False), (["-1", "0", "Wearing_Lipstick"], True)):
        whole = labelled(sheet, ["Smiling", "Male"], columns)
        left, top = whole.width - sheet.width, whole.height - sheet.height
        assert np.array_equal(np.asarray(whole)[top:, left:], np.asarray(sheet))
        assert (top > 100) == is_upright
        pixels = np.asarray(whole)
        for row in (0, 1):  # each name is dark on light, in the middle of its row
            name = pixels[top + row * 74 : top + row * 74 + 70, : left - 4, :3]
            written_rows = np.flatnonzero(name.min(axis=(1, 2)) < 128)
            assert 20 < written_rows.min() < written_rows.max() < 55
            assert (name[:10] == 255).all()
        assert (pixels[:top, :left, 3] == 0).all()


def test_of_a_long_name_the_beginning_is_written():
    sheet = grid(random_images(1, 1, 70, 80, 3))
    long, longer = (labelled(sheet, ["x" * length], [""]) for length in (24, 200))
    assert long.size == longer.size and long.tobytes() == longer.tobytes()


def test_writing_has_the_colours_and_the_place_that_are_asked_for():
    left, right = (np.asarray(written("I", 100, 40, align, "#ff0000", "#0000ff")) for align in "lr")
    assert left.shape == (40, 100, 3) and left[0, 0].tolist() == [255, 0, 0]
    assert np.flatnonzero(left[..., 2].max(axis=0) > 128).max() < 30
    assert np.flatnonzero(right[..., 2].max(axis=0) > 128).min() > 70


def moving(count):
    """Frames in which an orange square moves over a coloured ground, with a transparent edge."""
    frames = []
    for place in range(count):
        frame = Image.new("RGBA", (60, 40))
        frame.paste((40, 120, 200, 255), (0, 0, 56, 40))
        frame.paste((250, 160, 40, 255), (10 + 3 * place, 10, 20 + 3 * place, 20))
        frames.append(frame)
    return frames


@pytest.mark.parametrize(("kind", "tolerance"), [("webp", 70), ("gif", 2)])
def test_an_animation_shows_its_frames_again_and_again(kind, tolerance):
    frames = moving(10)
    content = animated(frames, kind, 120)
    assert content == animated(frames, kind, 120)
    opened = Image.open(io.BytesIO(content))
    assert (opened.format.lower(), opened.n_frames, opened.info["loop"]) == (kind, 10, 0)
    for place, frame in enumerate(frames):
        opened.seek(place)
        shown = np.asarray(opened.convert("RGB")).astype(int)
        assert opened.info["duration"] == 120
        apart = np.abs(shown - np.asarray(on_paper(frame)))
        assert apart.mean() < tolerance / 10 and np.quantile(apart, 0.99) <= tolerance


def test_what_is_transparent_becomes_paper():
    sheet = np.asarray(on_paper(grid(random_images(1, 2, 70, 70, 3))))
    assert sheet.shape == (70, 144, 3) and (sheet[:, 70:74] == 255).all()
    np.testing.assert_array_equal(sheet[:, :70], to_uint8(random_images(1, 2, 70, 70, 3))[0, 0])
