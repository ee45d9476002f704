"""How far reconstructions are off."""

import numpy as np

from latentfaces.common.images import to_float
from latentfaces.components.evaluate.inputs import Autoencoder
from latentfaces.components.evaluate.registry import Fact, Result, number, register_metric

AT_ONCE = 1 << 25  # numbers in double precision
_PSNR_CAP = 100.0  # decibels; identical images would give infinity, which JSON cannot hold


@register_metric("{model}", about=Autoencoder)
def reconstruction(model: Autoencoder) -> Result:
    """`reconstruction_mse` and `reconstruction_psnr_db` of the held-out images."""
    error = mean_squared_error(model.inputs.real.held_out, model.reconstructions)
    decibels = psnr(error)
    return Result(
        {"reconstruction_mse": error, "reconstruction_psnr_db": decibels},
        facts=[
            Fact("Reconstruction error (PSNR)", f"{decibels:.1f} dB"),
            Fact("Reconstruction error (mean squared)", number(error)),
        ],
    )


def mean_squared_error(images: np.ndarray, others: np.ndarray) -> float:
    """Returns the mean over all values of the squared difference of images, uint8 or floats in [0, 1]."""
    rows = max(1, AT_ONCE // images[0].size)
    parts = [slice(start, start + rows) for start in range(0, len(images), rows)]
    differences = (to_float(images[part]).astype(np.float64) - others[part] for part in parts)
    return float(sum(np.sum(np.square(difference)) for difference in differences) / images.size)


def psnr(error: float) -> float:
    """Returns the peak signal-to-noise ratio, at most 100 dB, for a squared error of images in [0, 1]."""
    return _PSNR_CAP if error <= 10 ** (-_PSNR_CAP / 10) else float(-10 * np.log10(error))
