"""A GAN of today: a simple loss (Goodfellow et al. 2014) with gradient penalties on both sides.

R1 (Mescheder et al. 2018, arXiv:1801.04406) and R2 keep the discriminator smooth around real and made images;
with them simple losses converge (Huang et al. 2024, R3GAN, arXiv:2501.05441). The discriminator gives logits,
and nothing is normalized over a batch.
"""

from __future__ import annotations

import math
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

    from latentfaces.components.train import augment, blocks, convolution, optimizer, upsampling

if TYPE_CHECKING:
    from latentfaces.components.train.noise import GlobalBatchNoise

ImageShape = tuple[int, int, int]

_LAST = 0.1  # of gradient penalty and learning rate, what is left at the end
_AVERAGES = 4  # how often the half-life of the generator's average fits into the run, at least
_LAZY = 4  # steps from one gradient penalty to the next
_FEW = 20_000  # train images that a discriminator may learn by heart
_BLOCKS = 2  # residual blocks of each scale


@dataclass(frozen=True, kw_only=True)
class R1GANConfig(TrainConfig):
    """What is trained, for such a GAN.

    Attributes:
        gradient_penalty: gamma of R1 and R2, for images in [-1, 1]; it falls to a tenth geometrically.
        augment: whether the discriminator sees its images moved.
        relativistic: whether the discriminator compares pairs of a real and a made image
            (Jolicoeur-Martineau 2019, arXiv:1807.00734), or judges each by itself.
        ema_images: half-life of the moving average of the generator's weights that is saved, in images; less
            in a short run, whose average would else be its beginning.
    """

    gradient_penalty: float = option(
        0.0, help="Gamma of the gradient penalties R1 and R2; 0 for the preset's.", minimum=0
    )
    augment: str = option(
        "",
        help="Whether the discriminator sees its images moved (DiffAugment), on or off; by default it does "
        f"where there are up to {_FEW:,} train images.",
        choices=("", "on", "off"),
    )
    relativistic: bool = False
    ema_images: int = 0

    @property
    def is_augmented(self) -> bool:
        """What `augment` says, or follows from how many images there are."""
        return self.augment == "on" or (not self.augment and self.examples <= _FEW)


