"""The variational autoencoder (Kingma & Welling 2014; Chollet, 2nd ed., 12.4).

Preset `book` has the networks of listings 12.24 and 12.26 and the loss of listing 12.27. They are written for
any size that their strides divide; on 28x28x1 with 2 latents they are the book's to the parameter. The other
presets are ours.
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

    from latentfaces.components.train import convolution, optimizer

if TYPE_CHECKING:
    from latentfaces.components.train.noise import GlobalBatchNoise

ImageShape = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class VAEConfig(TrainConfig):
    """What is trained, for a VAE.

    Attributes:
        likelihood_std: standard deviation of the Gaussian likelihood of the pixels around a reconstruction,
            with the KL term summed over the latents as in the formula (Kingma & Welling 2014, appendix B); 0
            for the loss of the book's listing 12.27, cross-entropy with the KL term averaged over latents.
    """

    likelihood_std: float = 0.0


def cross_entropy(images: tf.Tensor, reconstructions: tf.Tensor) -> tf.Tensor:
    """The book's reconstruction loss: cross-entropy in nats, summed over pixels, averaged over channels.

    Args:
        images: floats in [0, 1], [N, H, W, C].
        reconstructions: floats in [0, 1], [N, H, W, C].

    Returns:
        A loss for each image, [N].
    """
    return tf.reduce_sum(keras.losses.binary_crossentropy(images, reconstructions), axis=(1, 2))


def gaussian_loss(images: tf.Tensor, reconstructions: tf.Tensor, std: float) -> tf.Tensor:
    """Negative log-likelihood in nats, up to a constant, of images around their reconstructions, [N].

    Args:
        images: floats in [0, 1], [N, H, W, C].
        reconstructions: floats in [0, 1], [N, H, W, C].
        std: standard deviation of each value; the smaller, the sharper the pictures have to be.
    """
    return tf.reduce_sum(tf.square(images - reconstructions), axis=(1, 2, 3)) / (2 * std**2)


def kl_loss(z_mean: tf.Tensor, z_log_var: tf.Tensor) -> tf.Tensor:
    """KL divergence in nats of N(z_mean, exp(z_log_var)) from N(0, 1), for each latent, [N, latent_dim]."""
    return -0.5 * (1.0 + z_log_var - tf.square(z_mean) - tf.exp(z_log_var))


class VAE(Model):
    """The networks of a VAE, their optimizer and what one step does; made under `strategy.scope()`.

    Args:
        config: of the run.
    """

    title = "VAE"
    Config = VAEConfig
    default_preset = "faces"
    presets = {
        "book": Preset(
            4,
            {"batch_size": 128, "epochs": 30, "latent_dim": 2, "learning_rate": 1e-3},
            cpu="2",
            memory="4Gi",
        ),
        "small": Preset(
            8,
            {
                "batch_size": 32,
                "epochs": 30,
                "latent_dim": 64,
                "learning_rate": 2e-3,
                "learning_rate_decay": True,
                "likelihood_std": 0.1,
            },
            cpu="1",
            memory="2Gi",
        ),
        "faces": Preset(
            16,
            {
                "batch_size": 64,
                "epochs": 30,
                "latent_dim": 128,
                "learning_rate": 1e-3,
                "learning_rate_decay": True,
                "likelihood_std": 0.1,
            },
        ),
    }
    loss_names = ("loss", "reconstruction_loss", "kl_loss")
    network_names = ("encoder", "decoder")
    encoder, generator = network_names

    def __init__(self, config: VAEConfig) -> None:
        self._config = config
        self.networks = build(config.preset, config.image_shape, config.latent_dim)
        self._encoder, self._decoder = self.networks.values()
        self._weights = self._encoder.trainable_variables + self._decoder.trainable_variables
        self.optimizer = optimizer.adam(config)
        self.optimizer.build(self._weights)
        self.state = {**self.networks, "optimizer": self.optimizer}

    def step(self, images: tf.Tensor, noise: GlobalBatchNoise) -> dict[str, tf.Tensor]:
        """Trains on one replica's share of a global batch: `Model.step`."""
        config = self._config

        def compute_gradients() -> tuple[list[tf.Tensor], list[tf.Tensor]]:
            with tf.GradientTape() as tape:
                z_mean, z_log_var = self._encoder(images, training=True)
                # The sampler, listing 12.25
                z = z_mean + tf.exp(0.5 * z_log_var) * noise.normal(config.latent_dim)
                outputs = self._decoder(z, training=True)
                if config.likelihood_std:
                    pixels = gaussian_loss(images, outputs, config.likelihood_std)
                    kl = kl_loss(z_mean, z_log_var)
                else:
                    pixels = cross_entropy(images, outputs)
                    kl = kl_loss(z_mean, z_log_var) / config.latent_dim
                reconstruction = tf.reduce_sum(pixels) / config.batch_size
                kl = tf.reduce_sum(kl) / config.batch_size
                total = reconstruction + kl
                scaled = self.optimizer.scale_loss(total)
            return tape.gradient(scaled, self._weights), [total, reconstruction, kl]

        gradients, losses = optimizer.compute(compute_gradients, config)
        self.optimizer.apply(gradients, self._weights)
        return dict(zip(self.loss_names, losses, strict=True))


