"""Principal components as a model of images: a linear autoencoder in closed form, which needs no training."""

import math
from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA

from latentfaces.common.images import AT_ONCE, to_float

_LEAST_VARIANCE = 1e-6  # of a value, about a quarter of one of 256 levels squared


@dataclass(frozen=True)
class PrincipalComponents:
    """Probabilistic PCA of images (Tipping & Bishop 1999).

    Attributes:
        mean: [V], V the values of an image.
        components: [K, V].
        variances: of the images along them, [K].
        left: the mean variance of what they leave out, in each other direction.
    """

    mean: np.ndarray
    components: np.ndarray
    variances: np.ndarray
    left: float

    def reconstruct(self, images: np.ndarray) -> np.ndarray:
        """Returns images after the components, float32 in [0, 1], [N, H, W, C]."""
        rows = to_float(images).reshape(len(images), -1) - self.mean
        made: np.ndarray = (rows @ self.components.T @ self.components + self.mean).clip(0, 1)
        return made.reshape(images.shape)

    def log_likelihood(self, images: np.ndarray) -> np.ndarray:
        """Returns the logarithm of images' density in nats, float64 [N]; exact."""
        rows = (to_float(images).reshape(len(images), -1) - self.mean).astype(np.float64)
        places = rows @ self.components.T
        rest = np.sum(np.square(rows), axis=1) - np.sum(np.square(places), axis=1)
        count, values = self.components.shape
        constant = values * math.log(2 * math.pi) + np.log(self.variances).sum()
        constant += (values - count) * math.log(self.left)
        return -0.5 * (constant + np.sum(np.square(places) / self.variances, axis=1) + rest / self.left)


def fit(rows: np.ndarray, count: int) -> PrincipalComponents:
    """Returns the first principal components of images; the same rows give the same.

    Args:
        rows: floats in [0, 1], [N, V].
        count: how many, less than N and V.
    """
    fitted = PCA(count, svd_solver="randomized", random_state=0).fit(rows)
    columns = max(1, AT_ONCE // len(rows))
    total = sum(
        float(rows[:, start : start + columns].var(axis=0, ddof=1, dtype=np.float64).sum())
        for start in range(0, rows.shape[1], columns)
    )
    left = (total - float(fitted.explained_variance_.sum())) / (rows.shape[1] - count)
    left = max(left, _LEAST_VARIANCE)
    variances = np.maximum(fitted.explained_variance_, left)
    return PrincipalComponents(fitted.mean_, fitted.components_, variances, left)
