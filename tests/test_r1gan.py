import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import shares_of_a_step
from scipy.special import expit

from latentfaces.components.train.augment import mirror
from latentfaces.components.train.models.r1gan import R1GAN, R1GANConfig
from latentfaces.components.train.noise import GlobalBatchNoise

SHAPE = (16, 16, 3)
LATENTS = 6

pytestmark = pytest.mark.usefixtures("float64")


def config_of(batch, **changes):
    values = R1GAN.presets["modern"].settings | {"batch_size": batch, "latent_dim": LATENTS, "steps": 100}
    return R1GANConfig(**values | changes, model="gan", preset="modern", image_shape=SHAPE)


def noise_of(step, batch, start=0, size=None):
    return GlobalBatchNoise(
        7, tf.constant(step, tf.int64), tf.constant(start, tf.int64), size or batch, batch
    )


def pictures(batch):
    return tf.constant(np.random.default_rng(batch).random((batch, *SHAPE)))


def slope(discriminator, image):
    """The squared norm of the gradient of one image's logit."""
    image = tf.constant(image[None])
    with tf.GradientTape() as tape:
        tape.watch(image)
        logit = discriminator(image)
    return float(tf.reduce_sum(tf.square(tape.gradient(logit, image))))


def test_the_losses_are_those_of_the_papers():
    task = R1GAN(config_of(3))
    generator, discriminator = (keras.models.clone_model(each) for each in task.networks.values())
    for copy, network in zip((generator, discriminator), task.networks.values(), strict=True):
        copy.set_weights(network.get_weights())
    losses = {name: float(loss) for name, loss in task.step(pictures(3), noise_of(0, 3)).items()}
    noise = noise_of(0, 3)
    images = mirror(pictures(3), noise)
    assert list(losses) == ["discriminator_loss", "generator_loss", "gradient_penalty"]
    fake, real = (2 * each.numpy() - 1 for each in (generator(noise.normal(LATENTS)), images))
    of_fake, of_real = (discriminator(each).numpy() for each in (fake, real))
    expected = -np.mean(np.log(1 - expit(of_fake)) + np.log(expit(of_real)))
    assert losses["discriminator_loss"] == pytest.approx(expected, rel=1e-10)
    penalty = sum(slope(discriminator, each) for each in (*fake, *real)) / 3
    assert losses["gradient_penalty"] == pytest.approx(penalty, rel=1e-10)
    after = task.networks["discriminator"](2 * generator(noise.normal(LATENTS)) - 1).numpy()
    assert losses["generator_loss"] == pytest.approx(-np.mean(np.log(expit(after))), rel=1e-10)


def shares(batch, replicas, count):
    return shares_of_a_step(lambda: R1GAN(config_of(count)), pictures(batch), noise_of, replicas)


def test_shares_add_up_to_the_step_of_the_global_batch():
    whole = shares(12, replicas=1, count=12)
    for replicas in (2, 3):
        for part, all_of_it in zip(shares(12, replicas, count=12), whole, strict=True):
            np.testing.assert_allclose(part, all_of_it, rtol=1e-9, atol=1e-12)


def test_the_penalty_counts_less_towards_the_end():
    def of_penalty(step, gamma):
        """What the penalty adds to the gradients after so many steps."""
        keras.utils.set_random_seed(0)
        task, found = R1GAN(config_of(4, gradient_penalty=gamma)), []
        task.discriminator_optimizer.iterations.assign(step)
        task.discriminator_optimizer.apply = lambda values, _: found.append(values)
        task.step(pictures(4), noise_of(0, 4))
        return [each.numpy() for each in found[0]]

    first, last = (
        [one - other for one, other in zip(of_penalty(step, 0.5), of_penalty(step, 0.0), strict=True)]
        for step in (0, 100)
    )
    for one, other in zip(first, last, strict=True):
        np.testing.assert_allclose(other, 0.1 * one, rtol=1e-6, atol=1e-12)


def test_the_average_s_half_life_is_in_images_and_fits_into_the_run():
    for steps, batch, half_life in ((100_000, 16, 5000 / 16), (10_000, 32, 5000 / 32), (100, 16, 25)):
        config = dataclasses.replace(config_of(batch), steps=steps)
        momentum = R1GAN(config).generator_optimizer.ema_momentum
        assert momentum**half_life == pytest.approx(0.5)


def test_sides_are_halved_to_a_few_pixels():
    for side, seed in ((16, 2), (32, 4), (48, 6), (64, 4), (72, 9), (128, 4)):
        config = dataclasses.replace(config_of(2), image_shape=(side, side, 3))
        networks = R1GAN(config).networks
        assert networks["generator"].output_shape == (None, side, side, 3)
        outputs = [layer.output.shape for layer in networks["generator"].layers]
        assert min(shape[1] for shape in outputs if len(shape) == 4) == seed
