"""A VAE for faces: presets `small` and `faces`.

It begins as probabilistic PCA, beside which convolutions learn what is not linear, and ends by learning where
in latent space the images are (`latentfaces.components.train.prior`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
from etils import epy

from latentfaces.common.images import to_float
from latentfaces.common.models import Preset
from latentfaces.components.train.models.vae import VAE, ImageShape, VAEConfig, kl_loss, posterior

with epy.lazy_imports():
    import keras
    import tensorflow as tf
    from keras import layers

    from latentfaces.components.train import augment, blocks, optimizer, prior, upsampling

if TYPE_CHECKING:
    from latentfaces.components.train.noise import GlobalBatchNoise

FILTERS = {"small": (32, 64, 128), "faces": (64, 128, 256, 256)}  # of the convolutions, by preset

_KEPT = 0.9  # of the likelihood's variance at each step
_SETTINGS = {
    "latent_dim": 128,
    "learning_rate": 5e-3,
    "learning_rate_decay": True,
    "warmup_steps": 100,
    "calibrated": True,
    "mirrored": True,
    "learned_prior": True,
}
_ENDS_WITH = 10_000  # train images, at most


def gaussian_loss(images: tf.Tensor, reconstructions: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
    """Negative log-likelihood in nats of images' pixel values, 0 to 255, around their reconstructions, [N].

    Args:
        images: floats in [0, 1], [N, H, W, C].
        reconstructions: floats, [N, H, W, C].
        variance: scalar, of each value; the smaller, the sharper the pictures have to be.
    """
    errors = tf.reduce_sum(tf.square(images - reconstructions), axis=(1, 2, 3)) / variance
    values = math.prod(images.shape[1:])
    return 0.5 * (errors + values * tf.math.log(2 * math.pi * 255**2 * variance))


class FacesVAE(VAE):
    """The networks, their optimizer and what one step does; made under `strategy.scope()`.

    Args:
        config: of the run.
    """

    presets = {
        "small": Preset(8, {**_SETTINGS, "batch_size": 16, "epochs": 20}, cpu="1", memory="2Gi"),
        "faces": Preset(16, {**_SETTINGS, "batch_size": 64, "epochs": 30}),
    }
    network_names = (*VAE.network_names, VAE.prior)
    begins_with = 4000

    def __init__(self, config: VAEConfig) -> None:
        super().__init__(config)
        # Clipped values would have no gradient.
        self._to_pixels = keras.Model(self._decoder.input, self._decoder.layers[-1].input)
        self._variance = tf.Variable(
            0.01, trainable=False, dtype=keras.config.floatx(), aggregation=tf.VariableAggregation.SUM
        )
        self.state["variance"] = self._variance
        self.ends_with = min(_ENDS_WITH, config.steps * config.batch_size)  # a short run's end is short

    def _build(self) -> tuple[keras.Model, keras.Model]:
        settings = self._config.image_shape, self._config.latent_dim, FILTERS[self._config.preset]
        return encoder(*settings), decoder(*settings)

    def begin(self, images: Iterable[np.ndarray], chiefs: Callable[[np.ndarray], np.ndarray]) -> None:
        """Sets the linear layers to probabilistic PCA of train images: `Model.begin`.

        That is the optimum of a linear VAE (Lucas et al. 2019, arXiv:1911.02469): training keeps it and
        learns what is not linear. In closed form (Tipping & Bishop 1999): with the principal components v,
        their variances λ and σ² the mean of the variances that are left over, the decoder is v √(λ - σ²), the
        posterior's mean √(λ - σ²) / λ vᵀ(x - mean) and its variance σ² / λ.
        """
        from latentfaces.common.principal_components import fit  # which takes a second to import

        to_mean, to_pixels = (network.get_layer("linear") for network in (self._encoder, self._decoder))
        rows = np.concatenate([_shrunk(to_float(batch)) for batch in images])
        count = min(self._config.latent_dim, min(rows.shape) - 1)
        if count < 1:
            return
        found = fit(rows, count)
        arrays = [found.mean, found.components, found.variances, np.array([found.left])]
        mean, components, variances, (left,) = (chiefs(array) for array in arrays)
        scale = np.sqrt(variances - left)[:, None] * components
        inverse = scale / variances[:, None]
        unused = [(0, self._config.latent_dim - count)]
        to_mean.set_weights([np.pad(inverse, [*unused, (0, 0)]).T, np.pad(-inverse @ mean, unused)])
        to_pixels.set_weights([np.pad(scale, [*unused, (0, 0)]), mean])
        log_var = self._encoder.get_layer("z_log_var")
        log_var.set_weights([log_var.get_weights()[0], np.pad(np.log(left / variances), unused)])
        self._variance.assign(left)

    def step(self, images: tf.Tensor, noise: GlobalBatchNoise) -> dict[str, tf.Tensor]:
        """Trains on one replica's share of a global batch: `Model.step`."""
        config = self._config
        if config.mirrored:
            images = augment.mirror(images, noise)

        def compute_gradients() -> tuple[list[tf.Tensor], list[tf.Tensor], tf.Tensor]:
            with tf.GradientTape() as tape:
                z_mean, z_log_var = self._encoder(images, training=True)
                z = z_mean + tf.exp(0.5 * z_log_var) * noise.normal(config.latent_dim)
                outputs = self._to_pixels(z, training=True)
                reconstruction = gaussian_loss(images, outputs, self._variance)
                reconstruction = tf.reduce_sum(reconstruction) / config.batch_size
                kl = tf.reduce_sum(kl_loss(z_mean, z_log_var)) / config.batch_size
                total = reconstruction + kl
                scaled = self.optimizer.scale_loss(total)
            error = tf.reduce_sum(tf.reduce_mean(tf.square(images - outputs), axis=(1, 2, 3)))
            losses = [total, reconstruction, kl]
            return tape.gradient(scaled, self._weights), losses, error / config.batch_size

        gradients, losses, error = optimizer.compute(compute_gradients, config)
        self.optimizer.apply(gradients, self._weights)
        # What the replicas assign is summed.
        replicas = tf.distribute.get_replica_context().num_replicas_in_sync
        self._variance.assign(_KEPT / replicas * self._variance + (1 - _KEPT) * error)
        return dict(zip(self.loss_names, losses, strict=True))

    def sample(self, noise: np.ndarray) -> tf.Tensor:
        """Returns images of the prior, once it is learned: `Model.sample`."""
        learned = self.networks.get(self.prior)
        return self._decoder(learned(noise, training=False) if learned else noise, training=False)

    def finish(self, images: Iterable[np.ndarray], on_progress: Callable[[], object]) -> None:
        """Learns the prior from the latents of train images: `Model.finish`."""
        posteriors = []
        for batch in images:
            floats = to_float(batch)
            for each in (floats, floats[:, :, ::-1])[: 1 + self._config.mirrored]:
                posteriors.append([array.numpy() for array in self._encoder(each, training=False)])
            on_progress()
        means, log_variances = (np.concatenate(arrays) for arrays in zip(*posteriors, strict=True))
        kernel, _ = self._decoder.get_layer("linear").get_weights()
        visible = np.linalg.norm(kernel, axis=1)  # by the linear path: the rest corrects it
        self.networks[self.prior] = prior.learn(means, log_variances, visible, self._config, on_progress)


