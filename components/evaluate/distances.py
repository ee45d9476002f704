"""Numbers between sets of images: how far reconstructions are off, how much samples differ."""

import numpy as np

_PSNR_CAP = 100.0  # decibels; identical images would give infinity, which JSON cannot hold


def mean_squared_error(images: np.ndarray, others: np.ndarray) -> float:
    """Returns the mean over all pixels and channels of the squared difference of images in [0, 1]."""
    return float(np.mean(np.square(images.astype(np.float64) - others)))


def psnr(error: float) -> float:
    """Returns the peak signal-to-noise ratio, at most 100 dB, for a squared error of images in [0, 1]."""
    return _PSNR_CAP if error <= 10 ** (-_PSNR_CAP / 10) else float(-10 * np.log10(error))


def diversity(images: np.ndarray) -> float:
    """How much images differ: the root mean square difference of a pixel, averaged over all pairs of images.

    Args:
        images: [N, H, W, C] in [0, 1].

    Returns:
        in [0, 1]; 0 where all images are the same, as when a GAN has collapsed, or there is only one.
    """
    if len(images) < 2:
        return 0.0
    flat = images.reshape(len(images), -1).astype(np.float64)
    flat -= flat.mean(axis=0)
    squares = np.sum(np.square(flat), axis=1)
    distances = np.maximum(squares[:, None] + squares[None] - 2 * flat @ flat.T, 0)
    pairs = np.triu_indices(len(flat), 1)
    return float(np.mean(np.sqrt(distances[pairs] / flat.shape[1])))
