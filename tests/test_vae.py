import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import noise_of

from latentfaces.components.train.models.vae import VAE, VAEConfig, cross_entropy, kl_loss

BATCHES, STEPS, SHAPE = (1, 6), 3, (28, 28, 1)


@pytest.mark.parametrize("batch", BATCHES)
def test_a_step_is_the_books(float64, batch):
    values = VAE.presets["book"].settings | {"batch_size": batch, "steps": 10}
    config = VAEConfig(**values, model="vae", preset="book", image_shape=SHAPE)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        task = VAE(config)
    encoder, decoder = map(keras.models.clone_model, task.networks.values())
    for copy, original in zip((encoder, decoder), task.networks.values(), strict=True):
        copy.set_weights(original.get_weights())
    optimizer = keras.optimizers.Adam()
    for step in range(STEPS):
        data = tf.constant(np.random.default_rng(batch).random((batch, *SHAPE)))
        losses = tf.function(lambda x, y=step: strategy.run(task.step, args=(x, noise_of(y, batch))))(data)

        epsilon = noise_of(step, batch).normal(2)
        with tf.GradientTape() as tape:  # listings 12.25 and 12.27
            z_mean, z_log_var = encoder(data)
            z = z_mean + tf.exp(0.5 * z_log_var) * epsilon
            reconstruction = decoder(z)
            reconstruction_loss = tf.reduce_mean(
                tf.reduce_sum(keras.losses.binary_crossentropy(data, reconstruction), axis=(1, 2))
            )
            kl = -0.5 * (1 + z_log_var - tf.square(z_mean) - tf.exp(z_log_var))
            total_loss = reconstruction_loss + tf.reduce_mean(kl)
        trainable = encoder.trainable_weights + decoder.trainable_weights
        optimizer.apply_gradients(zip(tape.gradient(total_loss, trainable), trainable, strict=True))

        expected = [total_loss, reconstruction_loss, tf.reduce_mean(kl)]
        assert list(losses) == ["loss", "reconstruction_loss", "kl_loss"]
        np.testing.assert_allclose([float(loss) for loss in losses.values()], expected, rtol=1e-10)
    ours = [array for network in task.networks.values() for array in network.get_weights()]
    for our, books in zip(ours, encoder.get_weights() + decoder.get_weights(), strict=True):
        np.testing.assert_allclose(our, books, rtol=1e-8, atol=1e-10)


def test_losses_of_one_image_are_known_numbers():
    images, outputs = tf.constant([[[[0.0, 1.0]]]]), tf.constant([[[[0.5, 0.5]]]])
    np.testing.assert_allclose(cross_entropy(images, outputs), [np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(kl_loss(tf.constant([[0.0, 2.0]]), tf.constant([[0.0, 0.0]])), [[0.0, 2.0]])
