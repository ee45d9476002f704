"""How far a model's images are from real ones: the Fréchet distance of features, and its uncertainty."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from scipy.spatial.distance import cdist

from latentfaces.components.evaluate.classifier import extract, shrink
from latentfaces.components.evaluate.models import Network

NEIGHBOURS = 5  # of which precision, recall, density and coverage look at the farthest, as in Naeem et al.
BLOCKS = 10  # of the kernel distance

RESAMPLES = 200  # by which standard errors are estimated, to about 5 %


def feature_network(image_shape: tuple[int, int, int]) -> Network:
    """Returns the network whose features images are compared by, images to float32 [N, 128].

    It is the classifier's, with random weights, which are always the same. Of images unlike ImageNet's, such
    features tell as much as those that were learned there (Naeem et al. 2020, arXiv:2002.09797). They need no
    download, no labels and no training, and last month's distances can be compared with today's. Those of a
    classifier of attributes miss what no label calls for, such as noise or darkness. Nothing is
    normalized, so that brightness and contrast count.
    """
    images = keras.Input(image_shape)
    x = layers.Rescaling(2.0, offset=-1.0)(shrink(images))
    network = keras.Model(images, extract(x, np.random.default_rng(0), normalized=False))
    return Network(network, "the feature network")


class Moments:
    """Mean and covariance of features that come batch by batch, of which only running sums are kept.

    The sums, in double precision, are of differences from the first batch's mean: those of the features
    themselves lose the digits that matter where these are far from 0 and vary little (Chan, Golub & LeVeque
    1983).

    Attributes:
        count: rows so far.
    """

    def __init__(self) -> None:
        self.count = 0

    def add(self, features: np.ndarray) -> Moments:
        """Takes in one more batch, [n, D], of at least one row; returns the same object."""
        if not self.count:
            self._origin = features.mean(axis=0, dtype=np.float64)
            self._sum, self._squares = np.zeros_like(self._origin), np.zeros(2 * self._origin.shape)
        centred = features - self._origin
        self.count += len(centred)
        self._sum += centred.sum(axis=0)
        self._squares += tf.matmul(centred, centred, transpose_a=True).numpy()
        return self

    @property
    def mean(self) -> np.ndarray:
        """Float64 [D]."""
        mean: np.ndarray = self._origin + self._sum / self.count
        return mean

    @property
    def covariance(self) -> np.ndarray:
        """Divided by one less than the number of rows, float64 [D, D]."""
        squares = self._squares - np.outer(self._sum, self._sum) / self.count
        covariance: np.ndarray = squares / max(self.count - 1, 1)
        return covariance


def frechet_distance(features: np.ndarray | Moments, others: np.ndarray | Moments) -> float:
    """Returns the Fréchet distance of two sets of features (Heusel et al. 2017, arXiv:1706.08500).

    Each set, [N, D] and [M, D], counts as a normal distribution of its mean and covariance (divided by
    N - 1). The estimate is too large, by an amount that shrinks with N and M: where these are below D, and
    covariances singular, only distances from the same real images by as many samples can be compared.
    """
    found = (each if isinstance(each, Moments) else Moments().add(each) for each in (features, others))
    a, b = ((each.mean[None], each.covariance[None]) for each in found)
    return float(_distances(a, b)[0])


def kernel_distance(features: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """Returns the kernel distance of two sets of features, and its standard error.

    It is the squared maximum mean discrepancy with the kernel (x·y / D + 1)³ (Bińkowski et al. 2018,
    arXiv:1801.01401): without bias, so it may be below 0. The sets, [N, D] and [M, D], are cut into ten
    blocks, of which each gives an estimate of its own; their mean is returned, and its standard error.

    Raises:
        ValueError: if a set has fewer than 20 rows.
    """
    if min(len(features), len(others)) < 2 * BLOCKS:
        raise ValueError(f"a kernel distance needs {2 * BLOCKS} images of each kind")

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a.astype(np.float64) @ b.T.astype(np.float64) / a.shape[1] + 1) ** 3

    def mean_without_diagonal(values: np.ndarray) -> float:
        return float((values.sum() - np.trace(values)) / (len(values) * (len(values) - 1)))

    blocks, other_blocks = (np.array_split(rows, BLOCKS) for rows in (features, others))
    # Each beside the next: reconstructions in a block with their originals would be too near to them.
    found = [
        mean_without_diagonal(kernel(a, a)) + mean_without_diagonal(kernel(b, b)) - 2 * kernel(a, b).mean()
        for a, b in zip(blocks, other_blocks[1:] + other_blocks[:1], strict=True)
    ]
    return float(np.mean(found)), float(np.std(found, ddof=1) / np.sqrt(BLOCKS))


@dataclass(frozen=True)
class Manifolds:
    """How two sets of images lie among one another, all shares but `density`.

    Attributes:
        precision: of the samples, those that lie among real images (Kynkäänniemi et al. 2019,
            arXiv:1904.06991): within the distance of a real image from its fifth nearest.
        recall: of the real images, those that lie among samples.
        density: how many real images' neighbourhoods a sample lies in, 1 being as many as real images do
            (Naeem et al. 2020, arXiv:2002.09797); may be above 1.
        coverage: of the real images, those with a sample in their neighbourhood.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def manifolds(real: np.ndarray, features: np.ndarray) -> Manifolds:
    """Compares features of samples, [M, D], with those of real images, [N, D].

    Both are more than `NEIGHBOURS`.
    """
    of_real, of_samples = (_radii(each) for each in (real, features))
    apart = cdist(real, features)
    near_real, near_samples = apart < of_real[:, None], apart < of_samples
    return Manifolds(
        precision=float(near_real.any(axis=0).mean()),
        recall=float(near_samples.any(axis=1).mean()),
        density=float(near_real.sum(axis=0).mean() / NEIGHBOURS),
        coverage=float((apart.min(axis=1) < of_real).mean()),
    )


