"""Which details images have: a picture of each power spectrum."""

import numpy as np

from latentfaces.common.pictures import grid
from latentfaces.components.evaluate.inputs import Inputs
from latentfaces.components.evaluate.registry import Picture, register_figure
from latentfaces.components.evaluate.spectra import spectra as find_spectra

DECADES = 5  # from black to white
SIDE = 192  # pixels, about


@register_figure("spectra", about=Inputs)
def spectra(inputs: Inputs) -> Picture | None:
    """One row: of held-out images, reconstructions and samples."""
    titles, found = zip(*find_spectra(inputs).values(), strict=True)
    energies = np.fft.fftshift(np.stack(found), axes=(1, 2))
    if not energies.any():
        return None
    levels = np.log10(np.maximum(energies / energies.max(), 10.0**-DECADES)) / DECADES + 1
    factor = max(1, SIDE // max(levels.shape))
    levels = levels.repeat(factor, axis=1).repeat(factor, axis=2)  # squares: what is smoothed has no dots
    caption = (
        f"From left to right: {', '.join(titles)}. In the middle of each the coarse, at its edges the fine "
        f"details; from black to white {DECADES} powers of ten. Blur darkens the edges; strides that show "
        "(checkerboards) are bright dots that real images have not."
    )
    alt = "Squares that fade from a bright middle to dark edges, all alike if the images are."
    return Picture("Power spectra", caption, alt, grid(levels[None, ..., None]))
