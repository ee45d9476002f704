"""How far reconstructions are off."""

import numpy as np

from latentfaces.common.images import to_float
from latentfaces.components.evaluate.inputs import Autoencoder
from latentfaces.components.evaluate.registry import Fact, Result, number, register_metric

_PSNR_CAP = 100.0  # decibels; identical images would give infinity, which JSON cannot hold


@register_metric("{model}", about=Autoencoder)
def reconstruction(model: Autoencoder) -> Result:
    """`reconstruction_mse` and `reconstruction_psnr_db` of the held-out images."""
    error = mean_squared_error(to_float(model.inputs.real.held_out), model.reconstructions)
    decibels = psnr(error)
    return Result(
        {"reconstruction_mse": error, "reconstruction_psnr_db": decibels},
        facts=[
            Fact("Reconstruction error (PSNR)", f"{decibels:.1f} dB"),
            Fact("Reconstruction error (mean squared)", number(error)),
        ],
    )


def mean_squared_error(images: np.ndarray, others: np.ndarray) -> float:
    """Returns the mean over all pixels and channels of the squared difference of images in [0, 1]."""
    return float(np.mean(np.square(images.astype(np.float64) - others)))


def psnr(error: float) -> float:
    """Returns the peak signal-to-noise ratio, at most 100 dB, for a squared error of images in [0, 1]."""
    return _PSNR_CAP if error <= 10 ** (-_PSNR_CAP / 10) else float(-10 * np.log10(error))
