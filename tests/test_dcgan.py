import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import assert_shares_add_up, noise_of
from keras import layers

from latentfaces.components.train.models.dcgan import DCGAN, DCGANConfig

SHAPE = (16, 16, 3)
LATENTS = 8

pytestmark = pytest.mark.usefixtures("float64")


def config_of(preset, batch, **changes):
    values = DCGAN.presets[preset].settings | {"batch_size": batch, "latent_dim": LATENTS}
    return DCGANConfig(**values | changes, model="gan", preset=preset, image_shape=SHAPE, steps=10)


def pictures(batch):
    return tf.constant(np.random.default_rng(batch).random((batch, *SHAPE)))


def books_discriminator():
    """Listing 12.34 with the dropout's mask as a second input."""
    inputs, mask = keras.Input(SHAPE), keras.Input((2 * 2 * 128,))
    x = layers.Conv2D(64, kernel_size=4, strides=2, padding="same")(inputs)
    x = layers.LeakyReLU(negative_slope=0.2)(x)
    x = layers.Conv2D(128, kernel_size=4, strides=2, padding="same")(x)
    x = layers.LeakyReLU(negative_slope=0.2)(x)
    x = layers.Conv2D(128, kernel_size=4, strides=2, padding="same")(x)
    x = layers.LeakyReLU(negative_slope=0.2)(x)
    x = layers.Flatten()(x) * mask
    return keras.Model([inputs, mask], layers.Dense(1, activation="sigmoid")(x))


def books_generator():
    """Listing 12.35 for 16x16."""
    inputs = keras.Input((LATENTS,))
    x = layers.Dense(2 * 2 * 128)(inputs)
    x = layers.Reshape((2, 2, 128))(x)
    x = layers.Conv2DTranspose(128, kernel_size=4, strides=2, padding="same")(x)
    x = layers.LeakyReLU(negative_slope=0.2)(x)
    x = layers.Conv2DTranspose(256, kernel_size=4, strides=2, padding="same")(x)
    x = layers.LeakyReLU(negative_slope=0.2)(x)
    x = layers.Conv2DTranspose(512, kernel_size=4, strides=2, padding="same")(x)
    x = layers.LeakyReLU(negative_slope=0.2)(x)
    return keras.Model(inputs, layers.Conv2D(3, kernel_size=5, padding="same", activation="sigmoid")(x))


@pytest.mark.parametrize("batch", [1, 4])
def test_a_step_is_the_books(batch):
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        task = DCGAN(config_of("book", batch))
    generator, discriminator = books_generator(), books_discriminator()
    generator.set_weights(task.networks["generator"].get_weights())
    discriminator.set_weights(task.networks["discriminator"].get_weights())
    d_optimizer = keras.optimizers.Adam(learning_rate=0.0001)
    g_optimizer = keras.optimizers.Adam(learning_rate=0.0001)
    loss_fn = keras.losses.BinaryCrossentropy()
    real_images = pictures(batch)
    for step in range(3):

        @tf.function
        def ours(step=step):
            return strategy.run(task.step, args=(real_images, noise_of(step, batch)))

        losses = ours()
        assert list(losses) == ["discriminator_loss", "generator_loss"]

        noise = noise_of(step, batch)
        random_latent_vectors = noise.normal(LATENTS)
        label_noise = noise.uniform(1, copies=2)
        first_mask = tf.cast(noise.uniform(512, copies=2) >= 0.2, "float64") / 0.8
        more_latent_vectors = noise.normal(LATENTS)
        second_mask = tf.cast(noise.uniform(512) >= 0.2, "float64") / 0.8

        # listing 12.36
        generated_images = generator(random_latent_vectors)
        combined_images = tf.concat([generated_images, real_images], axis=0)
        labels = tf.concat([tf.ones((batch, 1), "float64"), tf.zeros((batch, 1), "float64")], axis=0)
        labels += 0.05 * label_noise
        with tf.GradientTape() as tape:
            predictions = discriminator([combined_images, first_mask])
            d_loss = loss_fn(labels, predictions)
        grads = tape.gradient(d_loss, discriminator.trainable_weights)
        d_optimizer.apply_gradients(zip(grads, discriminator.trainable_weights, strict=True))
        misleading_labels = tf.zeros((batch, 1))
        with tf.GradientTape() as tape:
            predictions = discriminator([generator(more_latent_vectors), second_mask])
            g_loss = loss_fn(misleading_labels, predictions)
        grads = tape.gradient(g_loss, generator.trainable_weights)
        g_optimizer.apply_gradients(zip(grads, generator.trainable_weights, strict=True))

        np.testing.assert_allclose(list(losses.values()), [d_loss, g_loss], rtol=1e-10)
    for ours, books in (
        (task.networks["generator"], generator),
        (task.networks["discriminator"], discriminator),
    ):
        for one, other in zip(ours.get_weights(), books.get_weights(), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-10)


def test_shares_add_up_to_the_step_of_the_global_batch():
    assert_shares_add_up(lambda count: DCGAN(config_of("small", count)), pictures(12), atol=1e-12)


def test_the_average_of_a_short_run_is_not_its_beginning():
    for steps, momentum in ((1, 0), (10, 0.6), (4000, 0.999), (100_000, 0.999)):
        config = dataclasses.replace(config_of("small", 4), steps=steps)
        made = DCGAN(config).generator_optimizer
        assert made.use_ema == (momentum > 0) and (
            not momentum or made.ema_momentum == pytest.approx(momentum)
        )


def test_the_saved_generator_is_the_average_and_training_does_not_see_it():
    keras.utils.set_random_seed(0)
    averaged = DCGAN(config_of("small", 4, ema_decay=0.5))
    keras.utils.set_random_seed(0)
    plain = DCGAN(config_of("small", 4, ema_decay=0.0))
    expected = None
    for step in range(4):
        losses = [task.step(pictures(4), noise_of(step, 4)) for task in (averaged, plain)]
        np.testing.assert_array_equal(*(list(each.values()) for each in losses))
        weights = plain.networks["generator"].get_weights()
        # Keras' average begins with the weights of the first step
        expected = (
            [0.5 * old + 0.5 * new for old, new in zip(expected, weights, strict=True)]
            if expected
            else weights
        )
    last = weights
    for task in (averaged, plain):
        task.finish([], lambda: None)
    for one, other in zip(averaged.networks["generator"].get_weights(), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14)
    for one, other in zip(plain.networks["generator"].get_weights(), last, strict=True):
        np.testing.assert_array_equal(one, other)