class R1GAN(Model):
    """The networks, their optimizers and what one step does; made under `strategy.scope()`.

    Args:
        config: of the run.
    """

    title = "GAN"
    Config = R1GANConfig
    default_preset = "modern"
    presets = {
        "modern": Preset(
            8,
            {
                "batch_size": 16,
                "epochs": 25,
                "latent_dim": 64,
                "learning_rate": 2e-3,
                "learning_rate_decay": True,
                "beta_1": 0.0,
                "gradient_penalty": 3.0,
                "ema_images": 5000,
            },
            cpu="1",
            memory="2Gi",
        ),
        "faces": Preset(
            8,
            {
                "batch_size": 128,
                "epochs": 100,
                "latent_dim": 128,
                "learning_rate": 2e-4,
                "learning_rate_decay": True,
                "beta_1": 0.0,
                "gradient_penalty": 2.0,
                "relativistic": True,
                "ema_images": 500_000,
            },
        ),
    }
    loss_names = ("discriminator_loss", "generator_loss", "gradient_penalty")
    network_names = ("generator", "discriminator")
    generator = "generator"

    def __init__(self, config: R1GANConfig) -> None:
        self._config = config
        self.networks = build(config.preset, config.image_shape, config.latent_dim)
        self._generator, self._discriminator = self.networks.values()
        half_lives = max(config.steps * config.batch_size / max(config.ema_images, 1), _AVERAGES)
        decay = 0.5 ** (half_lives / max(config.steps, half_lives))
        self.generator_optimizer = optimizer.adam(config, beta_2=0.99, last=_LAST, ema_decay=decay)
        self.discriminator_optimizer = optimizer.adam(config, beta_2=0.99, last=_LAST)
        self.generator_optimizer.build(self._generator.trainable_variables)
        self.discriminator_optimizer.build(self._discriminator.trainable_variables)
        self.state = {
            **self.networks,
            "generator_optimizer": self.generator_optimizer,
            "discriminator_optimizer": self.discriminator_optimizer,
        }

    def step(self, images: tf.Tensor, noise: GlobalBatchNoise) -> dict[str, tf.Tensor]:
        """Trains on one replica's share of a global batch: `Model.step`.

        The gradient penalties are computed in one step of `_LAZY`, and count so many times as much there
        (Karras et al. 2020, arXiv:1912.04958).
        """
        config, count, size = self._config, self._config.batch_size, images.shape[0]
        steps = self.discriminator_optimizer.iterations
        gamma = config.gradient_penalty * _LAST ** (tf.cast(steps, images.dtype) / max(config.steps, 1))
        weights = self._discriminator.trainable_variables
        images = augment.mirror(images, noise)
        latents, places = noise.normal(config.latent_dim), noise.uniform(2, copies=2)

        def discriminator_gradients(penalized: bool) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
            both = self._shown(tf.concat([self._generator(latents, training=True), images], axis=0), places)
            with tf.GradientTape() as tape:
                with tf.GradientTape() as inner:
                    inner.watch(both)
                    logits = self._discriminator(both, training=True)
                penalty = tf.zeros((), logits.dtype)
                if penalized:
                    slopes = inner.gradient(logits, both)
                    penalty = _LAZY * tf.reduce_sum(tf.square(slopes)) / count
                made, real = logits[:size], logits[size:]
                if config.relativistic:
                    losses = tf.nn.softplus(made - real)
                else:
                    losses = tf.nn.softplus(made) + tf.nn.softplus(-real)
                loss = tf.reduce_sum(losses) / count
                scaled = self.discriminator_optimizer.scale_loss(loss + gamma / 2 * penalty)
            return loss, penalty, tape.gradient(scaled, weights)

        discriminator_loss, penalty, gradients = tf.cond(
            steps % _LAZY == 0,
            lambda: optimizer.compute(lambda: discriminator_gradients(True), config),
            lambda: optimizer.compute(lambda: discriminator_gradients(False), config),
        )
        self.discriminator_optimizer.apply(gradients, weights)
        weights = self._generator.trainable_variables
        new_latents, new_places = noise.normal(config.latent_dim), noise.uniform(2, copies=2)

        def generator_gradients() -> tuple[tf.Tensor, list[tf.Tensor]]:
            real: tf.Tensor | float = 0.0
            if config.relativistic:
                real = self._discriminator(self._shown(images, new_places[size:]), training=True)
            with tf.GradientTape() as tape:
                generated = self._shown(self._generator(new_latents, training=True), new_places[:size])
                logits = self._discriminator(generated, training=True)
                loss = tf.reduce_sum(tf.nn.softplus(real - logits)) / count
                scaled = self.generator_optimizer.scale_loss(loss)
            return loss, tape.gradient(scaled, weights)

        generator_loss, gradients = optimizer.compute(generator_gradients, config)
        self.generator_optimizer.apply(gradients, weights)
        return dict(zip(self.loss_names, (discriminator_loss, generator_loss, penalty), strict=True))

    def _shown(self, images: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
        """Returns images as the discriminator sees them, in [-1, 1]."""
        return 2 * (augment.translate(images, places) if self._config.is_augmented else images) - 1

    def finish(self, images: Iterable[np.ndarray], on_progress: Callable[[], object]) -> None:
        """Puts the averaged weights into the generator: the last thing before it is saved."""
        self.generator_optimizer.finalize_variable_values(self._generator.trainable_variables)


def build(preset: str, image_shape: ImageShape, latent_dim: int) -> dict[str, keras.Model]:
    """Builds the networks of a preset.

    Args:
        preset: a name in `R1GAN.presets`.
        image_shape: (height, width, channels).
        latent_dim: dimensions of the latent space.

    Returns:
        "generator", latents [N, latent_dim] to images in [0, 1], and "discriminator", images in [-1, 1] to
        the logit [N, 1] of being real.
    """
    generator, discriminator = {
        "modern": (skip_generator, strided_discriminator),
        "faces": (residual_generator, residual_discriminator),
    }[preset]
    return {"generator": generator(image_shape, latent_dim), "discriminator": discriminator(image_shape)}


def skip_generator(image_shape: ImageShape, latent_dim: int) -> keras.Model:
    """Transposed convolutions, whose every scale adds to the image (Karras et al. 2020, arXiv:1912.04958).

    Args:
        image_shape: (height, width, channels).
        latent_dim: dimensions of the latent space.

    Returns:
        latents [N, latent_dim] to images in [0, 1].
    """
    height, width, channels = image_shape
    filters = [_filters(halvings) for halvings in reversed(range(_halvings(image_shape) + 1))]
    scale = 2 ** _halvings(image_shape)
    latents = keras.Input((latent_dim,))
    x = layers.Dense(height // scale * (width // scale) * filters[0], kernel_initializer=blocks.he())(latents)
    x = layers.Reshape((height // scale, width // scale, filters[0]))(x)
    x = blocks.normalized(x)
    start = keras.initializers.VarianceScaling(8.0, "fan_out")  # a pixel sums a quarter of the kernel
    pixels = None
    for count in filters[1:]:
        x = layers.Conv2DTranspose(count, 4, strides=2, padding="same", kernel_initializer=start)(x)
        x = blocks.normalized(x)
        size = 3 if x.shape[1] == height else 1
        made = convolution.Conv2D(channels, size, padding="same", kernel_initializer=blocks.he(0.5))(x)
        made = layers.Activation("linear", dtype=keras.config.floatx())(made)
        if pixels is not None:
            pixels = upsampling.UpSampling2D(2, interpolation="bilinear", dtype=keras.config.floatx())(pixels)
            made = layers.Add(dtype=keras.config.floatx())([pixels, made])
        pixels = made
    pixels = layers.Activation("sigmoid", dtype=keras.config.floatx())(pixels)
    return keras.Model(latents, pixels, name="generator")


def strided_discriminator(image_shape: ImageShape) -> keras.Model:
    """Convolutions with stride 2: images in [-1, 1] to the logit [N, 1] of being real."""
    images = keras.Input(image_shape)
    x = images
    for halvings in range(1, _halvings(image_shape) + 1):
        x = layers.Conv2D(_filters(halvings), 4, strides=2, padding="same", kernel_initializer=blocks.he())(x)
        x = layers.LeakyReLU(negative_slope=0.2)(x)
    logits = layers.Dense(1, kernel_initializer=blocks.he(0.7), dtype=keras.config.floatx())(
        layers.Flatten()(x)
    )
    return keras.Model(images, logits, name="discriminator")


def residual_generator(image_shape: ImageShape, latent_dim: int) -> keras.Model:
    """Residual blocks at every scale, after R3GAN's: latents [N, latent_dim] to images in [0, 1].

    Without its grouped convolutions, which CPUs can't differentiate; its bottlenecks are narrower instead.
    """
    height, width, channels = image_shape
    halvings = _halvings(image_shape)
    latents = keras.Input((latent_dim,))
    seed = (height >> halvings, width >> halvings, _wide(height >> halvings))
    x = layers.Reshape(seed)(layers.Dense(math.prod(seed), kernel_initializer=blocks.he())(latents))
    depth = _BLOCKS * (halvings + 1)
    for times in range(halvings + 1):
        if times:
            x = upsampling.UpSampling2D(2, interpolation="bilinear")(_widened(x, _wide(2 * x.shape[1])))
        for _ in range(_BLOCKS):
            x = _residual(x, depth)
    x = convolution.Conv2D(channels, 1, padding="same", kernel_initializer=blocks.he(0.5))(x)
    pixels = layers.Activation("sigmoid", dtype=keras.config.floatx())(x)
    return keras.Model(latents, pixels, name="generator")


def residual_discriminator(image_shape: ImageShape) -> keras.Model:
    """The mirror image of `residual_generator`: images in [-1, 1] to logits [N, 1].

    Only the difference of two says which image is more real: they have no bias.
    """
    images = keras.Input(image_shape)
    halvings = _halvings(image_shape)
    x = layers.Conv2D(_wide(image_shape[0]), 1, kernel_initializer=blocks.he(0.7))(images)
    depth = _BLOCKS * (halvings + 1)
    for times in range(halvings + 1):
        if times:
            x = _widened(layers.AveragePooling2D(2)(x), _wide(x.shape[1] // 2))
        for _ in range(_BLOCKS):
            x = _residual(x, depth)
    score = layers.Dense(1, kernel_initializer=blocks.he(0.7), use_bias=False, dtype=keras.config.floatx())
    logits = score(layers.Flatten()(x))
    return keras.Model(images, logits, name="discriminator")


def _residual(x: keras.KerasTensor, depth: int) -> keras.KerasTensor:
    """A bottleneck of three convolutions beside the identity, which it adds nothing to at first.

    So initialized, deep networks need no normalization (Zhang et al. 2019, Fixup, arXiv:1901.09321).
    """
    filters = x.shape[-1]
    gain = depth**-0.25
    y = layers.Conv2D(filters // 2, 1, kernel_initializer=blocks.he(gain))(x)
    y = layers.LeakyReLU(negative_slope=0.2)(y)
    y = layers.Conv2D(filters // 2, 3, padding="same", kernel_initializer=blocks.he(gain))(y)
    y = layers.LeakyReLU(negative_slope=0.2)(y)
    y = layers.Conv2D(filters, 1, kernel_initializer="zeros", use_bias=False)(y)
    return layers.Add()([x, y])


def _widened(x: keras.KerasTensor, filters: int) -> keras.KerasTensor:
    if x.shape[-1] == filters:
        return x
    return layers.Conv2D(filters, 1, kernel_initializer=blocks.he(0.7), use_bias=False)(x)


def _wide(side: int) -> int:
    """Filters of residual blocks where images have sides of so many pixels."""
    return 384 if side < 64 else 192 if side < 128 else 96


def _halvings(image_shape: ImageShape) -> int:
    """How often images are halved, down to sides of 4 to 7 pixels where that divides them."""
    height, width, _ = image_shape
    halvings = 3
    while min(height, width) >= 8 << halvings and height % (2 << halvings) == width % (2 << halvings) == 0:
        halvings += 1
    return halvings


def _filters(halvings: int) -> int:
    """Filters where images have been halved so often."""
    return min(16 << halvings, 128)
