"""What a VAE samples from: a network, learned last, that makes latents such as images have.

The latents of all images together have the moments of the normal distribution, but leave much of it empty:
between those of faces with a hat and without lie ghosts of hats. A small generator, whose input is normally
distributed, learns to keep out of there from a discriminator that also sees latents of train images: a GAN in
latent space (Engel et al. 2018, Latent Constraints, arXiv:1711.05772), which needs far fewer seconds than one
that draws images. Loss and penalties are R3GAN's (Huang et al. 2024, arXiv:2501.05441).
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from latentfaces.common.config import TrainConfig
from latentfaces.common.progress import Progress
from latentfaces.components.train import blocks

_STEPS, _PER_STEP = 8000, 3  # at most, and for each step of the training before
_ROUND = 100  # steps between two calls of `on_progress`
_BATCH = 128
_WIDTH, _DEPTH = 256, 3
_LEARNING_RATE, _LAST = 2e-3, 0.1  # and the part of it that is left at the end
_PENALTY = 0.3  # gamma of R1 and R2
_LAZY = 4  # steps from one gradient penalty to the next, where it counts so many times as much
_HALF_LIFE = 350  # steps, of the generator's average; in a short run an eighth of it


def learn(
    means: np.ndarray,
    log_variances: np.ndarray,
    visible: np.ndarray,
    config: TrainConfig,
    on_progress: Callable[[], object],
) -> keras.Model:
    """Learns the prior of a VAE that is trained.

    On a CPU the same arguments give the same network.

    Args:
        means: of the posteriors of train images, [N, latent_dim].
        log_variances: theirs, [N, latent_dim].
        visible: how much each latent changes an image, [latent_dim], in any unit: the discriminator sees
            latents in this proportion, so that none counts that can't be seen.
        config: of the run.
        on_progress: called after some steps, again and again.

    Returns:
        Normally distributed noise [N, latent_dim] to latents [N, latent_dim].
    """
    keras.utils.set_random_seed(config.short_seed)
    floatx, steps = keras.config.floatx(), min(_STEPS, _PER_STEP * config.steps)
    largest = visible.max()
    scale = tf.constant(visible / largest if largest > 0 else np.ones_like(visible), floatx)
    centres, stddevs = tf.constant(means, floatx), tf.exp(tf.constant(log_variances, floatx) / 2)
    generator, discriminator = build(config.latent_dim), _discriminator(config.latent_dim)
    rate = keras.optimizers.schedules.CosineDecay(_LEARNING_RATE, steps, alpha=_LAST)
    ema_decay = 0.5 ** (1 / min(_HALF_LIFE, steps / 8))
    generator_optimizer = keras.optimizers.Adam(
        rate, beta_1=0.0, beta_2=0.99, use_ema=True, ema_momentum=ema_decay
    )
    discriminator_optimizer = keras.optimizers.Adam(rate, beta_1=0.0, beta_2=0.99)
    generator_optimizer.build(generator.trainable_variables)
    discriminator_optimizer.build(discriminator.trainable_variables)

    def seed(step: tf.Tensor, stream: int) -> tf.Tensor:
        return tf.stack([tf.constant(config.short_seed, tf.int64), 4 * step + stream])

    def normal(step: tf.Tensor, stream: int) -> tf.Tensor:
        return tf.random.stateless_normal([_BATCH, config.latent_dim], seed(step, stream), dtype=floatx)

    def train_step(step: tf.Tensor) -> None:
        rows = tf.random.stateless_uniform([_BATCH], seed(step, 0), maxval=len(means), dtype=tf.int32)
        real = scale * (tf.gather(centres, rows) + tf.gather(stddevs, rows) * normal(step, 1))
        made = scale * generator(normal(step, 2))
        both = tf.concat([made, real], axis=0)
        weights = discriminator.trainable_variables

        def gradients(penalized: bool) -> list[tf.Tensor]:
            with tf.GradientTape() as tape:
                with tf.GradientTape() as inner:
                    inner.watch(both)
                    logits = discriminator(both)
                loss = tf.reduce_mean(tf.nn.softplus(logits[:_BATCH] - logits[_BATCH:]))
                if penalized:
                    penalty = tf.reduce_sum(tf.square(inner.gradient(logits, both))) / _BATCH
                    loss += _LAZY * _PENALTY / 2 * penalty
            return tape.gradient(loss, weights)

        found = tf.cond(step % _LAZY == 0, lambda: gradients(True), lambda: gradients(False))
        discriminator_optimizer.apply(found, weights)
        judged = discriminator(real)
        with tf.GradientTape() as tape:
            logits = discriminator(scale * generator(normal(step, 3)))
            loss = tf.reduce_mean(tf.nn.softplus(judged - logits))
        weights = generator.trainable_variables
        generator_optimizer.apply(tape.gradient(loss, weights), weights)

    @tf.function
    def train_steps(first: tf.Tensor, after: tf.Tensor) -> None:
        for step in tf.range(first, after):
            train_step(step)

    with Progress("VAE's prior", steps, "steps") as progress:
        for first in range(0, steps, _ROUND):
            after = min(first + _ROUND, steps)
            train_steps(tf.constant(first, tf.int64), tf.constant(after, tf.int64))
            progress.show(after)
            on_progress()
    generator_optimizer.finalize_variable_values(generator.trainable_variables)
    return generator


def build(latent_dim: int) -> keras.Model:
    """Builds a prior that has learned nothing yet, and gives the noise that it takes.

    Args:
        latent_dim: dimensions of the latent space.
    """
    noise = keras.Input((latent_dim,), name="noise")  # or it is counted, and other bytes are saved
    change = _dense(latent_dim, "zeros")(_hidden(noise))
    latents = layers.Add(dtype=keras.config.floatx())([noise, change])
    return keras.Model(noise, latents, name="prior")


def _discriminator(latent_dim: int) -> keras.Model:
    """Latents [N, latent_dim] to logits [N, 1], of which only differences mean something."""
    latents = keras.Input((latent_dim,))
    return keras.Model(latents, _dense(1, blocks.he(0.7))(_hidden(latents)))


def _hidden(x: keras.KerasTensor) -> keras.KerasTensor:
    for _ in range(_DEPTH):
        x = layers.LeakyReLU(negative_slope=0.2, dtype=keras.config.floatx())(_dense(_WIDTH, blocks.he())(x))
    return x


def _dense(units: int, start: keras.initializers.Initializer | str) -> keras.layers.Layer:
    return layers.Dense(units, kernel_initializer=start, dtype=keras.config.floatx())
