"""Which attributes change with which."""

import numpy as np
from PIL import Image, ImageColor

from latentfaces.common.pictures import INK, PAPER, labelled, written
from latentfaces.components.evaluate.concepts import concepts
from latentfaces.components.evaluate.inputs import Autoencoder
from latentfaces.components.evaluate.registry import Picture, register_figure

MOST = 40  # rows and columns
_WIDTH, _HEIGHT, _GAP = 56, 36, 4  # pixels of a cell


@register_figure("concept_effects", about=Autoencoder)
def concept_effects(model: Autoencoder) -> Picture | None:
    """For each concept, the share of images in which moving along it changes each attribute."""
    found = concepts(model)[:MOST]
    if not found:
        return None
    caption = (
        "Each row is a concept vector. Each number is a share of the images that were moved along it, in per "
        "cent: those that the classifier then reads the column's attribute off otherwise than before. On the "
        "diagonal that is what the vector is for; everywhere else it should be little."
    )
    alt = "A table of shares, high on the diagonal, and elsewhere the lower, the better."
    names = [each.title for each in found]
    shares = np.stack([each.effects[: len(found)] for each in found])
    return Picture("What each concept vector changes", caption, alt, labelled(heat_map(shares), names, names))


def heat_map(shares: np.ndarray) -> Image.Image:
    """Draws shares [R, C] in [0, 1] as per cent, on a blue that is the deeper, the larger they are."""
    none, all_ = (np.array(ImageColor.getrgb(colour)) for colour in ("#eef2f7", "#0b4fae"))
    rows, columns = shares.shape
    sheet = Image.new("RGBA", (columns * (_WIDTH + _GAP) - _GAP, rows * (_HEIGHT + _GAP) - _GAP))
    for (row, column), share in np.ndenumerate(shares):
        red, green, blue = np.rint(none + share * (all_ - none)).astype(int)
        ink = INK if share < 0.45 else PAPER
        cell = written(f"{100 * share:.0f}", _WIDTH, _HEIGHT, paper=f"rgb({red},{green},{blue})", ink=ink)
        sheet.paste(cell, (column * (_WIDTH + _GAP), row * (_HEIGHT + _GAP)))
    return sheet
