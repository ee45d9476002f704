"""How much of the detail of real images generated ones have."""

import numpy as np

from latentfaces.components.evaluate.inputs import Inputs
from latentfaces.components.evaluate.registry import Fact, Result, Table, percent, register_metric
from latentfaces.components.evaluate.spectra import REAL, frequencies, spectra

# Wavelengths in pixels: octaves, of which the last is down to the finest that there is.
BANDS = {
    "over_16_pixels": ("over 16\npixels", 16, np.inf),
    "8_to_16_pixels": ("8 to 16\npixels", 8, 16),
    "4_to_8_pixels": ("4 to 8\npixels", 4, 8),
    "under_4_pixels": ("under 4\npixels", 0, 4),
}


@register_metric("sharpness", about=Inputs)
def sharpness(inputs: Inputs) -> Result | None:
    """For each set of generated images how much energy they have, as a share of held-out images' own.

    By the size of details, the wavelength in pixels, from the radially averaged power spectrum: blur takes
    small ones away, below 1, and noise adds them, above 1. None where real images have no detail.
    """
    found = {key: (title, _energies(spectrum)) for key, (title, spectrum) in spectra(inputs).items()}
    _, real = found.pop(REAL)
    if not real.all():
        return None
    numbers = {
        key: dict(zip(BANDS, (energies / real).tolist(), strict=True)) for key, (_, energies) in found.items()
    }
    table = Table(
        "Sharpness",
        "How much of the energy of details generated images have, real images being 100 %, by the details’ "
        "size: the wavelength, from the radially averaged power spectrum. Blur takes small details away; "
        "noise and artefacts add some.",
        columns=["", *(heading for heading, _, _ in BANDS.values())],
        rows=[[title, *map(percent, numbers[key].values())] for key, (title, _) in found.items()],
    )
    facts = [
        Fact(
            f"Fine detail (under 4 pixels) of {title}",
            percent(numbers[key]["under_4_pixels"]),
            f"real images: {percent(1.0)}",
        )
        for key, (title, _) in found.items()
        if key.endswith("_reconstructions")
    ]
    return Result(numbers, facts, [table])


def _energies(spectrum: np.ndarray) -> np.ndarray:
    cycles = frequencies(spectrum)
    with np.errstate(divide="ignore"):
        wavelengths = 1 / cycles
    return np.array(
        [spectrum[(least <= wavelengths) & (wavelengths < most)].sum() for _, least, most in BANDS.values()]
    )
