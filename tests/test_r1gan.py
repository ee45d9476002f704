import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import noise_of, shares_of_a_step
from scipy.special import expit

from latentfaces.components.train.augment import mirror, translate
from latentfaces.components.train.models.r1gan import R1GAN, R1GANConfig

SHAPE = (16, 16, 3)
LATENTS = 6

pytestmark = pytest.mark.usefixtures("float64")


def config_of(batch, preset="modern", **changes):
    values = R1GAN.presets[preset].settings | {"batch_size": batch, "latent_dim": LATENTS, "steps": 100}
    return R1GANConfig(**values | changes, model="gan", preset=preset, image_shape=SHAPE)


def pictures(batch):
    return tf.constant(np.random.default_rng(batch).random((batch, *SHAPE)))


def slope(discriminator, image):
    """The squared norm of the gradient of one image's logit."""
    image = tf.constant(image[None])
    with tf.GradientTape() as tape:
        tape.watch(image)
        logit = discriminator(image)
    return float(tf.reduce_sum(tf.square(tape.gradient(logit, image))))


@pytest.mark.parametrize(
    "changes",
    [{}, {"augment": "off"}, {"relativistic": True}],
    ids=["augmented", "as_they_are", "relativistic"],
)
def test_the_losses_are_those_of_the_papers(changes):
    task = R1GAN(config_of(3, **changes))
    generator, discriminator = (keras.models.clone_model(each) for each in task.networks.values())
    for copy, network in zip((generator, discriminator), task.networks.values(), strict=True):
        copy.set_weights(network.get_weights())
    losses = {name: float(loss) for name, loss in task.step(pictures(3), noise_of(0, 3)).items()}
    noise = noise_of(0, 3)
    images = mirror(pictures(3), noise)

    def shown(images, places):
        moved = images if changes.get("augment") == "off" else translate(images, places)
        return 2 * moved.numpy() - 1

    def loss(of_made, of_real):
        if changes.get("relativistic"):
            return -np.mean(np.log(expit(of_real - of_made)))
        return -np.mean(np.log(1 - expit(of_made)) + np.log(expit(of_real)))

    assert list(losses) == ["discriminator_loss", "generator_loss", "gradient_penalty"]
    latents, places = noise.normal(LATENTS), noise.uniform(2, copies=2)
    made, real = shown(generator(latents), places[:3]), shown(images, places[3:])
    expected = loss(discriminator(made).numpy(), discriminator(real).numpy())
    assert losses["discriminator_loss"] == pytest.approx(expected, rel=1e-10)
    penalty = sum(slope(discriminator, each) for each in (*made, *real)) / 3
    assert losses["gradient_penalty"] == pytest.approx(4 * penalty, rel=1e-10)
    latents, places = noise.normal(LATENTS), noise.uniform(2, copies=2)
    after = task.networks["discriminator"]
    of_made = after(shown(generator(latents), places[:3])).numpy()
    of_real = after(shown(images, places[3:])).numpy() if changes.get("relativistic") else 0
    assert losses["generator_loss"] == pytest.approx(-np.mean(np.log(expit(of_made - of_real))), rel=1e-10)


def test_the_penalty_is_computed_in_every_fourth_step():
    task = R1GAN(config_of(2))
    found = [float(task.step(pictures(2), noise_of(step, 2))["gradient_penalty"]) for step in range(6)]
    assert [step for step, penalty in enumerate(found) if penalty] == [0, 4]


def test_few_images_are_augmented_and_many_are_not():
    for examples, said, is_augmented in (
        (20_000, "", True),
        (20_001, "", False),
        (20_001, "on", True),
        (9, "off", False),
    ):
        assert config_of(2, examples=examples, augment=said).is_augmented == is_augmented


@pytest.mark.parametrize("preset", ["modern", "faces"])
def test_shares_add_up_to_the_step_of_the_global_batch(preset):
    def shares(replicas):
        return shares_of_a_step(lambda: R1GAN(config_of(6, preset)), pictures(6), replicas)

    whole = shares(1)
    for replicas in (2, 3):
        for part, all_of_it in zip(shares(replicas), whole, strict=True):
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


def test_residual_networks_begin_without_what_their_blocks_add():
    networks = R1GAN(config_of(2, "faces")).networks
    adds = [layer for layer in networks["generator"].layers if isinstance(layer, keras.layers.Add)]
    assert len(adds) == 2 * 4  # two blocks each at 2, 4, 8 and 16 pixels
    for network in networks.values():
        for add in (layer for layer in network.layers if isinstance(layer, keras.layers.Add)):
            beside = keras.Model(network.input, [add.input[0], add.output])
            given = np.random.default_rng(1).random((2, *network.input_shape[1:]))
            before, after = beside(given)
            np.testing.assert_array_equal(before, after)
