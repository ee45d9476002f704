"""Whether generated images show the grid of the strides that they were made with (the book, figure 12.21)."""

import numpy as np

from latentfaces.components.evaluate.inputs import Inputs
from latentfaces.components.evaluate.registry import Fact, Result, register_metric
from latentfaces.components.evaluate.spectra import REAL, spectra

PERIOD = 4  # pixels: the grid of a generator's last two strides of 2
LEAST = 16  # pixels of a side


@register_metric("checkerboard", about=Inputs)
def checkerboard(inputs: Inputs) -> Result | None:
    """How far the frequencies of the strides stand out in the power spectrum: `real`, and each model's.

    Where the stride does not divide the kernel, a transposed convolution adds up more terms for one pixel
    than for the next, in a pattern that repeats with the stride (Odena et al. 2016,
    doi:10.23915/distill.00003). 1 is what a smooth spectrum has. None where real images have no such
    frequencies; a model whose images have none, as those of one colour, is left out.
    """
    numbers, facts = {}, []
    for key, (title, spectrum) in spectra(inputs).items():
        if (value := stride_energy(spectrum)) is None:
            if key == REAL:
                return None
            continue
        numbers[key] = value
        if key.endswith("_samples"):
            beside = f"real images: {numbers[REAL]:.2f}"
            facts.append(Fact(f"Checkerboard of {title}", f"{value:.2f}", beside))
    return Result(numbers, facts)


def stride_energy(spectrum: np.ndarray) -> float | None:
    """Returns the energy at the frequencies of strides, as a multiple of what is around them.

    These are the frequencies at which patterns with a period of 4 or 2 pixels in x, y or both have all their
    energy: the multiples of side / 4. Around one are those halfway to the next, to both sides, of which
    the geometric mean is taken, in x or in y, where it is larger: images have much energy in x alone and in y
    alone. The mean over all of them is returned.

    Args:
        spectrum: [H, W], as of `power_spectrum`.

    Returns:
        The multiple, or None where the sides are no multiples of 4, below 16, or nothing is around.
    """
    if any(side % PERIOD or side < LEAST for side in spectrum.shape):
        return None
    at = np.ix_(*(np.arange(PERIOD) * (side // PERIOD) for side in spectrum.shape))
    around = []
    for axis, side in enumerate(spectrum.shape):
        half = side // PERIOD // 2
        before, after = (np.roll(spectrum, shift, axis)[at] for shift in (half, -half))
        around.append(np.sqrt(before * after))
    expected = np.maximum(*around).ravel()[1:]  # without the mean brightness
    if not expected.all():
        return None
    return float(np.mean(spectrum[at].ravel()[1:] / expected))
