"""The DCGAN (Radford et al. 2016; Chollet, 2nd ed., 12.5).

Preset `book` has the networks of listings 12.34 and 12.35 and the step of listing 12.36. They are written for
any size that their strides divide; on 64x64x3 with 128 latents they are the book's to the parameter. Preset
`small` is ours.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from etils import epy

from latentfaces.common.config import TrainConfig
from latentfaces.common.models import Model, Preset
from latentfaces.common.options import option

with epy.lazy_imports():
    import keras
    import tensorflow as tf
    from keras import layers

    from latentfaces.components.train import blocks, convolution, dropout, optimizer

if TYPE_CHECKING:
    from latentfaces.components.train.noise import GlobalBatchNoise

logger = logging.getLogger(__name__)

ImageShape = tuple[int, int, int]

DROPOUT = 0.2  # in the discriminators; the book's


_AVERAGES = 4  # how often the time over which weights are averaged fits into the run, at least


@dataclass(frozen=True, kw_only=True)
class DCGANConfig(TrainConfig):
    """What is trained, for a DCGAN.

    Attributes:
        rebalance: whether a discriminator that overpowers the generator is weakened.
        ema_decay: decay of the exponential moving average of the generator's weights that is saved, or 0 to
            save the generator itself; less in a short run, whose average would else be its beginning.
    """

    rebalance: bool = option(False, help="Weaken a discriminator that overpowers the generator.")
    ema_decay: float = 0.0


def is_overpowered(losses: dict[str, float]) -> bool:
    """Whether the discriminator knows nearly all fakes: its loss goes to 0, the generator's soars.

    With the book's noisy labels a discriminator that is always right has a loss of about 0.1 or less; a
    generator's loss of 4 says that a fake passes for real with a probability of about 2 %.
    """
    return losses["discriminator_loss"] < 0.1 and losses["generator_loss"] > 4


class DCGAN(Model):
    """The networks of a GAN, their optimizers and what one step does; made under `strategy.scope()`.

    With `ema_decay` the saved generator is the moving average of the trained one's weights
    (Yazıcı et al. 2019), which does not touch the training step.

    Args:
        config: of the run.
    """

    title = "GAN"
    Config = DCGANConfig
    default_preset = "book"
    presets = {
        "book": Preset(8, {"batch_size": 32, "epochs": 100, "latent_dim": 128, "learning_rate": 1e-4}),
        "small": Preset(
            4,
            {
                "batch_size": 32,
                "epochs": 60,
                "latent_dim": 64,
                "learning_rate": 3e-4,
                "beta_1": 0.5,
                "ema_decay": 0.999,
            },
            cpu="1",
            memory="2Gi",
        ),
    }
    loss_names = ("discriminator_loss", "generator_loss")
    network_names = ("generator", "discriminator")
    generator = "generator"

    def __init__(self, config: DCGANConfig) -> None:
        self._config = config
        self.networks = build(config.preset, config.image_shape, config.latent_dim)
        self._generator, self._discriminator = self.networks.values()
        at_most = max(0.0, 1 - _AVERAGES / max(config.steps, 1))
        self.generator_optimizer = optimizer.adam(config, ema_decay=min(config.ema_decay, at_most))
        self.discriminator_optimizer = optimizer.adam(config)
        self.generator_optimizer.build(self._generator.trainable_variables)
        self.discriminator_optimizer.build(self._discriminator.trainable_variables)
        self.state = {
            **self.networks,
            "generator_optimizer": self.generator_optimizer,
            "discriminator_optimizer": self.discriminator_optimizer,
        }
        self._is_overpowered = False
        if config.rebalance:
            self._dropout_rate = tf.Variable(
                DROPOUT,
                trainable=False,
                dtype=keras.config.floatx(),
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,  # they all set the same value
            )
            self.state["dropout_rate"] = self._dropout_rate

    def step(self, images: tf.Tensor, noise: GlobalBatchNoise) -> dict[str, tf.Tensor]:
        """Trains on one replica's share of a global batch: `Model.step`; listing 12.36."""
        count, latent_dim = self._config.batch_size, self._config.latent_dim
        if self._config.rebalance:
            noise.dropout_rate = tf.convert_to_tensor(self._dropout_rate)
        ones = tf.ones((images.shape[0], 1), images.dtype)
        weights = self._discriminator.trainable_variables

        def cross_entropy(labels: tf.Tensor, probabilities: tf.Tensor, count: int) -> tf.Tensor:
            return tf.reduce_sum(keras.losses.binary_crossentropy(labels, probabilities)) / count

        def discriminator_gradients() -> tuple[tf.Tensor, list[tf.Tensor]]:
            generated = self._generator(noise.normal(latent_dim), training=True)
            both = tf.concat([generated, images], axis=0)
            labels = tf.concat([ones, tf.zeros_like(ones)], axis=0) + 0.05 * noise.uniform(1, copies=2)
            with tf.GradientTape() as tape, noise:
                loss = cross_entropy(labels, self._discriminator(both, training=True), 2 * count)
                scaled = self.discriminator_optimizer.scale_loss(loss)
            return loss, tape.gradient(scaled, weights)

        discriminator_loss, gradients = optimizer.compute(discriminator_gradients, self._config)
        self.discriminator_optimizer.apply(gradients, weights)
        weights = self._generator.trainable_variables

        def generator_gradients() -> tuple[tf.Tensor, list[tf.Tensor]]:
            latents = noise.normal(latent_dim)
            with tf.GradientTape() as tape, noise:
                probabilities = self._discriminator(self._generator(latents, training=True), training=True)
                loss = cross_entropy(tf.zeros_like(ones), probabilities, count)
                scaled = self.generator_optimizer.scale_loss(loss)
            return loss, tape.gradient(scaled, weights)

        generator_loss, gradients = optimizer.compute(generator_gradients, self._config)
        self.generator_optimizer.apply(gradients, weights)
        return {"discriminator_loss": discriminator_loss, "generator_loss": generator_loss}

    def watch(self, losses: dict[str, float]) -> dict[str, float]:
        """Warns when the discriminator overpowers the generator, and with `rebalance` weakens it.

        The book (12.5) describes the state and the remedy: a lower learning rate of the discriminator and
        more dropout in it. Each call in that state halves the one, down to 1/16 of the start, and raises the
        other by 0.1, up to 0.5.
        With `rebalance` both settings are recorded.
        """
        was, self._is_overpowered = self._is_overpowered, is_overpowered(losses)
        if self._is_overpowered and not was:
            logger.warning(
                "the discriminator overpowers the generator (its loss is %.3f, the generator's %.1f), which "
                "then learns nothing: %s",
                *losses.values(),
                "its learning rate is lowered and its dropout raised"
                if self._config.rebalance
                else "lower the discriminator's learning rate and raise its dropout, as --rebalance does",
            )
        if not self._config.rebalance:
            return {}
        rate, dropout = (
            float(tf.convert_to_tensor(value))
            for value in (self.discriminator_optimizer.learning_rate, self._dropout_rate)
        )
        if self._is_overpowered:
            rate = max(rate / 2, self._config.learning_rate / 16)
            dropout = min(dropout + 0.1, 0.5)
            self.discriminator_optimizer.learning_rate = rate
            self._dropout_rate.assign(dropout)
        return {"discriminator_learning_rate": rate, "discriminator_dropout": dropout}

    def finish(self, images: Iterable[np.ndarray], on_progress: Callable[[], object]) -> None:
        """Puts the averaged weights, if any, into the generator: the last thing before it is saved."""
        self.generator_optimizer.finalize_variable_values(self._generator.trainable_variables)


