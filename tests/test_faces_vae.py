import functools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import assert_shares_add_up, noise_of
from PIL import Image
from sklearn.decomposition import PCA

from latentfaces.components.train import prior
from latentfaces.components.train.augment import mirror
from latentfaces.components.train.models.faces_vae import FacesVAE, gaussian_loss
from latentfaces.components.train.models.vae import VAEConfig
from latentfaces.preprocessing.drawn_faces import draw_face

RATE = FacesVAE.presets["small"].settings["learning_rate"]


def config_of(preset, batch, shape, **changes):
    values = FacesVAE.presets[preset].settings | {"batch_size": batch, "steps": 10} | changes
    return VAEConfig(**values, model="vae", preset=preset, image_shape=shape)


def pictures(batch, shape):
    return tf.constant(np.random.default_rng(batch).random((batch, *shape)))


def run(task, strategy, images, step):
    losses = tf.function(lambda x: strategy.run(task.step, args=(x, noise_of(step, len(images)))))(images)
    return {name: float(loss) for name, loss in losses.items()}


def calibrated(batch, shape, latent_dim=4, images=None):
    """A VAE for faces that has begun with images."""
    task = FacesVAE(config_of("small", batch, shape, latent_dim=latent_dim))
    images = images if images is not None else np.rint(255 * pictures(60, shape).numpy()).astype(np.uint8)
    task.begin(np.array_split(images, 2), lambda array: array)
    return task


def test_a_step_for_faces_sums_the_formula(float64):
    shape = (16, 16, 3)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        task = calibrated(5, shape)
    noise = noise_of(0, 5)
    data = mirror(pictures(5, shape), noise)
    variance = task.state["variance"].numpy()
    z_mean, z_log_var = (array.numpy() for array in task.networks["encoder"](data))
    z = z_mean + np.exp(z_log_var / 2) * noise.normal(4).numpy()
    outputs = task.networks["decoder"](z).numpy()
    assert 0 < outputs.min() < outputs.max() < 1  # none is clipped
    losses = run(task, strategy, pictures(5, shape), 0)
    # -log N(255 x; 255 outputs, 255^2 variance), and KL(N(mean, var), N(0, 1)), of Kingma & Welling
    errors = (data.numpy() - outputs) ** 2
    pixels = (0.5 * errors / variance + 0.5 * np.log(2 * np.pi * 255**2 * variance)).sum() / 5
    kl = 0.5 * (z_mean**2 + np.exp(z_log_var) - z_log_var - 1).sum() / 5
    np.testing.assert_allclose(list(losses.values()), [pixels + kl, pixels, kl], rtol=1e-10)
    assert task.state["variance"].numpy() == pytest.approx(0.9 * variance + 0.1 * errors.mean())


def test_a_vae_for_faces_begins_as_the_optimum_of_a_linear_one(float64):
    rng = np.random.default_rng(0)
    rows = 0.5 + 0.04 * rng.standard_normal((200, 6)) @ rng.standard_normal((6, 64))
    rows += 0.02 * rng.standard_normal((200, 64))
    images = np.rint(255 * rows).clip(0, 255).astype(np.uint8).reshape(200, 8, 8, 1)
    task = calibrated(5, (8, 8, 1), 4, images)
    rows, variance = images.reshape(200, -1) / 255, task.state["variance"].numpy()
    mean, log_var = (array.numpy() for array in task.networks["encoder"](images / 255))
    made = task.networks["decoder"](mean).numpy().reshape(200, -1)
    weights = task.networks["decoder"].get_layer("linear").get_weights()[0]
    errors = np.square(rows - made).sum(axis=1)
    errors += np.exp(log_var) @ np.square(weights).sum(axis=1)  # the components are orthogonal
    likelihood = -32 * np.log(2 * np.pi * variance) - errors / (2 * variance)
    kl = 0.5 * (mean**2 + np.exp(log_var) - log_var - 1).sum(axis=1)
    # where the posterior is exact, the bound is the likelihood, here of probabilistic PCA
    expected = PCA(4, svd_solver="full").fit(rows).score_samples(rows)
    np.testing.assert_allclose(likelihood - kl, expected, rtol=1e-5)


