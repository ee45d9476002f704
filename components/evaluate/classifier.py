"""A small network that reads attributes off images, trained on real ones, to judge the generated ones by."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from sklearn.decomposition import PCA

from latentfaces.common.images import to_float
from latentfaces.components.evaluate.models import Network

FEATURES = 128

_BATCH = 64
_COMPONENTS, _LOOKED_AT = 16, 32  # labels, and pixels of a side, of images without labels
_FILTERS = 32
_SMALLEST = 4  # pixels of the last feature map's side, at least
_LARGEST = 128  # pixels of the side that is read; larger images are averaged down, for the sake of memory


def train_classifier(
    images: np.ndarray, attributes: np.ndarray, seed: int, steps: int = 450
) -> tuple[Network, Network]:
    """Trains a convolutional network with one sigmoid for each attribute.

    On the features of `extract`, normalized, by Adam with a learning rate that falls to 0. Images are
    mirrored at random: no attribute of a face depends on its side. On a CPU the same seed gives the same
    network.

    Args:
        images: real ones, uint8 [N, H, W, C].
        attributes: [N, A] of 0 and 1.
        seed: of the weights, the order of the images and the mirroring.
        steps: batches of 64 images.

    Returns:
        Of images, uint8 or float32 in [0, 1]: the network that gives the attributes' probabilities, float32
        [N, A], and the one that gives the features of its last layer but one, float32 [N, `FEATURES`].
    """
    rng = np.random.default_rng(seed)
    taken = keras.Input(images.shape[1:])
    features = extract(shrink(taken), rng, normalized=True)
    read = layers.Dense(attributes.shape[1], activation="sigmoid", kernel_initializer=_start(rng))(features)
    model = keras.Model(taken, read)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, steps))
    optimizer.build(model.trainable_variables)

    @tf.function
    def train(batch: tf.Tensor, labels: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(keras.losses.binary_crossentropy(labels, model(batch, training=True)))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)

    order = np.concatenate([rng.permutation(len(images)) for _ in range(-(-steps * _BATCH // len(images)))])
    for step in range(steps):
        rows = order[step * _BATCH : (step + 1) * _BATCH]
        mirrored = rng.random(len(rows)) < 0.5
        batch = images[rows]
        batch[mirrored] = batch[mirrored, :, ::-1]
        train(tf.constant(to_float(batch)), tf.constant(attributes[rows], tf.float32))
    name = "the attribute classifier"
    return Network(model, name), Network(keras.Model(taken, features), name)


def sides(images: np.ndarray) -> np.ndarray:
    """Labels for images that have none: on which side of the median each lies along principal components.

    A classifier of these sees what images mostly differ in, which makes its features fit to compare them by.

    Args:
        images: uint8 [N, H, W, C]; of large ones, some pixels are looked at.

    Returns:
        [N, at most `_COMPONENTS`] of 0 and 1.
    """
    if len(images) < 2:
        return np.zeros((len(images), 1), np.int64)
    step = -(-max(images.shape[1:3]) // _LOOKED_AT)
    rows = to_float(images[:, ::step, ::step]).reshape(len(images), -1)
    count = min(_COMPONENTS, *rows.shape)
    with np.errstate(invalid="ignore"):  # where all images are the same
        places = PCA(count, svd_solver="randomized", random_state=0).fit_transform(rows)
    labels: np.ndarray = (places > np.median(places, axis=0)).astype(np.int64)
    return labels


def learnable(attributes: np.ndarray, least: int) -> np.ndarray:
    """Returns which columns of [N, A] hold at least `least` ones and as many zeros, bool [A]."""
    ones = attributes.sum(axis=0)
    return np.minimum(ones, len(attributes) - ones) >= least


def accuracy(probabilities: np.ndarray, attributes: np.ndarray) -> np.ndarray:
    """Returns the share of images for which each attribute is read rightly, float64 [A]."""
    return np.mean((probabilities > 0.5) == (attributes > 0.5), axis=0)


def shrink(images: keras.KerasTensor) -> keras.KerasTensor:
    """Averages images of more than 128 pixels a side down, for the sake of memory."""
    pool = -(-max(images.shape[1:3]) // _LARGEST)
    return images if pool == 1 else layers.AveragePooling2D(pool, padding="same")(images)


def extract(x: keras.KerasTensor, rng: np.random.Generator, *, normalized: bool) -> keras.KerasTensor:
    """Leads from images to features [N, `FEATURES`]: by strides of 2 to a map of 4 to 7 pixels.

    Args:
        x: images.
        rng: of the weights.
        normalized: whether each map is, over one image's channels (`keras.layers.GroupNormalization`).
    """
    filters = _FILTERS
    while filters == _FILTERS or min(x.shape[1:3]) >= 2 * _SMALLEST:
        x = layers.Conv2D(filters, 4, strides=2, padding="same", kernel_initializer=_start(rng))(x)
        x = layers.ReLU()(layers.GroupNormalization(8)(x) if normalized else x)
        filters = min(2 * filters, 128)
    return layers.Dense(FEATURES, activation="relu", kernel_initializer=_start(rng))(layers.Flatten()(x))


def _start(rng: np.random.Generator) -> keras.initializers.Initializer:
    return keras.initializers.HeNormal(int(rng.integers(2**31)))
