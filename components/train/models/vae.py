"""The variational autoencoder (Kingma & Welling 2014), as Chollet, 2nd ed., 12.4, has it.

Preset `book` has the networks of listings 12.24 and 12.26 and the loss of listing 12.27. They are written for
any size that their strides divide; on 28x28x1 with 2 latents they are the book's to the parameter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

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
        calibrated: whether the pixels' likelihood is a Gaussian around the reconstruction, whose variance is
            the mean squared error (Rybkin et al. 2021, arXiv:2006.13202), and the KL term is summed over the
            latents as in the formula; if not, the loss is that of the book's listing 12.27, cross-entropy
            with the KL term averaged over latents.
        mirrored: whether half of the images are mirrored.
        learned_prior: whether samples are of the network `prior`, or, as of earlier versions, of N(0, I).
    """

    calibrated: bool = False
    mirrored: bool = False
    learned_prior: bool = False


def cross_entropy(images: tf.Tensor, reconstructions: tf.Tensor) -> tf.Tensor:
    """The book's reconstruction loss: cross-entropy in nats, summed over pixels, averaged over channels.

    Args:
        images: floats in [0, 1], [N, H, W, C].
        reconstructions: floats in [0, 1], [N, H, W, C].

    Returns:
        A loss for each image, [N].
    """
    return tf.reduce_sum(keras.losses.binary_crossentropy(images, reconstructions), axis=(1, 2))


def kl_loss(z_mean: tf.Tensor, z_log_var: tf.Tensor) -> tf.Tensor:
    """KL divergence in nats of N(z_mean, exp(z_log_var)) from N(0, 1), for each latent, [N, latent_dim]."""
    return -0.5 * (1.0 + z_log_var - tf.square(z_mean) - tf.exp(z_log_var))


class VAE(Model):
    """The book's networks, their optimizer and what one step does; made under `strategy.scope()`.

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
    }
    loss_names = ("loss", "reconstruction_loss", "kl_loss")
    encoder, generator, prior = "encoder", "decoder", "prior"
    network_names: ClassVar[tuple[str, ...]] = (encoder, generator)

    def __init__(self, config: VAEConfig) -> None:
        self._config = config
        self._encoder, self._decoder = self._build()
        self.networks = {"encoder": self._encoder, "decoder": self._decoder}
        self._weights = self._encoder.trainable_variables + self._decoder.trainable_variables
        self.optimizer = optimizer.adam(config)
        self.optimizer.build(self._weights)
        self.state = {**self.networks, "optimizer": self.optimizer}

    def _build(self) -> tuple[keras.Model, keras.Model]:
        shape, latent_dim = self._config.image_shape, self._config.latent_dim
        return encoder(shape, latent_dim), decoder(shape, latent_dim)

    def step(self, images: tf.Tensor, noise: GlobalBatchNoise) -> dict[str, tf.Tensor]:
        """Trains on one replica's share of a global batch: `Model.step`."""
        config = self._config

        def compute_gradients() -> tuple[list[tf.Tensor], list[tf.Tensor]]:
            with tf.GradientTape() as tape:
                z_mean, z_log_var = self._encoder(images, training=True)
                # The sampler, listing 12.25
                z = z_mean + tf.exp(0.5 * z_log_var) * noise.normal(config.latent_dim)
                reconstruction = cross_entropy(images, self._decoder(z, training=True))
                reconstruction = tf.reduce_sum(reconstruction) / config.batch_size
                kl = kl_loss(z_mean, z_log_var) / config.latent_dim
                kl = tf.reduce_sum(kl) / config.batch_size
                total = reconstruction + kl
                scaled = self.optimizer.scale_loss(total)
            return tape.gradient(scaled, self._weights), [total, reconstruction, kl]

        gradients, losses = optimizer.compute(compute_gradients, config)
        self.optimizer.apply(gradients, self._weights)
        return dict(zip(self.loss_names, losses, strict=True))


def encoder(image_shape: ImageShape, latent_dim: int) -> keras.Model:
    """The book's VAE encoder, listing 12.24: images to (z_mean, z_log_var), each [N, latent_dim]."""
    images = keras.Input(image_shape)
    x = layers.Conv2D(32, 3, strides=2, padding="same", activation="relu")(images)
    x = layers.Conv2D(64, 3, strides=2, padding="same", activation="relu")(x)
    x = layers.Flatten()(x)
    x = layers.Dense(16, activation="relu")(x)
    return keras.Model(images, posterior(x, latent_dim), name="encoder")


def decoder(image_shape: ImageShape, latent_dim: int) -> keras.Model:
    """The book's VAE decoder, listing 12.26: latents [N, latent_dim] to images."""
    height, width, channels = image_shape
    latents = keras.Input((latent_dim,))
    x = layers.Dense(height // 4 * (width // 4) * 64, activation="relu")(latents)
    x = layers.Reshape((height // 4, width // 4, 64))(x)
    x = layers.Conv2DTranspose(64, 3, strides=2, padding="same", activation="relu")(x)
    x = layers.Conv2DTranspose(32, 3, strides=2, padding="same", activation="relu")(x)
    return keras.Model(latents, convolution.to_pixels(x, channels, 3), name="decoder")


def posterior(
    x: keras.KerasTensor, latent_dim: int, start: keras.initializers.Initializer | str = "glorot_uniform"
) -> list[keras.KerasTensor]:
    """Ends an encoder: features [N, F] to (z_mean, z_log_var), each [N, latent_dim].

    In float32 whatever the precision: the KL term takes the exponential of z_log_var.
    """
    return [
        layers.Dense(latent_dim, name=name, kernel_initializer=start, dtype=keras.config.floatx())(x)
        for name in ("z_mean", "z_log_var")
    ]
