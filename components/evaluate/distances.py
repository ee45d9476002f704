"""How far a model's images are from real ones: the Fréchet distance of features, and its uncertainty."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from latentfaces.components.evaluate.models import Network

FEATURES = 128
RESAMPLES = 200  # by which standard errors are estimated, to about 5 %

_FILTERS = 32
_SMALLEST, _LARGEST = 4, 128  # pixels of a side: of the last feature map at least, and of what is looked at


def feature_network(image_shape: tuple[int, int, int]) -> Network:
    """Returns the network whose features images are compared by, images to float32 [N, `FEATURES`].

    Its weights are random, and always the same: convolutions with stride 2 down to a map of 4 to 7 pixels,
    and a projection of that. Of images unlike ImageNet's, such features tell as much as those that were
    learned there (Naeem et al. 2020, arXiv:2002.09797). They need no download, no labels and no training, and
    last month's distances can be compared with today's. Those of a classifier of attributes miss what no
    label calls for, such as noise or darkness. Nothing is normalized, so that brightness and contrast count.
    """
    rng = np.random.default_rng(0)

    def start() -> keras.initializers.Initializer:
        return keras.initializers.HeNormal(int(rng.integers(2**31)))

    def convolution(filters: int) -> layers.Layer:
        return layers.Conv2D(
            filters, 4, strides=2, padding="same", activation="relu", kernel_initializer=start()
        )

    images = keras.Input(image_shape)
    pool = -(-max(image_shape[:2]) // _LARGEST)
    x = images if pool == 1 else layers.AveragePooling2D(pool, padding="same")(images)
    x = layers.Rescaling(2.0, offset=-1.0)(x)
    filters = _FILTERS
    while filters == _FILTERS or min(x.shape[1:3]) >= 2 * _SMALLEST:
        x = convolution(filters)(x)
        filters = min(2 * filters, 128)
    x = layers.Dense(FEATURES, activation="relu", kernel_initializer=start())(layers.Flatten()(x))
    return Network(keras.Model(images, x), "the feature network")


def frechet_distance(features: np.ndarray, others: np.ndarray) -> float:
    """Returns the Fréchet distance of two sets of features (Heusel et al. 2017, arXiv:1706.08500).

    Each set, [N, D] and [M, D], counts as a normal distribution of its mean and covariance (divided by
    N - 1). The estimate is too large, by an amount that shrinks with N and M: where these are below D, and
    covariances singular, only distances from the same real images by as many samples can be compared.
    """
    a, b = (_moments(rows, np.ones((1, len(rows)))) for rows in (features, others))
    return float(_distances(a, b)[0])


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
        others: float [M, D], of the second one's, made of the same latents.
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
