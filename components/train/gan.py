"""The DCGAN's training step (Radford et al. 2016; Chollet, 2nd ed., listing 12.35)."""

from __future__ import annotations

import logging

import keras
import numpy as np
import tensorflow as tf

from components.train.config import TrainConfig
from components.train.networks import DROPOUT, build
from components.train.noise import GlobalBatchNoise
from components.train.optimizer import adam, compute

logger = logging.getLogger("latentfaces")

# A variable that every replica sets to the same value
_SAME = tf.VariableAggregation.ONLY_FIRST_REPLICA


def is_overpowered(losses: dict[str, float]) -> bool:
    """Whether the discriminator knows nearly all fakes: its loss goes to 0, the generator's soars.

    With the book's noisy labels a discriminator that is always right has a loss of about 0.1 or less; a
    generator's loss of 4 says that a fake passes for real with a probability of about 2 %.
    """
    return losses["discriminator_loss"] < 0.1 and losses["generator_loss"] > 4


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
        self._generator_optimizer = adam(config, average=config.generator_average)
        self._discriminator_optimizer = adam(config)
        self._generator_optimizer.build(self._generator.trainable_variables)
        self._discriminator_optimizer.build(self._discriminator.trainable_variables)
        self.state = {
            **self.networks,
            "generator_optimizer": self._generator_optimizer,
            "discriminator_optimizer": self._discriminator_optimizer,
        }
        self._is_overpowered = False
        if config.rebalance:
            self._dropout_rate = tf.Variable(
                DROPOUT, trainable=False, dtype=keras.config.floatx(), aggregation=_SAME
            )
            self.state["dropout_rate"] = self._dropout_rate

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
        if self._config.rebalance:
            noise.dropout_rate = tf.convert_to_tensor(self._dropout_rate)
        ones = tf.ones((images.shape[0], 1), images.dtype)
        weights = self._discriminator.trainable_variables

        def discriminator_gradients() -> tuple[tf.Tensor, list[tf.Tensor]]:
            generated = self._generator(noise.normal(latent_dim), training=True)
            both = tf.concat([generated, images], axis=0)
            labels = tf.concat([ones, tf.zeros_like(ones)], axis=0) + 0.05 * noise.uniform(1, copies=2)
            with tf.GradientTape() as tape, noise:
                loss = self._loss(labels, self._discriminator(both, training=True), 2 * count)
                scaled = self._discriminator_optimizer.scale_loss(loss)
            return loss, tape.gradient(scaled, weights)

        discriminator_loss, gradients = compute(discriminator_gradients, self._config)
        self._discriminator_optimizer.apply(gradients, weights)
        weights = self._generator.trainable_variables

        def generator_gradients() -> tuple[tf.Tensor, list[tf.Tensor]]:
            latents = noise.normal(latent_dim)
            with tf.GradientTape() as tape, noise:
                predictions = self._discriminator(self._generator(latents, training=True), training=True)
                loss = self._loss(tf.zeros_like(ones), predictions, count)
                scaled = self._generator_optimizer.scale_loss(loss)
            return loss, tape.gradient(scaled, weights)

        generator_loss, gradients = compute(generator_gradients, self._config)
        self._generator_optimizer.apply(gradients, weights)
        return {"discriminator_loss": discriminator_loss, "generator_loss": generator_loss}

    def watch(self, losses: dict[str, float]) -> dict[str, float]:
        """Warns when the discriminator overpowers the generator, and with `rebalance` weakens it.

        The book (12.5.2) describes the state and the remedy: a lower learning rate of the discriminator and
        more dropout in it. Each call in that state halves the one, down to 1/16 of the start, and raises the
        other by 0.1, up to 0.5.

        Args:
            losses: the means of some steps, the same on every worker.

        Returns:
            What is recorded beside the losses: with `rebalance` both settings.
        """
        was, self._is_overpowered = self._is_overpowered, is_overpowered(losses)
        if self._is_overpowered and not was:
            logger.warning(
                "The discriminator overpowers the generator (its loss is %.3f, the generator's %.1f), which "
                "then learns nothing: %s.",
                *losses.values(),
                "its learning rate is lowered and its dropout raised"
                if self._config.rebalance
                else "lower the discriminator's learning rate and raise its dropout, as --rebalance does",
            )
        if not self._config.rebalance:
            return {}
        rate, dropout = (
            float(tf.convert_to_tensor(value))
            for value in (self._discriminator_optimizer.learning_rate, self._dropout_rate)
        )
        if self._is_overpowered:
            rate = max(rate / 2, self._config.learning_rate / 16)
            dropout = min(dropout + 0.1, 0.5)
            self._discriminator_optimizer.learning_rate = rate
            self._dropout_rate.assign(dropout)
        return {"discriminator_learning_rate": rate, "discriminator_dropout": dropout}

    def finish(self) -> None:
        """Puts the averaged weights, if any, into the generator: the last thing before it is saved."""
        self._generator_optimizer.finalize_variable_values(self._generator.trainable_variables)

    def sample(self, latents: np.ndarray) -> tf.Tensor:
        """Returns the images, floats in [0, 1], that the generator makes of latents [N, latent_dim]."""
        return self._generator(latents, training=False)
