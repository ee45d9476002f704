"""From arrays of images to one picture: enlarged, set out in rows and columns, still or moving."""

import functools
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from latentfaces.common.images import to_uint8

PAPER, INK = "#ffffff", "#1b2129"  # of what has a background of its own, on a dark page too

_CELL = 96  # pixels; what small images are enlarged to at least
_GAP = 4  # pixels between images
_WRITING, _LONGEST = 22, 24  # pixels of a label's writing, and its characters at most
_GIF_COLOURS = 128
_SMALL, _LARGE = 64, 256  # pixels; images between these are shown as they are, larger ones reduced

_font = functools.cache(ImageFont.load_default)


def picture(image: np.ndarray) -> Image.Image:
    """Returns an image, uint8 [H, W, 1 or 3], as Pillow has it."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def grid(images: np.ndarray, *, tight: bool = False, rows_in_group: int = 1) -> Image.Image:
    """Sets images out in rows and columns.

    Images of at most 64 pixels are enlarged by a whole factor with Lanczos' filter, which shows a face of
    32x32 as a face where repeated pixels show squares. Those of more than 256 are reduced to that.

    Args:
        images: [R, C, height, width, 1 or 3]; uint8, or floats in [0, 1].
        tight: without gaps and at their own size, as the book shows a manifold.
        rows_in_group: rows that belong together; there is a wider gap between groups.

    Returns:
        mode "RGBA"; the gaps are transparent, so that the picture suits a dark and a light page.
    """
    rows, columns, height, width, _ = images.shape
    pixels = to_uint8(images)
    size = max(height, width)
    factor = -(-_CELL // size) if size <= _SMALL and not tight else min(1, _LARGE / size)
    gap = 0 if tight else _GAP
    cell_height, cell_width = (max(1, round(side * factor)) for side in (height, width))
    group_gap = 2 * gap if rows_in_group > 1 else 0
    tops = [row * (cell_height + gap) + row // rows_in_group * group_gap for row in range(rows)]
    sheet = Image.new("RGBA", (columns * (cell_width + gap) - gap, tops[-1] + cell_height))
    for row, top in enumerate(tops):
        for column in range(columns):
            cell = picture(pixels[row, column]).resize((cell_width, cell_height), Image.Resampling.LANCZOS)
            sheet.paste(cell, (column * (cell_width + gap), top))
    return sheet


def written(
    text: str, width: int, height: int, align: str = "m", paper: str = PAPER, ink: str = INK
) -> Image.Image:
    """Writes one line onto paper of its own.

    Args:
        text: what it says.
        width: pixels of the picture.
        height: likewise.
        align: where it stands: "l" for left, "m" for the middle, "r" for right.
        paper: colour, as Pillow names it.
        ink: likewise.

    Returns:
        mode "RGB".
    """
    line = Image.new("RGB", (width, height), paper)
    x = {"l": _WRITING // 2, "m": width // 2, "r": width - _WRITING // 2}[align]
    ImageDraw.Draw(line).text((x, height // 2), text, ink, _font(_WRITING), f"{align}m")
    return line


def labelled(sheet: Image.Image, rows: Sequence[str], columns: Sequence[str]) -> Image.Image:
    """Writes names to the left of a grid's rows, and above its columns.

    They stand on paper of their own, so that the picture suits a dark and a light page.

    Args:
        sheet: as `grid` makes it, with gaps, and without groups of rows.
        rows: their names; of long ones the beginning is written.
        columns: theirs; written upwards where one is wider than its column.

    Returns:
        mode "RGBA".
    """
    rows, columns = ([name[:_LONGEST] for name in names] for names in (rows, columns))
    length = _font(_WRITING).getlength
    left, longest = (round(max(map(length, names))) + _WRITING for names in (rows, columns))
    high, wide = (sheet.height + _GAP) // len(rows), (sheet.width + _GAP) // len(columns)
    is_upright = longest > wide - _GAP
    top = longest if is_upright else round(1.5 * _WRITING)
    result = Image.new("RGBA", (left + _GAP + sheet.width, top + _GAP + sheet.height))
    result.paste(sheet, (left + _GAP, top + _GAP))
    for number, name in enumerate(rows):
        result.paste(written(name, left, high - _GAP, "r"), (0, top + _GAP + number * high))
    for number, name in enumerate(columns):
        label = written(name, wide - _GAP, top)
        if is_upright:
            label = written(name, top, wide - _GAP, "l").transpose(Image.Transpose.ROTATE_90)
        result.paste(label, (left + _GAP + number * wide, 0))
    return result


def in_rows(images: np.ndarray, columns: int) -> np.ndarray:
    """Returns [N, ...] as [N // columns or 1, columns, ...], leaving out an incomplete last row."""
    columns = min(columns, len(images))
    rows = len(images) // columns
    return images[: rows * columns].reshape(rows, columns, *images.shape[1:])


def pairs(above: np.ndarray, below: np.ndarray, columns: int) -> Image.Image:
    """Sets images [N, H, W, C] out in rows, each row above that of their counterparts, as `grid` does."""
    rows = [in_rows(to_uint8(images), columns) for images in (above, below)]
    return grid(np.stack(rows, axis=1).reshape(-1, *rows[0].shape[1:]), rows_in_group=2)


def png(image: Image.Image) -> bytes:
    """Returns the picture as the bytes of a PNG file; the same pixels give the same bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=4)  # the default takes seconds for smooth pictures
    return buffer.getvalue()


def webp(image: Image.Image, quality: int) -> bytes:
    """Returns the picture as the bytes of a WebP file, smaller than PNG for some loss."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=2)
    return buffer.getvalue()


def on_paper(image: Image.Image) -> Image.Image:
    """Returns a picture as "RGB", what is transparent in it in the colour of `PAPER`."""
    paper = Image.new("RGB", image.size, PAPER)
    paper.paste(image, mask=image.convert("RGBA").getchannel("A"))
    return paper


def animated(frames: Sequence[Image.Image], kind: str, milliseconds: int) -> bytes:
    """Returns frames of one size as the bytes of one file, which shows them again and again.

    The same frames give the same bytes. Every frame of a WebP file is whole, because what is left of the one
    before shows as squares. A GIF's frames share the colours that suit eight of them best: each with its own
    would flicker, and take seconds to find.

    Args:
        frames: at least one, of any mode; what is transparent becomes `PAPER`.
        kind: "webp" or "gif".
        milliseconds: for which each is shown.
    """
    shown = [on_paper(frame) for frame in frames]
    settings: dict[str, int] = {"quality": 50, "method": 2, "kmin": 0, "kmax": 1}
    if kind == "gif":
        settings = {}
        some = [np.asarray(frame) for frame in shown[:: -(-len(shown) // 8)]]
        palette = Image.fromarray(np.concatenate(some)).quantize(_GIF_COLOURS, Image.Quantize.FASTOCTREE)
        shown = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in shown]
    buffer = io.BytesIO()
    first, *others = shown
    first.save(buffer, kind, save_all=True, append_images=others, duration=milliseconds, loop=0, **settings)
    return buffer.getvalue()
