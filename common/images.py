"""Arrays of images: their two forms, bytes and floats, and how much they differ."""

import numpy as np

AT_ONCE = 1 << 23  # numbers in double precision


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Returns images, uint8 or floats in [0, 1], as uint8."""
    return images if images.dtype == np.uint8 else np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)


def to_float(images: np.ndarray) -> np.ndarray:
    """Returns images as float32 in [0, 1]: uint8 divided by 255, floats as they are."""
    return images / np.float32(255) if images.dtype == np.uint8 else images.astype(np.float32)


def diversity(images: np.ndarray) -> float:
    """How much images differ: the root mean square difference of a pixel, averaged over all pairs of images.

    Args:
        images: [N, H, W, C] in [0, 1].

    Returns:
        in [0, 1]; 0 where all images are the same, as when a GAN has collapsed, or there is only one.
    """
    if len(images) < 2:
        return 0.0
    flat = images.reshape(len(images), -1)
    squares, products = np.zeros(len(flat)), np.zeros((len(flat), len(flat)))
    step = max(1, AT_ONCE // len(flat))
    for start in range(0, flat.shape[1], step):
        part = flat[:, start : start + step].astype(np.float64)
        part -= part.mean(axis=0)
        squares += np.sum(np.square(part), axis=1)
        products += part @ part.T
    distances = np.maximum(squares[:, None] + squares[None] - 2 * products, 0)
    pairs = np.triu_indices(len(flat), 1)
    return float(np.mean(np.sqrt(distances[pairs] / flat.shape[1])))
