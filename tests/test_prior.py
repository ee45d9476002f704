import keras
import numpy as np
import pytest

from latentfaces.common.config import TrainConfig
from latentfaces.components.train import prior

LATENTS = 4
ALL_VISIBLE = np.ones(LATENTS)


def learn(visible=ALL_VISIBLE, steps=200, seed=7, log_variance=-4, on_progress=lambda: None):
    """The prior of latents of which the first is about 1 or -1."""
    rng = np.random.default_rng(0)
    means = rng.standard_normal((1000, LATENTS))
    means[:, 0] = rng.choice([-1, 1], 1000)
    config = TrainConfig(
        model="vae",
        preset="small",
        steps=steps,
        seed=seed,
        latent_dim=LATENTS,
        image_shape=(16, 16, 3),
        learning_rate=1e-3,
    )
    return prior.learn(means, np.full_like(means, log_variance), visible, config, on_progress)


@pytest.fixture(scope="module")
def numbers():
    return np.random.default_rng(1).standard_normal((4000, LATENTS), np.float32)


@pytest.fixture(scope="module")
def learned():
    return learn()


def between(latents):
    """In which share the first latent is far from 1 and -1."""
    return np.mean(np.abs(latents[:, 0]) < 0.5)


def test_a_prior_begins_as_the_normal_distribution(numbers):
    np.testing.assert_array_equal(prior.build(LATENTS)(numbers), numbers)


def test_what_is_learned_leaves_out_what_images_do_not_have(learned, numbers):
    latents = np.asarray(learned(numbers))
    assert between(numbers) > 0.35 and between(latents) < 0.1
    assert abs(np.mean(latents[:, 0] > 0) - 0.5) < 0.15
    np.testing.assert_allclose(latents[:, 1:].mean(axis=0), 0, atol=0.2)  # the others stay
    np.testing.assert_allclose(latents[:, 1:].std(axis=0), 1, atol=0.2)


@pytest.mark.parametrize("visible", [100 * ALL_VISIBLE, 0 * ALL_VISIBLE])
def test_only_proportions_count_and_none_at_all_is_no_proportion(learned, visible):
    same = learn(visible)
    for one, other in zip(learned.get_weights(), same.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_latent_that_can_not_be_seen_is_left_as_it_is(numbers):
    latents = np.asarray(learn(np.array([1e-3, 1, 1, 1]))(numbers))
    assert between(latents) > 0.25


def test_posteriors_are_as_wide_as_they_say(numbers):
    assert between(np.asarray(learn(log_variance=0)(numbers))) > 0.2


def test_another_seed_is_another_prior(learned, numbers):
    assert np.abs(learn(seed=8)(numbers) - learned(numbers)).max() > 0.01


def test_a_short_training_has_a_short_end(numbers):
    calls = []
    short = learn(steps=1, on_progress=lambda: calls.append(1))
    assert len(calls) == 1
    assert 0 < np.abs(short(numbers) - numbers).max() < 3


def test_who_asks_to_leave_leaves():
    def leave():
        raise SystemExit(143)

    with pytest.raises(SystemExit):
        learn(on_progress=leave)


def test_in_low_precision_it_is_learned_in_float32(learned):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        same = learn()
    finally:
        keras.config.set_dtype_policy("float32")
    for one, other in zip(learned.get_weights(), same.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
