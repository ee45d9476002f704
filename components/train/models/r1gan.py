"""A GAN of today: the non-saturating loss (Goodfellow et al. 2014) with gradient penalties on both sides.

R1 (Mescheder et al. 2018, arXiv:1801.04406) and R2 keep the discriminator smooth around real and made images;
with them the simple loss converges (Huang et al. 2024, arXiv:2501.05441). The discriminator gives logits, and
nothing is normalized over a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from etils import epy

from latentfaces.common.config import TrainConfig
from latentfaces.common.models import Model, Preset

with epy.lazy_imports():
    import keras
    import tensorflow as tf
    from keras import layers

    from latentfaces.components.train import augment, convolution, optimizer

if TYPE_CHECKING:
    from latentfaces.components.train.noise import GlobalBatchNoise

ImageShape = tuple[int, int, int]

_LAST = 0.1  # of gradient penalty and learning rate, what is left at the end
_AVERAGES = 4  # how often the half-life of the generator's average fits into the run, at least


@dataclass(frozen=True, kw_only=True)
class R1GANConfig(TrainConfig):
    """What is trained, for such a GAN.

    Attributes:
        gradient_penalty: gamma of R1 and R2, for images in [-1, 1]; it falls to a tenth geometrically.
        ema_images: half-life of the moving average of the generator's weights that is saved, in images; less
            in a short run, whose average would else be its beginning.
    """

    gradient_penalty: float = 0.0
    ema_images: int = 0


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
                "gradient_penalty": 0.2,
                "ema_images": 5000,
            },
            cpu="1",
            memory="2Gi",
        ),
    }
    loss_names = ("discriminator_loss", "generator_loss", "gradient_penalty")
    network_names = ("generator", "discriminator")
    generator = "generator"

    def __init__(self, config: R1GANConfig) -> None:
        self._config = config
        self._generator = skip_generator(config.image_shape, config.latent_dim)
        self._discriminator = strided_discriminator(config.image_shape)
        self.networks = {"generator": self._generator, "discriminator": self._discriminator}
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
        """Trains on one replica's share of a global batch: `Model.step`."""
        config, count, size = self._config, self._config.batch_size, images.shape[0]
        done = tf.cast(self.discriminator_optimizer.iterations, images.dtype) / max(config.steps, 1)
        gamma = config.gradient_penalty * _LAST**done
        weights = self._discriminator.trainable_variables
        images = augment.mirror(images, noise)

        def discriminator_gradients() -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
            generated = self._generator(noise.normal(config.latent_dim), training=True)
            both = 2 * tf.concat([generated, images], axis=0) - 1
            with tf.GradientTape() as tape:
                with tf.GradientTape() as inner:
                    inner.watch(both)
                    logits = self._discriminator(both, training=True)
                slopes = inner.gradient(logits, both)
                penalty = tf.reduce_sum(tf.square(slopes)) / count
                loss = tf.reduce_sum(tf.nn.softplus(logits[:size]) + tf.nn.softplus(-logits[size:])) / count
                scaled = self.discriminator_optimizer.scale_loss(loss + gamma / 2 * penalty)
            return loss, penalty, tape.gradient(scaled, weights)

        discriminator_loss, penalty, gradients = optimizer.compute(discriminator_gradients, config)
        self.discriminator_optimizer.apply(gradients, weights)
        weights = self._generator.trainable_variables

        def generator_gradients() -> tuple[tf.Tensor, list[tf.Tensor]]:
            latents = noise.normal(config.latent_dim)
            with tf.GradientTape() as tape:
                logits = self._discriminator(2 * self._generator(latents, training=True) - 1, training=True)
                loss = tf.reduce_sum(tf.nn.softplus(-logits)) / count
                scaled = self.generator_optimizer.scale_loss(loss)
            return loss, tape.gradient(scaled, weights)

        generator_loss, gradients = optimizer.compute(generator_gradients, config)
        self.generator_optimizer.apply(gradients, weights)
        return dict(zip(self.loss_names, (discriminator_loss, generator_loss, penalty), strict=True))

    def finish(self) -> None:
        """Puts the averaged weights into the generator: the last thing before it is saved."""
        self.generator_optimizer.finalize_variable_values(self._generator.trainable_variables)


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
    x = layers.Dense(height // scale * (width // scale) * filters[0], kernel_initializer=_he())(latents)
    x = layers.Reshape((height // scale, width // scale, filters[0]))(x)
    x = layers.LeakyReLU(negative_slope=0.2)(layers.RMSNormalization()(x))
    start = keras.initializers.VarianceScaling(8.0, "fan_out")  # a pixel sums a quarter of the kernel
    pixels = None
    for count in filters[1:]:
        x = layers.Conv2DTranspose(count, 4, strides=2, padding="same", kernel_initializer=start)(x)
        x = layers.LeakyReLU(negative_slope=0.2)(layers.RMSNormalization()(x))
        size = 3 if x.shape[1] == height else 1
        made = convolution.Conv2D(channels, size, padding="same", kernel_initializer=_he(0.5))(x)
        made = layers.Activation("linear", dtype=keras.config.floatx())(made)
        if pixels is not None:
            pixels = layers.UpSampling2D(2, interpolation="bilinear", dtype=keras.config.floatx())(pixels)
            made = layers.Add(dtype=keras.config.floatx())([pixels, made])
        pixels = made
    pixels = layers.Activation("sigmoid", dtype=keras.config.floatx())(pixels)
    return keras.Model(latents, pixels, name="generator")


def strided_discriminator(image_shape: ImageShape) -> keras.Model:
    """Convolutions with stride 2: images in [-1, 1] to the logit [N, 1] of being real."""
    images = keras.Input(image_shape)
    x = images
    for halvings in range(1, _halvings(image_shape) + 1):
        x = layers.Conv2D(_filters(halvings), 4, strides=2, padding="same", kernel_initializer=_he())(x)
        x = layers.LeakyReLU(negative_slope=0.2)(x)
    logits = layers.Dense(1, kernel_initializer=_he(0.7), dtype=keras.config.floatx())(layers.Flatten()(x))
    return keras.Model(images, logits, name="discriminator")


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


def _he(gain: float = 1.0) -> keras.initializers.Initializer:
    """He's initializer (2015) for leaky rectifiers of slope 0.2."""
    return keras.initializers.VarianceScaling(2 * gain**2 / (1 + 0.2**2))