def _radii(features: np.ndarray) -> np.ndarray:
    """How far each row's `NEIGHBOURS`-th nearest other is, [N]."""
    radii: np.ndarray = np.partition(cdist(features, features), NEIGHBOURS, axis=1)[
        :, NEIGHBOURS
    ]  # 0 is itself
    return radii


@dataclass(frozen=True)
class Comparison:
    """Two models' distances from the same real images.

    Attributes:
        distance: the first one's.
        other: the second one's.
        standard_error: of the difference of the two, over samples and real images.
    """

    distance: float
    other: float
    standard_error: float


def compare(real: np.ndarray, features: np.ndarray, others: np.ndarray, seed: int) -> Comparison:
    """Compares two models by the Fréchet distances of their samples' features from real images'.

    The standard error is that of the paired bootstrap (Efron & Tibshirani 1993): real images and samples are
    drawn anew with replacement, the same rows for both models, so that what both have in common, an unusual
    image that neither can make, does not count as uncertainty of which is the better one.

    Args:
        real: float [N, D].
        features: float [M, D], of the first model's samples.
        others: float [M, D], of the second one's, made of the same noise.
        seed: of the resampling.
    """
    rng = np.random.default_rng(seed)
    of_real, of_samples = _resamples(len(real), rng), _resamples(len(features), rng)
    resampled = _moments(real, of_real)
    first, second = (_distances(resampled, _moments(rows, of_samples)) for rows in (features, others))
    standard_error = np.std(first[1:] - second[1:], ddof=1)
    return Comparison(float(first[0]), float(second[0]), float(standard_error))


def _resamples(count: int, rng: np.random.Generator) -> np.ndarray:
    """How often each row counts: once at first, then as drawn with replacement, [1 + RESAMPLES, count]."""
    drawn = rng.multinomial(count, np.full(count, 1 / count), RESAMPLES)
    return np.concatenate([np.ones((1, count)), drawn])


def _moments(rows: np.ndarray, counts: np.ndarray) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns means [R, D] and covariances [R, D, D], float64, of rows [N, D] that count [R, N] times."""
    origin = rows.mean(axis=0, dtype=np.float64)
    centred = rows - origin
    total = counts.sum(axis=1)[:, None]
    means = counts @ centred / total
    squares = tf.stack([tf.matmul(centred * each[:, None], centred, transpose_a=True) for each in counts])
    squares -= total[:, None] * means[:, :, None] * means[:, None]
    return means + origin, squares / np.maximum(total[:, None] - 1, 1)


def _distances(a: tuple[tf.Tensor, tf.Tensor], b: tuple[tf.Tensor, tf.Tensor]) -> np.ndarray:
    """Returns |m - n|² + tr(S + T - 2 (S T)^½) of means m, n and covariances S, T, float64 [R].

    The eigenvalues of S T are those of S^½ T S^½, which is symmetric: unlike a root of S T, they stay real
    where a covariance is singular. All is computed by TensorFlow, whose threads don't get into each other's
    way on a busy machine as those of NumPy's linear algebra do.
    """
    (means, covariances), (other_means, others) = a, b
    values, vectors = tf.linalg.eigh(covariances)
    roots = tf.matmul(vectors * tf.sqrt(tf.maximum(values, 0))[:, None], vectors, transpose_b=True)
    shared = tf.linalg.eigvalsh(tf.matmul(tf.matmul(roots, others), roots))
    shared = tf.reduce_sum(tf.sqrt(tf.maximum(shared, 0)), axis=1)
    apart = tf.reduce_sum(tf.square(means - other_means), axis=1)
    distances: np.ndarray = tf.maximum(
        apart + tf.linalg.trace(covariances) + tf.linalg.trace(others) - 2 * shared, 0
    ).numpy()
    return distances
