"""Pictures with axes, drawn with Pillow: a plane of images, and points in a plane.

They have a light background of their own, so that they are read on a dark page too.
"""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from latentfaces.common.pictures import INK, PAPER, on_paper

# Told apart by the colour-blind: Okabe & Ito 2008, https://jfly.uni-koeln.de/color, the yellow last.
PALETTE = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167),
           (213, 94, 0), (86, 180, 233), (0, 0, 0), (240, 228, 66))  # fmt: skip
KINDS = 2 * len(PALETTE)  # of points: discs of each colour, then rings

_LINE = "#dfe3e8"
_FONT = 15
_WIDTH, _HEIGHT = 560, 460  # pixels of a plane of points
_RADIUS = 4


def with_axes(
    picture: Image.Image,
    names: tuple[str, str],
    x_ticks: Sequence[tuple[float, str]],
    y_ticks: Sequence[tuple[float, str]],
) -> Image.Image:
    """Puts axes to the left of a picture and below it; of ticks that would touch, some are left out.

    Args:
        picture: what is transparent in it becomes paper.
        names: of the axis to the right, written below it, and of that upwards, written above it.
        x_ticks: pixels from the left, and what is written there.
        y_ticks: pixels from the top, and what is written there.

    Returns:
        mode "RGB".
    """
    font = ImageFont.load_default(_FONT)
    line = round(1.6 * _FONT)
    left = round(max(font.getlength(text) for _, text in y_ticks)) + 12
    right = _FONT  # half of a tick's text may stand out
    sheet = Image.new("RGB", (left + picture.width + right, picture.height + 3 * line), PAPER)
    sheet.paste(on_paper(picture), (left, line))
    draw = ImageDraw.Draw(sheet)
    bottom = line + picture.height
    widest = max(font.getlength(text) for _, text in x_ticks)
    for x, text in _apart(x_ticks, widest + 8):
        draw.text((left + x, bottom + 4), text, INK, font, anchor="ma")
    for y, text in _apart(y_ticks, line):
        draw.text((left - 6, line + y), text, INK, font, anchor="rm")
    draw.text((left + picture.width / 2, bottom + line), names[0], INK, font, anchor="ma")
    draw.text((left, 4), names[1], INK, font)
    return sheet


def with_values(sheet: Image.Image, names: tuple[str, str], x: np.ndarray, y: np.ndarray) -> Image.Image:
    """Puts axes to a plane of images.

    Args:
        sheet: rows and columns of images.
        names: of the axes.
        x: what the columns stand for, from left to right.
        y: what the rows stand for, from the bottom to the top.

    Returns:
        mode "RGB".
    """
    x_ticks, y_ticks = (
        [((place + 0.5) * side / len(values), f"{value:z.2f}") for place, value in enumerate(values)]
        for side, values in zip(sheet.size, (x, y[::-1]), strict=True)
    )
    return with_axes(sheet, names, x_ticks, y_ticks)


def scatter(
    points: np.ndarray, kinds: np.ndarray, legend: Sequence[str], names: tuple[str, str]
) -> Image.Image:
    """Draws points in a plane, each in the colour of its kind.

    Args:
        points: [N, 2], to the right and upwards.
        kinds: [N], an index in `legend` for each.
        legend: what each kind is called, at most `KINDS`.
        names: of the axes.

    Returns:
        mode "RGB".
    """
    low, high = points.min(axis=0), points.max(axis=0)
    margin = np.where(high > low, 0.04 * (high - low), 1)
    low, high = low - margin, high + margin
    size = np.array([_WIDTH, _HEIGHT])

    def place(values: np.ndarray, axis: int) -> np.ndarray:
        shares = (values - low[axis]) / (high[axis] - low[axis])
        return size[axis] * (shares if axis == 0 else 1 - shares)

    ticks = [
        [(float(place(np.array(at), axis)), f"{at:g}") for at in _ticks(low[axis], high[axis])]
        for axis in (0, 1)
    ]
    panel = Image.new("RGB", (2 * _WIDTH, 2 * _HEIGHT), PAPER)  # reduced below, which smooths the edges
    draw = ImageDraw.Draw(panel, "RGBA")
    for x, _ in ticks[0]:
        draw.line((2 * x, 0, 2 * x, 2 * _HEIGHT), _LINE, 2)
    for y, _ in ticks[1]:
        draw.line((0, 2 * y, 2 * _WIDTH, 2 * y), _LINE, 2)
    draw.rectangle((0, 0, 2 * _WIDTH - 1, 2 * _HEIGHT - 1), outline=_LINE, width=2)
    order = np.random.default_rng(0).permutation(len(points))  # so that no kind hides another
    for x, y, kind in zip(place(points[order, 0], 0), place(points[order, 1], 1), kinds[order], strict=True):
        _point(draw, 2 * x, 2 * y, 2 * _RADIUS, int(kind))
    sheet = with_axes(panel.reduce(2), names, *ticks)
    return _with_legend(sheet, legend)


def _with_legend(sheet: Image.Image, legend: Sequence[str]) -> Image.Image:
    """Writes above a picture what each kind of point is, in as many lines as that takes."""
    font = ImageFont.load_default(_FONT)
    line, x, y = round(1.6 * _FONT), 0.0, 0
    places = []
    for text in legend:
        width = font.getlength(text) + 3 * _FONT
        if x and x + width > sheet.width:
            x, y = 0.0, y + line
        places.append((x, y))
        x += width
    height = y + line + 8
    top = Image.new("RGB", (2 * sheet.width, 2 * height), PAPER)
    draw = ImageDraw.Draw(top, "RGBA")
    for kind, (x, y) in enumerate(places):
        _point(draw, 2 * x + 2 * _FONT, 2 * y + line, 3 * _RADIUS, kind)
    whole = Image.new("RGB", (sheet.width, height + sheet.height), PAPER)
    whole.paste(top.reduce(2), (0, 0))
    whole.paste(sheet, (0, height))
    draw = ImageDraw.Draw(whole)
    for text, (x, y) in zip(legend, places, strict=True):
        draw.text((x + 1.7 * _FONT, y + line / 2), text, INK, font, anchor="lm")
    return whole


def _point(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, kind: int) -> None:
    box = (x - radius, y - radius, x + radius, y + radius)
    colour = (*PALETTE[kind % len(PALETTE)], 220)
    if kind < len(PALETTE):
        draw.ellipse(box, colour)
    else:
        draw.ellipse(box, outline=colour, width=4)


def _ticks(low: float, high: float) -> list[float]:
    """Returns the multiples of 1, 2 or 5 times a power of ten between two numbers, 3 to 7 of them."""
    step = 10.0 ** math.floor(math.log10((high - low) / 7))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (factor * step) <= 7)
    return [step * number for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _apart(ticks: Sequence[tuple[float, str]], least: float) -> Sequence[tuple[float, str]]:
    """Returns every tick, or every second, third ..., so that neighbours are `least` pixels apart."""
    apart = abs(ticks[1][0] - ticks[0][0]) if len(ticks) > 1 else least
    return ticks[:: math.ceil(least / apart)]
