"""Where in latent space to look: at random, between two points, and on the plane of two dimensions."""

import numpy as np


def sample(count: int, latent_dim: int, seed: int) -> np.ndarray:
    """Returns float32 [count, latent_dim] from the standard normal distribution, the prior of both models."""
    return np.random.default_rng(seed).standard_normal((count, latent_dim), dtype=np.float32)


def interpolate(starts: np.ndarray, ends: np.ndarray, steps: int) -> np.ndarray:
    """Spherical linear interpolation (White, Sampling Generative Networks, 2016, arXiv:1609.04468).

    The direction turns evenly and the length changes evenly. A straight line would pass closer to the
    origin than faces lie in a space of many dimensions, and show an average face midway. Between vectors of
    (nearly) the same or opposite direction, where the turn is not defined, it is the straight line.

    Args:
        starts: [N, D].
        ends: [N, D].
        steps: points on each way, both ends among them.

    Returns:
        float32 [N, steps, D].
    """
    starts, ends = starts[:, None].astype(np.float64), ends[:, None].astype(np.float64)
    share = np.linspace(0, 1, steps)[None, :, None]
    lengths = [np.maximum(np.linalg.norm(ends_of, axis=-1, keepdims=True), 1e-12) for ends_of in (starts, ends)]
    cosine = np.sum(starts * ends, axis=-1, keepdims=True) / (lengths[0] * lengths[1])
    angle = np.arccos(np.clip(cosine, -1, 1))
    turns = np.sin(angle) > 1e-3
    sine = np.where(turns, np.sin(angle), 1)
    direction = (
        np.sin((1 - share) * angle) / sine * starts / lengths[0] + np.sin(share * angle) / sine * ends / lengths[1]
    )
    length = (1 - share) * lengths[0] + share * lengths[1]
    return np.where(turns, direction * length, (1 - share) * starts + share * ends).astype(np.float32)


def manifold(points: int, scale: float = 1.0) -> np.ndarray:
    """The plane of a two-dimensional latent space, in the order of the book's listing 12.28.

    Args:
        points: rows and columns.
        scale: the plane reaches from -scale to scale; the book's is 1.

    Returns:
        float32 [points, points, 2]: the first coordinate grows to the right, the second upwards.
    """
    x = np.linspace(-scale, scale, points)
    return np.stack(np.meshgrid(x, x[::-1]), axis=-1).astype(np.float32)
