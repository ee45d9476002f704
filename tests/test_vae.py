import keras
import numpy as np
import pytest
import tensorflow as tf

from latentfaces.components.train.models.vae import VAE, VAEConfig, cross_entropy, gaussian_loss, kl_loss
from latentfaces.components.train.noise import GlobalBatchNoise

STEPS = 3


def config_of(preset, batch, shape, **changes):
    values = VAE.presets[preset].settings | {"batch_size": batch, "steps": 10} | changes
    return VAEConfig(**values, model="vae", preset=preset, image_shape=shape)


def noise_of(step, batch, start=0, size=None):
    return GlobalBatchNoise(
        7, tf.constant(step, tf.int64), tf.constant(start, tf.int64), size or batch, batch
    )


def pictures(batch, shape):
    return tf.constant(np.random.default_rng(batch).random((batch, *shape)))


def run(task, strategy, images, step):
    losses = tf.function(lambda x: strategy.run(task.step, args=(x, noise_of(step, len(images)))))(images)
    return {name: float(loss) for name, loss in losses.items()}


def weights(task):
    return [array for network in task.networks.values() for array in network.get_weights()]


@pytest.mark.parametrize("batch", [1, 6])
def test_a_step_is_the_books(float64, batch):
    shape = (28, 28, 1)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        task = VAE(config_of("book", batch, shape))
    encoder, decoder = map(keras.models.clone_model, task.networks.values())
    for copy, original in zip((encoder, decoder), task.networks.values(), strict=True):
        copy.set_weights(original.get_weights())
    optimizer = keras.optimizers.Adam()
    for step in range(STEPS):
        data = pictures(batch, shape)
        losses = run(task, strategy, data, step)

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
        np.testing.assert_allclose(list(losses.values()), expected, rtol=1e-10)
    for ours, books in zip(weights(task), encoder.get_weights() + decoder.get_weights(), strict=True):
        np.testing.assert_allclose(ours, books, rtol=1e-8, atol=1e-10)


def test_a_step_for_faces_sums_the_formula(float64):
    shape = (16, 16, 3)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        task = VAE(config_of("small", 5, shape, latent_dim=4, likelihood_std=0.2))
    data = pictures(5, shape)
    z_mean, z_log_var = (array.numpy() for array in task.networks["encoder"](data))
    z = z_mean + np.exp(z_log_var / 2) * noise_of(0, 5).normal(4).numpy()
    outputs = task.networks["decoder"](z).numpy()
    losses = run(task, strategy, data, 0)
    # -log N(x; outputs, 0.2^2) without its constant, and KL(N(mean, var), N(0, 1)), of Kingma & Welling
    pixels = ((data.numpy() - outputs) ** 2 / (2 * 0.2**2)).sum() / 5
    kl = 0.5 * (z_mean**2 + np.exp(z_log_var) - z_log_var - 1).sum() / 5
    np.testing.assert_allclose(list(losses.values()), [pixels + kl, pixels, kl], rtol=1e-10)


def test_losses_of_one_image_are_known_numbers():
    images, outputs = tf.constant([[[[0.0, 1.0]]]]), tf.constant([[[[0.5, 0.5]]]])
    np.testing.assert_allclose(cross_entropy(images, outputs), [np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(gaussian_loss(images, outputs, 0.5), [1.0], rtol=1e-6)
    np.testing.assert_allclose(kl_loss(tf.constant([[0.0, 2.0]]), tf.constant([[0.0, 0.0]])), [[0.0, 2.0]])


def shares_of_a_step(batch, replicas, count):
    """Losses and gradients that replicas contribute to a global batch, summed as Keras sums them."""
    shape, size = (16, 16, 3), batch // replicas
    images, sums = pictures(batch, shape), []
    for start in range(0, batch, size):
        keras.utils.set_random_seed(0)
        task = VAE(config_of("small", count, shape, latent_dim=4))
        gradients = []
        task.optimizer.apply = lambda values, _: gradients.extend(values)  # noqa: B023 - used at once
        losses = task.step(images[start : start + size], noise_of(0, batch, start, size))
        sums.append([*losses.values(), *gradients])
    return [np.sum(parts, axis=0) for parts in zip(*sums, strict=True)]


def test_shares_add_up_to_the_step_of_the_global_batch(float64):
    whole = shares_of_a_step(12, replicas=1, count=12)
    for replicas in (2, 3):
        for part, all_of_it in zip(shares_of_a_step(12, replicas, count=12), whole, strict=True):
            np.testing.assert_allclose(part, all_of_it, rtol=1e-9, atol=1e-9)
        # divided by the local instead of the global batch size, everything is too large
        for part, all_of_it in zip(shares_of_a_step(12, replicas, 12 // replicas), whole, strict=True):
            np.testing.assert_allclose(part, replicas * all_of_it, rtol=1e-9, atol=1e-9)


def test_the_learning_rate_falls_to_nothing():
    task = VAE(config_of("small", 4, (16, 16, 3), learning_rate=1e-3, learning_rate_decay=True))
    rates = []
    for step in range(11):
        task.optimizer.iterations.assign(step)
        rates.append(float(task.optimizer.learning_rate))
    expected = 0.5e-3 * (1 + np.cos(np.pi * np.arange(11) / 10))
    np.testing.assert_allclose(rates, expected, atol=1e-9)


def test_samples_are_the_decoders(float64):
    task = VAE(config_of("small", 4, (16, 16, 3)))
    latents = np.random.default_rng(0).standard_normal((3, task.networks["decoder"].input_shape[1]))
    np.testing.assert_array_equal(task.sample(latents), task.networks["decoder"](latents))
