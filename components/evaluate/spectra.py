"""Power spectra: how much detail of which size images have, on average."""

import numpy as np
import scipy.fft

from latentfaces.common.images import AT_ONCE, to_uint8
from latentfaces.components.evaluate.inputs import SAMPLES, Autoencoder, Inputs, once
from latentfaces.components.evaluate.principal_components import principal_components

REAL = "real"


@once
def spectra(inputs: Inputs) -> dict[str, tuple[str, np.ndarray]]:
    """The title and the `power_spectrum` of each set of images, by its key.

    Of "real", the held-out images, and of each model's "<model>_reconstructions", those by as many principal
    components, and "<model>_samples".
    """
    sets = {REAL: ("held-out images", inputs.real.held_out)}
    for model in inputs.models:
        if isinstance(model, Autoencoder):
            sets[f"{model.name}_reconstructions"] = (f"{model.title} reconstructions", model.reconstructions)
            if line := principal_components(model):
                title = f"the same by {model.latent_dim} principal components"
                made = line.reconstruct(inputs.real.held_out[:SAMPLES])
                sets[f"{model.name}_principal_components"] = (title, made)
        sets[f"{model.name}_samples"] = (f"{model.title} samples", model.samples)
    return {key: (title, power_spectrum(images[:SAMPLES])) for key, (title, images) in sets.items()}


def power_spectrum(images: np.ndarray) -> np.ndarray:
    """Returns the squared amplitudes of frequencies, averaged over images and channels, float64 [H, W].

    The frequencies are in the order of `numpy.fft.fft2`. Each channel is first freed of its mean and faded
    out towards the edges (Hann's window): a step from one edge to the opposite one is no detail.

    Args:
        images: uint8, or floats in [0, 1], which are rounded as when they are shown; [N, H, W, C].
    """
    height, width = images.shape[1:3]
    # without the end points, as for a period
    windows = [np.sin(np.pi * np.arange(side) / side) ** 2 for side in (height, width)]
    window = np.outer(*windows)[..., None]
    total = np.zeros((height, width))
    rows = max(1, AT_ONCE // images[0].size)
    for start in range(0, len(images), rows):
        part = to_uint8(images[start : start + rows]).astype(np.float64)
        part -= part.mean(axis=(1, 2), keepdims=True)
        total += np.sum(np.abs(scipy.fft.fft2(part * window, axes=(1, 2))) ** 2, axis=(0, 3))
    return total / 255**2 / (len(images) * images.shape[3])


def frequencies(spectrum: np.ndarray) -> np.ndarray:
    """Returns how many cycles a pixel each value of a spectrum stands for, in whatever direction, [H, W]."""
    y, x = (np.fft.fftfreq(side) for side in spectrum.shape)
    return np.hypot(y[:, None], x)