def _shrunk(images: np.ndarray) -> np.ndarray:
    """Returns what the linear path sees of images [N, H, W, C], float64 [N, values]."""
    count, height, width, channels = images.shape
    by = _shrink(images.shape[1:])
    cells = images.astype(np.float64).reshape(count, height // by, by, width // by, by, channels)
    return cells.mean(axis=(2, 4)).reshape(count, -1)


def encoder(image_shape: ImageShape, latent_dim: int, filters: tuple[int, ...]) -> keras.Model:
    """Convolutions with stride 2, and beside them a linear path from the image, at most 32x32, to z_mean.

    At first the convolutions add nothing.
    """
    images = keras.Input(image_shape)
    z_mean, z_log_var = posterior(layers.Flatten()(_strided(images, filters)[-1]), latent_dim, "zeros")
    shrink = _shrink(image_shape)
    few = images if shrink == 1 else layers.AveragePooling2D(shrink)(images)
    linear = _fixed_linear(latent_dim)(layers.Flatten()(few))
    mean = layers.Add(dtype=keras.config.floatx())([z_mean, linear])
    return keras.Model(images, [mean, z_log_var], name="encoder")


def decoder(image_shape: ImageShape, latent_dim: int, filters: tuple[int, ...]) -> keras.Model:
    """A linear path to an image, at most 32x32, which is enlarged, and convolutions that correct it.

    They see that image at every scale (as in U-Net, Ronneberger et al. 2015), and the latents at the
    smallest. The last doubling is a convolution to the four pixels that take the place of one (Shi et al.
    2016). At first they add nothing. The sum is clipped to [0, 1].
    """
    height, width, channels = image_shape
    scale, shrink = 2 ** len(filters), _shrink(image_shape)
    latents = keras.Input((latent_dim,))
    few = (height // shrink, width // shrink, channels)
    linear = layers.Reshape(few)(_fixed_linear(math.prod(few))(latents))
    if shrink > 1:
        enlarge = upsampling.UpSampling2D(shrink, interpolation="bilinear", dtype=keras.config.floatx())
        linear = enlarge(linear)
    seen = _strided(linear, filters)
    x = layers.Dense(height // scale * (width // scale) * filters[-1], kernel_initializer=blocks.he())(
        latents
    )
    x = blocks.normalized(layers.Reshape((height // scale, width // scale, filters[-1]))(x))
    start = keras.initializers.VarianceScaling(
        8.0, "fan_out"
    )  # each pixel is the sum of a quarter of the kernel
    for count in filters[-2::-1]:
        x = layers.Add()([x, seen.pop()])
        x = layers.Conv2DTranspose(count, 4, strides=2, padding="same", kernel_initializer=start)(x)
        x = blocks.normalized(x)
    x = layers.Add()([x, seen.pop()])
    x = layers.Conv2D(4 * channels, 3, padding="same", kernel_initializer="zeros")(x)
    x = layers.Reshape((height // 2, width // 2, 2, 2, channels))(x)
    x = layers.Reshape(image_shape)(layers.Permute((1, 3, 2, 4, 5))(x))
    pixels = layers.Add(dtype=keras.config.floatx())([x, linear])
    return keras.Model(
        latents, layers.ReLU(max_value=1.0, dtype=keras.config.floatx())(pixels), name="decoder"
    )


def _strided(images: keras.KerasTensor, filters: tuple[int, ...]) -> list[keras.KerasTensor]:
    """Convolutions with stride 2, one after the other: what each of them makes."""
    made: list[keras.KerasTensor] = []
    for count in filters:
        source = made[-1] if made else images
        x = layers.Conv2D(count, 4, strides=2, padding="same", kernel_initializer=blocks.he())(source)
        made.append(blocks.normalized(x))
    return made


def _fixed_linear(units: int) -> keras.layers.Layer:
    """The layer that `begin` sets and nothing changes: trained, it learns the train images by heart."""
    return layers.Dense(
        units, name="linear", trainable=False, kernel_initializer="zeros", dtype=keras.config.floatx()
    )


def _shrink(image_shape: ImageShape) -> int:
    """By how much the linear path's images are smaller, so that they have at most 32x32 pixels."""
    height, width, _ = image_shape
    return next(
        by for by in itertools.count(1) if max(height, width) <= 32 * by and height % by == width % by == 0
    )
