"""What is left of an image after encoder and decoder."""

import numpy as np

from latentfaces.common.images import to_uint8
from latentfaces.common.pictures import grid, in_rows
from latentfaces.components.evaluate.inputs import Autoencoder
from latentfaces.components.evaluate.registry import Picture, register_figure


@register_figure("reconstructions", about=Autoencoder)
def reconstructions(model: Autoencoder) -> Picture:
    """Rows of 8 originals, each above the row of their reconstructions."""
    real = model.inputs.real
    above, below = (in_rows(to_uint8(images[:32]), 8) for images in (real.held_out, model.reconstructions))
    rows = np.stack([above, below], axis=1).reshape(-1, *above.shape[1:])
    caption = (
        f"Above: the first images of the split “{real.split}”, none chosen. Below each: the same after "
        "encoder and decoder. What is shown should stay; fine detail goes first."
    )
    alt = "Pairs of an image and its reconstruction, which should be hard to tell apart."
    return Picture("Reconstructions", caption, alt, grid(rows, rows_in_group=2))