def test_more_latents_than_images_have_components_begin_unused(float64):
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 1), np.uint8)
    task = calibrated(5, (16, 16, 1), 8, images)
    mean, log_var = (array.numpy() for array in task.networks["encoder"](images / 255))
    assert (mean[:, 2:] == 0).all() and (log_var[:, 2:] == 0).all() and np.isfinite(log_var).all()
    np.testing.assert_allclose(task.networks["decoder"](mean), images / 255, atol=0.01)


def test_the_likelihood_of_one_image_is_a_known_number():
    images, outputs = tf.constant([[[[0.0, 1.0]]]]), tf.constant([[[[0.5, 0.5]]]])
    expected = [1.0 + np.log(2 * np.pi * (255 * 0.5) ** 2)]  # of two values
    np.testing.assert_allclose(gaussian_loss(images, outputs, 0.25), expected, rtol=1e-6)


def test_shares_add_up_to_the_step_of_the_global_batch(float64):
    shape = (16, 16, 3)
    assert_shares_add_up(lambda count: calibrated(count, shape), pictures(12, shape), atol=1e-9)


def test_the_learning_rate_rises_in_a_tenth_of_the_run_at_most_and_falls_to_nothing():
    for steps, warmup, highest in ((9, 0, 0), (40, 4, 4), (2000, 100, 100)):
        task = FacesVAE(config_of("small", 4, (16, 16, 3), steps=steps))
        rates = []
        for step in (0, highest // 2, highest, steps):
            task.optimizer.iterations.assign(step)
            rates.append(float(task.optimizer.learning_rate) / RATE)
        np.testing.assert_allclose(rates, [0 if warmup else 1, 0.5 if warmup else 1, 1, 0], atol=1e-6)


def test_the_learning_rate_falls_along_half_a_cosine():
    changes = {"learning_rate": 1e-3, "learning_rate_decay": True, "warmup_steps": 0}
    task = FacesVAE(config_of("small", 4, (16, 16, 3), **changes))
    rates = []
    for step in range(11):
        task.optimizer.iterations.assign(step)
        rates.append(float(task.optimizer.learning_rate))
    expected = 0.5e-3 * (1 + np.cos(np.pi * np.arange(11) / 10))
    np.testing.assert_allclose(rates, expected, atol=1e-9)


@pytest.fixture(params=["mixed_bfloat16", "mixed_float16"])
def low_precision(request):
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("shape", [(16, 16, 3), (48, 48, 1)], ids=["whole", "enlarged"])
def test_a_step_in_low_precision_gives_about_the_losses_of_a_whole_one(low_precision, shape):
    def losses():
        keras.utils.set_random_seed(0)
        return [float(loss) for loss in calibrated(4, shape).step(data, noise_of(0, 4)).values()]

    data = tf.cast(pictures(4, shape), tf.float32)
    low = losses()
    keras.config.set_dtype_policy("float32")
    np.testing.assert_allclose(low, losses(), rtol=0.01)


def test_the_prior_is_learned_from_posteriors_of_images_and_their_mirror_images(float64, monkeypatch):
    task = calibrated(4, (16, 16, 3))
    learned = []
    monkeypatch.setattr(prior, "learn", lambda *arguments: learned.append(arguments))
    images = np.random.default_rng(1).integers(0, 256, (6, 16, 16, 3), np.uint8)
    task.finish([images[:4], images[4:]], lambda: None)
    ((means, log_variances, visible, config, _),) = learned
    expected = [task.networks["encoder"](part) for part in (images / 255, images[:, :, ::-1] / 255)]
    for ours, place in ((means, 0), (log_variances, 1)):
        rows = np.concatenate([each[place] for each in expected])
        np.testing.assert_allclose(np.sort(ours, axis=0), np.sort(rows, axis=0), rtol=1e-6, atol=1e-6)
    rng = np.random.default_rng(2)
    for latent in range(4):  # what of an image changes with a latent
        step = np.eye(4)[latent] * 1e-3
        at = rng.standard_normal(4) * 0.1
        to_pixels = task.networks["decoder"].get_layer("linear")
        moved = to_pixels(np.stack([at, at + step])).numpy()
        assert np.linalg.norm(moved[1] - moved[0]) == pytest.approx(visible[latent] * 1e-3, rel=1e-6)
    assert config.seed == 0 and task.ends_with == 40  # ten steps of four images


def test_samples_are_the_decoders_and_in_the_end_of_the_prior(float64):
    task = calibrated(4, (16, 16, 3))
    encoder, decoder = task.networks.values()
    numbers = np.random.default_rng(0).standard_normal((3, 4))
    np.testing.assert_array_equal(task.sample(numbers), decoder(numbers))
    weights = [array for network in (encoder, decoder) for array in network.get_weights()]
    images = np.rint(255 * pictures(60, (16, 16, 3)).numpy()).astype(np.uint8)
    calls = []
    task.finish(np.array_split(images, 3), lambda: calls.append(1))
    assert len(calls) >= 4  # after each batch, and in the end
    assert list(task.networks) == list(FacesVAE.network_names)
    latents = task.networks["prior"](numbers)
    assert np.abs(latents - numbers).min() > 0
    np.testing.assert_array_equal(task.sample(numbers), decoder(latents))
    after = [array for network in (encoder, decoder) for array in network.get_weights()]
    for one, other in zip(weights, after, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def spike_of():
    """A function of seed and rate: how far a loss rose above the twenty before it, in nats a value."""
    batch, steps, shape = 16, 100, (16, 16, 3)
    drawn = [draw_face(np.random.default_rng(index))[0] for index in range(400)]
    faces = np.stack([np.asarray(face.resize(shape[:2], Image.Resampling.BOX)) for face in drawn])

    @functools.cache
    def trained_at(rate):
        changes = {"learning_rate": rate, "warmup_steps": 40, "steps": 2000}
        task = FacesVAE(config_of("small", batch, shape, **changes))

        @tf.function
        def train(seed):
            losses = tf.TensorArray(tf.float32, steps)
            for step in tf.range(steps, dtype=tf.int64):
                rows = tf.random.stateless_uniform([batch], [seed, step], 0, len(faces), tf.int32)
                images = tf.cast(tf.gather(faces, rows), tf.float32) / 255
                found = task.step(images, noise_of(step, batch))
                losses = losses.write(tf.cast(step, tf.int32), found["loss"])
            return losses.stack()

        return task, train

    def measure(seed, rate):
        task, train = trained_at(rate)
        keras.utils.set_random_seed(seed)
        for name, network in FacesVAE(task._config).networks.items():
            task.networks[name].set_weights(network.get_weights())
        task.optimizer.iterations.assign(0)
        for variable in task.optimizer.variables:
            if variable.shape:
                variable.assign(tf.zeros_like(variable))
        task.begin([faces], lambda array: array)
        losses = train(tf.constant(seed, tf.int64)).numpy()
        before = np.median(np.lib.stride_tricks.sliding_window_view(losses[:-1], 20), axis=1)
        return (losses[20:] - before).max() / math.prod(shape)

    return measure


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=[pytest.mark.slow] if seed > 1 else []) for seed in range(20)]
)
def test_losses_have_no_spikes(spike_of, seed):
    assert spike_of(seed, RATE) < 0.45


def test_a_learning_rate_that_is_too_high_has_spikes(spike_of):
    assert spike_of(0, 0.1) > 0.6
