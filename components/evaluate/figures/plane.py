"""The plane in a latent space of many dimensions that two concept vectors span."""

import numpy as np

from latentfaces.common.pictures import grid
from latentfaces.components.evaluate.concepts import two_concepts
from latentfaces.components.evaluate.inputs import Autoencoder
from latentfaces.components.evaluate.plot import with_values
from latentfaces.components.evaluate.registry import Picture, register_figure

SIDE = 7  # images
_LARGEST = 1000  # pixels


@register_figure("plane", about=Autoencoder)
def plane(model: Autoencoder) -> Picture | None:
    """The first held-out image, moved along both vectors by up to the strength at which each works best."""
    if model.latent_dim == 2 or (found := two_concepts(model)) is None:
        return None
    x, y = (concept.strength * np.linspace(-1, 1, SIDE) for concept in found)
    moved = x[:, None] * found[0].vector + y[::-1, None, None] * found[1].vector
    sheet = grid(model.generate(model.means[0] + moved.astype(np.float32)))
    sheet.thumbnail((_LARGEST, _LARGEST))
    names = found[0].title, found[1].title
    caption = (
        f"One held-out image, in the middle, moved along two concept vectors at once: more “{names[0]}” to "
        f"the right, more “{names[1]}” upwards, by as many times the vectors as the axes say. Each should "
        "change alone, and the rest of the image stay."
    )
    alt = f"A plane of images of one face: “{names[0]}” grows to the right, “{names[1]}” upwards."
    return Picture(
        f"A plane of two concepts: {names[0]} and {names[1]}",
        caption,
        alt,
        with_values(sheet, names, x, y),
    )
