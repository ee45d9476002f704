"""The variational autoencoder's training step (Kingma & Welling 2014; Chollet, 2nd ed., listing 12.26)."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from components.train.config import TrainConfig
from components.train.networks import build
from components.train.noise import GlobalBatchNoise
from components.train.optimizer import adam, compute


def cross_entropy(images: tf.Tensor, reconstructions: tf.Tensor) -> tf.Tensor:
    """The book's reconstruction loss: cross-entropy in nats, summed over pixels, averaged over channels.

    Args:
        images: floats in [0, 1], [N, H, W, C].
        reconstructions: floats in [0, 1], [N, H, W, C].

    Returns:
        A loss for each image, [N].
    """
    return tf.reduce_sum(keras.losses.binary_crossentropy(images, reconstructions), axis=(1, 2))


def gaussian_loss(images: tf.Tensor, reconstructions: tf.Tensor, deviation: float) -> tf.Tensor:
    """Negative log-likelihood in nats, up to a constant, of images around their reconstructions, [N].

    Args:
        images: floats in [0, 1], [N, H, W, C].
        reconstructions: floats in [0, 1], [N, H, W, C].
        deviation: standard deviation of each value; the smaller, the sharper the pictures have to be.
    """
    return tf.reduce_sum(tf.square(images - reconstructions), axis=(1, 2, 3)) / (2 * deviation**2)


def kl_loss(z_mean: tf.Tensor, z_log_var: tf.Tensor) -> tf.Tensor:
    """KL divergence in nats of N(z_mean, exp(z_log_var)) from N(0, 1), for each latent, [N, latent_dim]."""
    return -0.5 * (1.0 + z_log_var - tf.square(z_mean) - tf.exp(z_log_var))


class VAE:
    """The networks of a VAE, their optimizer and what one step does; made under `strategy.scope()`.

    Args:
        config: of the run.
    """

    def __init__(self, config: TrainConfig) -> None:
        self._config = config
        self.networks = build("vae", config.preset, config.image_shape, config.latent_dim)
        self._encoder, self._decoder = self.networks["encoder"], self.networks["decoder"]
        self._optimizer = adam(config)
        self._optimizer.build(self._variables)
        self.state = {**self.networks, "optimizer": self._optimizer}

    @property
    def _variables(self) -> list[keras.Variable]:
        return self._encoder.trainable_variables + self._decoder.trainable_variables

    def step(self, images: tf.Tensor, noise: GlobalBatchNoise) -> dict[str, tf.Tensor]:
        """Trains on one replica's share of a global batch.

        Args:
            images: floats in [0, 1], [local batch size, H, W, C].
            noise: of this replica and step.

        Returns:
            The losses, each this replica's sum over its images divided by the global batch size, so that
            the sum over the replicas is the mean over the global batch.
        """
        count = self._config.batch_size
        deviation = self._config.pixel_deviation

        def gradients() -> tuple[list[tf.Tensor], ...]:
            with tf.GradientTape() as tape:
                z_mean, z_log_var = self._encoder(images, training=True)
                z = z_mean + tf.exp(0.5 * z_log_var) * noise.normal(self._config.latent_dim)
                outputs = self._decoder(z, training=True)
                if deviation:
                    pixels, kl = gaussian_loss(images, outputs, deviation), kl_loss(z_mean, z_log_var)
                else:
                    pixels = cross_entropy(images, outputs)
                    kl = kl_loss(z_mean, z_log_var) / self._config.latent_dim
                reconstruction = tf.reduce_sum(pixels) / count
                kl = tf.reduce_sum(kl) / count
                total = reconstruction + kl
                scaled = self._optimizer.scale_loss(total)
            return tape.gradient(scaled, self._variables), [total, reconstruction, kl]

        slopes, losses = compute(gradients, self._config)
        self._optimizer.apply(slopes, self._variables)
        return dict(zip(("loss", "reconstruction_loss", "kl_loss"), losses, strict=True))

    def watch(self, losses: dict[str, float]) -> dict[str, float]:
        """Does nothing: no state of a VAE calls for a change of its settings."""
        return {}

    def finish(self) -> None:
        """Does nothing: the networks are saved as they were trained."""

    def sample(self, latents: np.ndarray) -> tf.Tensor:
        """Returns the images, floats in [0, 1], that the decoder makes of latents [N, latent_dim]."""
        return self._decoder(latents, training=False)
