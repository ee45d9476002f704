"""How far reconstructions are off, beside those of principal components."""

import numpy as np
from sklearn.decomposition import PCA

from latentfaces.common.images import AT_ONCE, to_float
from latentfaces.components.evaluate.inputs import Autoencoder
from latentfaces.components.evaluate.registry import Fact, Result, register_metric

FITTED = 4000  # train images, at most, whose principal components are taken
_PSNR_CAP = 100.0  # decibels; identical images would give infinity, which JSON cannot hold


@register_metric("{model}", about=Autoencoder)
def reconstruction(model: Autoencoder) -> Result:
    """`reconstruction_mse` and `reconstruction_psnr_db` of the held-out images, and the line to beat.

    That is `principal_components_psnr_db`, of a linear autoencoder, which needs no training.
    """
    error = mean_squared_error(model.inputs.real.held_out, model.reconstructions)
    numbers, beside = {"reconstruction_mse": error, "reconstruction_psnr_db": psnr(error)}, ""
    if (line := _principal_components(model)) is not None:
        numbers["principal_components_psnr_db"] = psnr(line)
        beside = f"{model.latent_dim} principal components: {psnr(line):.1f} dB"
    label = f"Reconstruction of {len(model.inputs.real.held_out):,} held-out images (PSNR)"
    return Result(numbers, [Fact(label, f"{psnr(error):.1f} dB", beside)])


def _principal_components(model: Autoencoder) -> float | None:
    """Mean squared error of held-out images, each from as many principal components as there are latents.

    None where there are not as many train images, or values in an image.
    """
    real = model.inputs.real
    train = real.train[:FITTED].reshape(len(real.train[:FITTED]), -1)
    if min(train.shape) <= model.latent_dim:
        return None
    fitted = PCA(model.latent_dim, svd_solver="randomized", random_state=0).fit(to_float(train))
    rows = to_float(real.held_out.reshape(len(real.held_out), -1))
    made = fitted.inverse_transform(fitted.transform(rows)).clip(0, 1).reshape(real.held_out.shape)
    return mean_squared_error(real.held_out, made)


def mean_squared_error(images: np.ndarray, others: np.ndarray) -> float:
    """Returns the mean over all values of the squared difference of images, uint8 or floats in [0, 1]."""
    rows = max(1, AT_ONCE // images[0].size)
    parts = [slice(start, start + rows) for start in range(0, len(images), rows)]
    differences = (to_float(images[part]).astype(np.float64) - others[part] for part in parts)
    return float(sum(np.sum(np.square(difference)) for difference in differences) / images.size)


def psnr(error: float) -> float:
    """Returns the peak signal-to-noise ratio, at most 100 dB, for a squared error of images in [0, 1]."""
    return _PSNR_CAP if error <= 10 ** (-_PSNR_CAP / 10) else float(-10 * np.log10(error))
