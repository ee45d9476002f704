"""The DCGAN's training step (Radford et al. 2016; Chollet, 2nd ed., listing 12.35)."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from components.train.config import TrainConfig
from components.train.networks import build
from components.train.noise import GlobalBatchNoise
from components.train.vae import learning_rate


class GAN:
    """The networks of a GAN, their optimizers and what one step does; made under `strategy.scope()`.

    With `generator_average` the saved generator is the moving average of the trained one's weights
    (Yazıcı et al. 2019), which does not touch the training step.

    Args:
        config: of the run.
    """

    def __init__(self, config: TrainConfig) -> None:
        self._config = config
        self.networks = build("gan", config.preset, config.image_shape, config.latent_dim)
        self._generator, self._discriminator = self.networks["generator"], self.networks["discriminator"]
        average = {"ema_momentum": config.generator_average} if config.generator_average else {}
        self._generator_optimizer = keras.optimizers.Adam(
            learning_rate(config), beta_1=config.beta_1, use_ema=bool(average), **average
        )
        self._discriminator_optimizer = keras.optimizers.Adam(learning_rate(config), beta_1=config.beta_1)
        self._generator_optimizer.build(self._generator.trainable_variables)
        self._discriminator_optimizer.build(self._discriminator.trainable_variables)
        self.state = {
            **self.networks,
            "generator_optimizer": self._generator_optimizer,
            "discriminator_optimizer": self._discriminator_optimizer,
        }

    def _loss(self, labels: tf.Tensor, predictions: tf.Tensor, count: int) -> tf.Tensor:
        return tf.reduce_sum(keras.losses.binary_crossentropy(labels, predictions)) / count

    def step(self, images: tf.Tensor, noise: GlobalBatchNoise) -> dict[str, tf.Tensor]:
        """Trains on one replica's share of a global batch.

        Args:
            images: floats in [0, 1], [local batch size, H, W, C].
            noise: of this replica and step.

        Returns:
            The losses, each this replica's sum divided by the global count, so that the sum over the
            replicas is the mean over the global batch.
        """
        count, latent_dim = self._config.batch_size, self._config.latent_dim
        generated = self._generator(noise.normal(latent_dim), training=True)
        both = tf.concat([generated, images], axis=0)
        ones = tf.ones((images.shape[0], 1), images.dtype)
        labels = tf.concat([ones, tf.zeros_like(ones)], axis=0) + 0.05 * noise.uniform(1, copies=2)
        with tf.GradientTape() as tape, noise:
            discriminator_loss = self._loss(labels, self._discriminator(both, training=True), 2 * count)
        variables = self._discriminator.trainable_variables
        self._discriminator_optimizer.apply(tape.gradient(discriminator_loss, variables), variables)

        latents = noise.normal(latent_dim)
        with tf.GradientTape() as tape, noise:
            predictions = self._discriminator(self._generator(latents, training=True), training=True)
            generator_loss = self._loss(tf.zeros_like(ones), predictions, count)
        variables = self._generator.trainable_variables
        self._generator_optimizer.apply(tape.gradient(generator_loss, variables), variables)
        return {"discriminator_loss": discriminator_loss, "generator_loss": generator_loss}

    def finish(self) -> None:
        """Puts the averaged weights, if any, into the generator: the last thing before it is saved."""
        self._generator_optimizer.finalize_variable_values(self._generator.trainable_variables)

    def sample(self, latents: np.ndarray) -> tf.Tensor:
        """Returns the images, floats in [0, 1], that the generator makes of latents [N, latent_dim]."""
        return self._generator(latents, training=False)