def build(preset: str, image_shape: ImageShape, latent_dim: int) -> dict[str, keras.Model]:
    """Builds the networks of a preset.

    Args:
        preset: a name in `VAE.presets`.
        image_shape: (height, width, channels).
        latent_dim: dimensions of the latent space.

    Returns:
        "encoder", images to [z_mean, z_log_var], each [N, latent_dim], and "decoder", latents to images.
    """
    if preset == "book":
        return {
            "encoder": book_encoder(image_shape, latent_dim),
            "decoder": book_decoder(image_shape, latent_dim),
        }
    filters = {"small": (32, 64, 128), "faces": (64, 128, 256, 256)}[preset]
    return {
        "encoder": strided_encoder(image_shape, latent_dim, filters),
        "decoder": strided_decoder(image_shape, latent_dim, filters[::-1]),
    }


def book_encoder(image_shape: ImageShape, latent_dim: int) -> keras.Model:
    """The book's VAE encoder, listing 12.24: images to (z_mean, z_log_var), each [N, latent_dim]."""
    images = keras.Input(image_shape)
    x = layers.Conv2D(32, 3, strides=2, padding="same", activation="relu")(images)
    x = layers.Conv2D(64, 3, strides=2, padding="same", activation="relu")(x)
    x = layers.Flatten()(x)
    x = layers.Dense(16, activation="relu")(x)
    return keras.Model(images, _posterior(x, latent_dim), name="encoder")


def book_decoder(image_shape: ImageShape, latent_dim: int) -> keras.Model:
    """The book's VAE decoder, listing 12.26: latents [N, latent_dim] to images."""
    height, width, channels = image_shape
    latents = keras.Input((latent_dim,))
    x = layers.Dense(height // 4 * (width // 4) * 64, activation="relu")(latents)
    x = layers.Reshape((height // 4, width // 4, 64))(x)
    x = layers.Conv2DTranspose(64, 3, strides=2, padding="same", activation="relu")(x)
    x = layers.Conv2DTranspose(32, 3, strides=2, padding="same", activation="relu")(x)
    return keras.Model(latents, convolution.to_pixels(x, channels, 3), name="decoder")


def strided_encoder(image_shape: ImageShape, latent_dim: int, filters: tuple[int, ...]) -> keras.Model:
    """Convolutions with stride 2, each image normalized by itself, so that replicas may share a batch.

    RMS normalization (Zhang & Sennrich 2019) is over the features of each pixel.
    """
    images = keras.Input(image_shape)
    x = images
    for count in filters:
        x = layers.Conv2D(count, 4, strides=2, padding="same")(x)
        x = layers.RMSNormalization()(x)
        x = layers.LeakyReLU(negative_slope=0.2)(x)
    return keras.Model(images, _posterior(layers.Flatten()(x), latent_dim), name="encoder")


def strided_decoder(image_shape: ImageShape, latent_dim: int, filters: tuple[int, ...]) -> keras.Model:
    """The mirror image of `strided_encoder`."""
    height, width, channels = image_shape
    scale = 2 ** len(filters)
    latents = keras.Input((latent_dim,))
    x = layers.Dense(height // scale * (width // scale) * filters[0])(latents)
    x = layers.Reshape((height // scale, width // scale, filters[0]))(x)
    for count in filters:
        x = layers.Conv2DTranspose(count, 4, strides=2, padding="same")(x)
        x = layers.RMSNormalization()(x)
        x = layers.LeakyReLU(negative_slope=0.2)(x)
    return keras.Model(latents, convolution.to_pixels(x, channels, 3), name="decoder")


def _posterior(x: keras.KerasTensor, latent_dim: int) -> list[keras.KerasTensor]:
    # float32 whatever the precision: the KL term takes the exponential of z_log_var
    return [
        layers.Dense(latent_dim, name=name, dtype=keras.config.floatx())(x)
        for name in ("z_mean", "z_log_var")
    ]
