"""Where in latent space to look: at random, between two points, and on the plane of two dimensions."""

from collections.abc import Iterator

import numpy as np


def sample(count: int, latent_dim: int, seed: int) -> np.ndarray:
    """Returns float32 [count, latent_dim] from the standard normal distribution, of which priors are made."""
    return np.random.default_rng(seed).standard_normal((count, latent_dim), dtype=np.float32)


def stream(start: int, stop: int, rows: int, latent_dim: int, seed: int) -> Iterator[np.ndarray]:
    """Yields what `sample` gives from row `start` to `stop`, at most so many rows at a time."""
    rng = np.random.default_rng(seed)
    for before in range(0, start, rows):
        rng.standard_normal((min(rows, start - before), latent_dim), dtype=np.float32)
    for first in range(start, stop, rows):
        yield rng.standard_normal((min(rows, stop - first), latent_dim), dtype=np.float32)


def slerp(starts: np.ndarray, ends: np.ndarray, steps: int) -> np.ndarray:
    """Spherical linear interpolation (White, Sampling Generative Networks, 2016, arXiv:1609.04468).

    The direction turns evenly and the length changes evenly. A straight line would pass closer to the
    origin than faces lie in a space of many dimensions, and show an average face midway. Where the turn is
    not defined, between vectors of the same or opposite direction or of no length, it is the straight line.

    Args:
        starts: [N, D].
        ends: [N, D].
        steps: points on each way, both ends among them.

    Returns:
        float32 [N, steps, D].
    """
    a, b = starts[:, None].astype(np.float64), ends[:, None].astype(np.float64)
    done = np.linspace(0, 1, steps)[:, None]
    left = 1 - done
    length_a, length_b = (np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12) for x in (a, b))
    unit_a, unit_b = a / length_a, b / length_b
    angle = np.arccos(np.clip(np.sum(unit_a * unit_b, axis=-1, keepdims=True), -1, 1))
    turns = (np.sin(angle) > 1e-3) & (np.minimum(length_a, length_b) > 1e-9)
    direction = np.sin(left * angle) * unit_a + np.sin(done * angle) * unit_b
    direction /= np.where(turns, np.sin(angle), 1)
    length = left * length_a + done * length_b
    return np.where(turns, length * direction, left * a + done * b).astype(np.float32)


def round_trip(stations: np.ndarray, points: int) -> np.ndarray:
    """Leads from each of the stations to the next and from the last to the first, each way by `slerp`.

    Args:
        stations: [K, N, D], of N trips.
        points: how many on a trip; a station is among them where it divides them evenly.

    Returns:
        float32 [points, N, D], beginning with the first station; after the last point it would come again.
    """
    ends = np.roll(stations, -1, axis=0)
    parts = np.array_split(np.arange(points), len(stations))
    ways = [slerp(a, b, len(part) + 1)[:, :-1] for a, b, part in zip(stations, ends, parts, strict=True)]
    return np.concatenate(ways, axis=1).swapaxes(0, 1)


def manifold(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Points of a two-dimensional latent space in the order of the book's listing 12.29.

    Args:
        x: [C], first coordinates from left to right.
        y: [R], second coordinates from the bottom to the top.

    Returns:
        float32 [R, C, 2].
    """
    return np.stack(np.meshgrid(x, y[::-1]), axis=-1).astype(np.float32)
