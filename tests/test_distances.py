import itertools

import numpy as np
import pytest
import tensorflow as tf

from latentfaces.common import images as arrays
from latentfaces.common.images import diversity
from latentfaces.components.evaluate.metrics import reconstruction
from latentfaces.components.evaluate.metrics.reconstruction import mean_squared_error, psnr


def test_psnr_equals_tensorflows():
    rng = np.random.default_rng(0)
    images, others = rng.random((1, 16, 16, 3), np.float32), rng.random((1, 16, 16, 3), np.float32)
    error = mean_squared_error(images, others)
    assert error == pytest.approx(np.mean((images - others) ** 2), rel=1e-5)
    assert psnr(error) == pytest.approx(float(tf.image.psnr(images, others, 1.0)[0]), rel=1e-5)
    assert psnr(0.0) == 100


def test_diversity_is_the_mean_distance_of_all_pairs():
    images = np.random.default_rng(0).random((7, 4, 5, 3), np.float32)
    pairs = [np.sqrt(np.mean((a - b) ** 2)) for a, b in itertools.combinations(images, 2)]
    assert diversity(images) == pytest.approx(np.mean(pairs), rel=1e-5)


def test_a_collapsed_generator_has_no_diversity():
    image = np.random.default_rng(0).random((1, 8, 8, 1), np.float32)
    assert diversity(image.repeat(20, axis=0)) == pytest.approx(0, abs=1e-6)
    assert diversity(image) == 0


def test_a_part_at_a_time_gives_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    images, others = rng.random((7, 4, 5, 3), np.float32), rng.random((7, 4, 5, 3), np.float32)
    spread, error = diversity(images), mean_squared_error(images, others)
    monkeypatch.setattr(arrays, "AT_ONCE", 7 * 8)
    monkeypatch.setattr(reconstruction, "AT_ONCE", 3 * 60)
    assert diversity(images) == pytest.approx(spread, rel=1e-12)
    assert mean_squared_error(images, others) == pytest.approx(error, rel=1e-12)
