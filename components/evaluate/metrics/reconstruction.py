"""How far reconstructions are off, beside those of principal components."""

import numpy as np

from latentfaces.common.images import AT_ONCE, to_float
from latentfaces.components.evaluate.inputs import Autoencoder
from latentfaces.components.evaluate.principal_components import principal_components
from latentfaces.components.evaluate.registry import Fact, Result, register_metric

_PSNR_CAP = 100.0  # decibels; identical images would give infinity, which JSON cannot hold


@register_metric("{model}", about=Autoencoder)
def reconstruction(model: Autoencoder) -> Result:
    """`reconstruction_mse` and `reconstruction_psnr_db` of the held-out images, and the line to beat.

    That is `principal_components_psnr_db`, of a linear autoencoder, which needs no training.
    """
    held_out = model.inputs.real.held_out
    error = mean_squared_error(held_out, model.reconstructions)
    numbers, beside = {"reconstruction_mse": error, "reconstruction_psnr_db": psnr(error)}, ""
    if line := principal_components(model):
        of_line = psnr(mean_squared_error(held_out, line.reconstruct(held_out)))
        numbers["principal_components_psnr_db"] = of_line
        beside = f"{model.latent_dim} principal components: {of_line:.1f} dB"
    label = f"Reconstruction of {len(held_out):,} held-out images (PSNR)"
    return Result(numbers, [Fact(label, f"{psnr(error):.1f} dB", beside)])


def mean_squared_error(images: np.ndarray, others: np.ndarray) -> float:
    """Returns the mean over all values of the squared difference of images, uint8 or floats in [0, 1]."""
    rows = max(1, AT_ONCE // images[0].size)
    parts = [slice(start, start + rows) for start in range(0, len(images), rows)]
    differences = (to_float(images[part]).astype(np.float64) - others[part] for part in parts)
    return float(sum(np.sum(np.square(difference)) for difference in differences) / images.size)


def psnr(error: float) -> float:
    """Returns the peak signal-to-noise ratio, at most 100 dB, for a squared error of images in [0, 1]."""
    return _PSNR_CAP if error <= 10 ** (-_PSNR_CAP / 10) else float(-10 * np.log10(error))