def build(preset: str, image_shape: ImageShape, latent_dim: int) -> dict[str, keras.Model]:
    """Builds the networks of a preset.

    Args:
        preset: a name in `DCGAN.presets`.
        image_shape: (height, width, channels).
        latent_dim: dimensions of the latent space.

    Returns:
        "generator", latents [N, latent_dim] to images, and "discriminator", images to the probability [N, 1]
        of being generated.
    """
    generator, discriminator = {
        "book": (book_generator, book_discriminator),
        "small": (small_generator, small_discriminator),
    }[preset]
    return {"generator": generator(image_shape, latent_dim), "discriminator": discriminator(image_shape)}


def book_discriminator(image_shape: ImageShape) -> keras.Model:
    """The book's discriminator, listing 12.34: images to the probability [N, 1] of being generated."""
    images = keras.Input(image_shape)
    x = images
    for filters in (64, 128, 128):
        x = layers.Conv2D(filters, 4, strides=2, padding="same")(x)
        x = layers.LeakyReLU(negative_slope=0.2)(x)
    return keras.Model(images, _probability(x), name="discriminator")


def book_generator(image_shape: ImageShape, latent_dim: int) -> keras.Model:
    """The book's generator, listing 12.35: latents [N, latent_dim] to images."""
    height, width, channels = image_shape
    latents = keras.Input((latent_dim,))
    x = layers.Dense(height // 8 * (width // 8) * 128)(latents)
    x = layers.Reshape((height // 8, width // 8, 128))(x)
    for filters in (128, 256, 512):
        x = layers.Conv2DTranspose(filters, 4, strides=2, padding="same")(x)
        x = layers.LeakyReLU(negative_slope=0.2)(x)
    return keras.Model(latents, convolution.to_pixels(x, channels, 5), name="generator")


def small_discriminator(image_shape: ImageShape) -> keras.Model:
    """The book's discriminator with two strided convolutions instead of three, for about 32x32."""
    images = keras.Input(image_shape)
    x = layers.Conv2D(32, 4, strides=2, padding="same")(images)
    x = layers.LeakyReLU(negative_slope=0.2)(x)
    x = layers.Conv2D(64, 4, strides=2, padding="same")(x)
    x = blocks.normalized(x)
    return keras.Model(images, _probability(x), name="discriminator")


def small_generator(image_shape: ImageShape, latent_dim: int) -> keras.Model:
    """The book's generator with two transposed convolutions instead of three, normalized."""
    height, width, channels = image_shape
    latents = keras.Input((latent_dim,))
    x = layers.Dense(height // 4 * (width // 4) * 64)(latents)
    x = layers.Reshape((height // 4, width // 4, 64))(x)
    for filters in (64, 32):
        x = blocks.normalized(x)
        x = layers.Conv2DTranspose(filters, 4, strides=2, padding="same")(x)
    x = blocks.normalized(x)
    return keras.Model(latents, convolution.to_pixels(x, channels, 5), name="generator")


def _probability(x: keras.KerasTensor) -> keras.KerasTensor:
    x = dropout.Dropout(DROPOUT)(layers.Flatten()(x))
    return layers.Dense(1, activation="sigmoid", dtype=keras.config.floatx())(x)
