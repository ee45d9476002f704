import numpy as np
import pytest
from PIL import Image, ImageColor

from latentfaces.common.pictures import INK, PAPER
from latentfaces.components.evaluate import plot
from latentfaces.components.evaluate.plot import KINDS, PALETTE, scatter, with_axes

PAPER_COLOUR, INK_COLOUR = (ImageColor.getrgb(colour) for colour in (PAPER, INK))


def is_ink(pixels):
    """Where text is, [H, W]."""
    return np.abs(pixels.astype(int) - INK_COLOUR).max(axis=-1) < 60


def columns_of(mask):
    """How many texts stand beside one another: runs of columns with ink, more than 8 pixels apart."""
    columns = np.flatnonzero(mask.any(axis=0))
    return 1 + np.count_nonzero(np.diff(columns) > 8)


def test_axes_stand_around_a_picture_that_stays_as_it_is():
    red = Image.new("RGB", (300, 200), "red")
    ticks = [(50, "-1.0"), (150, "0.0"), (250, "1.0")]
    sheet = np.asarray(with_axes(red, ("right", "upwards"), ticks, [(20, "1"), (180, "-1")]))
    rows, columns = np.nonzero((sheet == (255, 0, 0)).all(axis=-1))
    top, left = rows.min(), columns.min()
    assert len(rows) == 300 * 200 and (rows.max() - top, columns.max() - left) == (199, 299)
    below = is_ink(sheet[top + 200 :, :])
    for x, _ in ticks:
        assert below[:24, left + x - 20 : left + x + 20].any()
    assert columns_of(below[:22]) == 3
    beside = is_ink(sheet[top : top + 200, :left])
    assert beside[10:30].any() and beside[170:190].any() and not beside[50:150].any()
    assert is_ink(sheet[:top, left:]).any() and (sheet[:top, :left] == PAPER_COLOUR).all()


def test_ticks_that_would_touch_are_left_out():
    picture = Image.new("RGB", (300, 300))
    ticks = [(10 * place, f"{place / 10:.1f}") for place in range(30)]
    sheet = np.asarray(with_axes(picture, ("", ""), ticks, ticks))
    assert 5 <= columns_of(is_ink(sheet[324:346])) <= 10
    assert 5 <= columns_of(is_ink(sheet[24:324, :24]).T) <= 15


def test_gaps_in_a_picture_become_paper():
    sheet = np.asarray(with_axes(Image.new("RGBA", (50, 50)), ("", ""), [(25, "0")], [(25, "0")]))
    assert (sheet[24:74, -65:-15] == PAPER_COLOUR).all()


def colour(kind):
    """Of a point on paper."""
    return np.array(PALETTE[kind]) * 220 / 255 + 255 * 35 / 255


def centre(sheet, kind, below=40):
    """The middle of what has a kind's colour, (x, y), below the legend."""
    near = np.abs(sheet[below:].astype(int) - colour(kind)).max(axis=-1) < 12
    rows, columns = np.nonzero(near)
    return columns.mean(), rows.mean() + below


def test_points_lie_to_the_right_and_upwards_in_the_colours_of_the_legend():
    corners = np.array([[-1, -1], [3, -1], [-1, 7], [3, 7]], float)
    kinds = np.array([0, 1, 4, 3])
    sheet = np.asarray(scatter(corners, kinds, ["a", "b", "c", "d", "e"], ("x", "y")))
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = (centre(sheet, kind) for kind in kinds)
    assert abs(ax - cx) < 1 and abs(bx - dx) < 1 and abs(ay - by) < 1 and abs(cy - dy) < 1
    assert bx - ax == pytest.approx(560 / 1.08, abs=1) and ay - cy == pytest.approx(460 / 1.08, abs=1)
    for kind in range(5):  # in the legend
        assert np.isfinite(centre(sheet[:40], kind, below=0)).all()
    assert columns_of(is_ink(sheet[:30])) == 5


def test_kinds_beyond_the_colours_are_rings_and_a_long_legend_has_several_lines():
    points = np.arange(2 * KINDS, dtype=float).reshape(-1, 2)
    sheets = [scatter(points, np.arange(KINDS), [length * "x"] * KINDS, ("x", "y")) for length in (1, 20)]
    assert sheets[0].width == sheets[1].width and sheets[0].height + 40 < sheets[1].height
    sheet = np.asarray(scatter(points[:3], np.array([0, 8, 0]), ["x"] * KINDS, ("x", "y")))
    x, y = centre(sheet, 0, below=60)
    middle = sheet[round(y) - 4 : round(y) + 5, round(x) - 4 : round(x) + 5].min(axis=-1)
    assert middle[4, 4] > 200 and middle[4, :3].min() < 60  # paper within a ring


def test_points_without_any_range_are_drawn():
    sheet = np.asarray(scatter(np.ones((1, 2)), np.zeros(1, int), ["a"], ("x", "y")))
    assert np.isfinite(centre(sheet, 0)).all()


def test_ticks_are_few_round_numbers_within_the_range():
    rng = np.random.default_rng(0)
    for _ in range(500):
        low = rng.normal() * 10 ** rng.uniform(-3, 3)
        high = low + 10 ** rng.uniform(-3, 3)
        found = plot._ticks(low, high)
        assert 2 <= len(found) <= 8 and low <= min(found) + 1e-9 and max(found) <= high + 1e-9
        step = found[1] - found[0]
        digit = step / 10 ** np.floor(np.log10(step * 1.0001))
        assert min(abs(digit - each) for each in (1, 2, 5)) < 1e-6
