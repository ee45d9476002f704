import dataclasses
import itertools
import tracemalloc

import cv2
import numpy as np
import prdc
import pytest
import scipy.linalg
import tensorflow as tf
from conftest import make_dataset, photograph
from sklearn.metrics.pairwise import polynomial_kernel
from test_evaluate import SHAPE, random_encoder, random_generator, save_model

from latentfaces.common import images as arrays
from latentfaces.common.config import EvaluateOptions
from latentfaces.common.images import diversity
from latentfaces.components.evaluate import distances, inputs
from latentfaces.components.evaluate.classifier import FEATURES
from latentfaces.components.evaluate.distances import (
    Moments,
    compare,
    feature_network,
    frechet_distance,
    kernel_distance,
    manifolds,
)
from latentfaces.components.evaluate.inputs import Inputs
from latentfaces.components.evaluate.metrics import distances as metric
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


def gaussian(count, seed, mean=0.0, scale=1.0, dimensions=8):
    mix = np.random.default_rng(0).standard_normal((dimensions, dimensions)) / dimensions
    return mean + scale * np.random.default_rng(seed).standard_normal((count, dimensions)) @ mix


def reference(a, b):
    """As torch-fidelity and the authors' program compute it."""
    (m, s), (n, t) = ((x.mean(axis=0), np.cov(x, rowvar=False)) for x in (a, b))
    return np.sum((m - n) ** 2) + np.trace(s + t - 2 * scipy.linalg.sqrtm(s @ t).real)


def test_the_frechet_distance_is_that_of_the_literature():
    a, b = gaussian(300, 1), gaussian(200, 2, mean=0.3, scale=1.5)
    assert frechet_distance(a, b) == pytest.approx(reference(a, b), rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    # Of N(m, S) and N(n, c² S) it is |m - n|² + (1 - c)² tr S
    moved = 0.3 + 1.5 * a
    apart = np.sum((moved.mean(axis=0) - a.mean(axis=0)) ** 2) + 0.25 * np.trace(np.cov(a, rowvar=False))
    assert frechet_distance(a, moved) == pytest.approx(apart, rel=1e-9)


def test_the_frechet_distance_of_normal_distributions_is_the_closed_form():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((400, 6))
    white = np.sqrt(399) * np.linalg.qr(rows - rows.mean(axis=0))[0]  # mean 0 and covariance 1, exactly
    axes = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    (s, t), (m, n) = rng.uniform(0.1, 3, (2, 6)), rng.standard_normal((2, 6))
    a, b = (mean + white * deviations @ axes for mean, deviations in ((m, s), (n, t)))
    # Of covariances with the same axes it is |m - n|² + Σ (s - t)² of the deviations along them
    assert frechet_distance(a, b) == pytest.approx(np.sum((m - n) ** 2) + np.sum((s - t) ** 2), rel=1e-9)


def test_distances_of_as_many_features_as_a_network_gives_are_those_of_other_programs():
    rng = np.random.default_rng(0)
    a = rng.gamma(1, size=(300, FEATURES)).astype(np.float32)
    b = rng.gamma(1.1, size=(300, FEATURES)).astype(np.float32)
    assert frechet_distance(a, b) == pytest.approx(reference(a, b), rel=1e-4)
    expected = prdc.compute_prdc(a, b, nearest_k=5)
    assert dataclasses.asdict(manifolds(a, b)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("rows", [1, 7, 64, 1000])
def test_moments_are_those_of_all_rows_whatever_the_batches(rows):
    features = 1e6 + gaussian(1000, 1)  # whose squares have no digits left for what differs
    moments = Moments()
    for start in range(0, 1000, rows):
        assert moments.add(features[start : start + rows]) is moments
    assert moments.count == 1000
    np.testing.assert_allclose(moments.mean, features.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance, np.cov(features, rowvar=False), atol=1e-8)
    others = gaussian(500, 2, mean=1e6)
    assert frechet_distance(moments, others) == pytest.approx(frechet_distance(features, others), rel=1e-6)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_fewer_rows_than_features_give_a_distance_all_the_same(count):
    a, b = gaussian(count, 1), gaussian(count, 2, mean=0.3)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert 0 < frechet_distance(a, b) < np.inf
    if count > 1:
        assert frechet_distance(a, b) == pytest.approx(reference(a, b), rel=1e-5)
    found = compare(a, b, gaussian(count, 3), seed=0)
    assert np.isfinite([found.distance, found.other, found.standard_error]).all()


def test_the_standard_error_is_of_the_order_of_what_chance_does(monkeypatch):
    monkeypatch.setattr(distances, "RESAMPLES", 60)
    differences, told = [], []
    for seed in range(0, 90, 3):
        real, one, other = gaussian(400, seed), gaussian(300, seed + 1, 0.2), gaussian(300, seed + 2, 0.25)
        found = compare(real, one, other, seed)
        differences.append(found.distance - found.other)
        told.append(found.standard_error)
    assert np.std(differences) < 1.3 * np.mean(told) and np.mean(told) < 2 * np.std(differences)


def test_what_two_models_have_in_common_is_no_uncertainty():
    real, one = gaussian(100, 1), gaussian(300, 2, 0.3)
    alike = one + 0.01 * np.random.default_rng(3).standard_normal(one.shape)
    near, far = compare(real, one, alike, 0), compare(real, one, gaussian(300, 4, 0.3), 0)
    assert near.standard_error < far.standard_error / 10
    assert compare(real, one, one, 0).standard_error == 0
    assert compare(real, one, alike, 0) == near


def test_the_kernel_distance_is_that_of_its_definition():
    a, b = gaussian(60, 1), gaussian(80, 2, mean=0.3)
    blocks = []
    for index in range(10):
        x, y = np.array_split(a, 10)[index], np.array_split(b, 10)[(index + 1) % 10]
        one = [polynomial_kernel([p], [q])[0, 0] for i, p in enumerate(x) for j, q in enumerate(x) if i != j]
        two = [polynomial_kernel([p], [q])[0, 0] for i, p in enumerate(y) for j, q in enumerate(y) if i != j]
        blocks.append(np.mean(one) + np.mean(two) - 2 * polynomial_kernel(x, y).mean())
    value, error = kernel_distance(a, b)
    assert value == pytest.approx(np.mean(blocks), rel=1e-9)
    assert error == pytest.approx(np.std(blocks, ddof=1) / np.sqrt(10), rel=1e-9)


def test_the_kernel_distance_has_no_bias_and_tells_how_sure_it_is():
    same = [kernel_distance(gaussian(100, seed), gaussian(100, seed + 1)) for seed in range(0, 60, 2)]
    values, errors = np.array(same).T
    assert abs(values.mean()) < 3 * values.std(ddof=1) / np.sqrt(len(values))
    assert 0.5 < values.std(ddof=1) / errors.mean() < 2
    value, error = kernel_distance(gaussian(100, 1), gaussian(100, 2, mean=0.5))
    assert value > 5 * error
    originals = gaussian(100, 1)
    value, error = kernel_distance(originals, originals + 1e-6)  # as reconstructions are
    assert abs(value) < 3 * error
    with pytest.raises(ValueError, match="needs 20 images"):
        kernel_distance(gaussian(19, 1), gaussian(100, 2))


def test_precision_recall_density_and_coverage_are_those_of_prdc():
    real, samples = gaussian(150, 1), gaussian(120, 2, mean=0.2, scale=0.7)
    expected = prdc.compute_prdc(real, samples, nearest_k=5)
    assert dataclasses.asdict(manifolds(real, samples)) == pytest.approx(expected, abs=1e-9)
    assert expected["recall"] < expected["precision"]
    same = manifolds(real, real)
    assert same.precision == same.recall == same.coverage == same.density == 1
    apart = manifolds(real, samples + 100)
    assert dataclasses.asdict(apart) == dict.fromkeys(("precision", "recall", "density", "coverage"), 0)


def faces(count, seed, size=24):
    """Smooth pictures of three kinds, which differ in where they are bright."""
    pictures = np.stack([photograph(1000 * seed + i, size, size) for i in range(count)]) // 2
    for kind in range(3):
        pictures[kind::3, 7 * kind : 7 * kind + 9] += 100
    return pictures


DAMAGES = {
    "blur": lambda x, rng: np.stack([cv2.GaussianBlur(image, (0, 0), 1.5) for image in x]),
    "noise": lambda x, rng: np.clip(x + rng.normal(0, 15, x.shape), 0, 255).astype(np.uint8),
    "darkness": lambda x, rng: (x * 0.8).astype(np.uint8),
    "a kind that is missing": lambda x, rng: x[np.arange(len(x)) % 3 != 0],
    "few pictures again and again": lambda x, rng: x[rng.integers(0, 20, len(x))],
    "halves that are swapped": lambda x, rng: np.roll(x, 12, axis=1),
}


def test_damaged_images_are_farther_from_real_ones(monkeypatch):
    monkeypatch.setattr(distances, "RESAMPLES", 60)
    rng = np.random.default_rng(0)
    network, others = feature_network((24, 24, 3)), faces(300, 2)
    real, whole = network(faces(300, 1)), network(others)
    for name, damage in DAMAGES.items():
        features = network(damage(others, rng))
        found = compare(real, features[np.arange(300) % len(features)], whole, 0)
        assert found.distance - found.other > 3 * found.standard_error, name


def blurred(images, strength):
    return np.stack([cv2.GaussianBlur(image, (0, 0), strength) for image in images])


def noisy(images, strength):
    noise = np.random.default_rng(0).normal(0, strength, images.shape)
    return np.clip(images + noise, 0, 255).astype(np.uint8)


def without_some(images, strength):
    """Each image of a dropped kind gives its place to one of a kind that is left."""
    return images[
        np.where(
            np.arange(len(images)) % 3 < strength,
            (np.arange(len(images)) // 3) * 3 + 2,
            np.arange(len(images)),
        )
    ]


@pytest.mark.parametrize(
    ("damage", "strengths"), [(blurred, (1, 2, 4)), (noisy, (15, 30, 60)), (without_some, (1, 2))]
)
def test_distances_grow_with_blur_noise_and_dropped_modes(damage, strengths):
    network, others = feature_network((24, 24, 3)), faces(300, 2)
    real = network(faces(300, 1))
    sets = [network(images) for images in (others, *(damage(others, each) for each in strengths))]
    for found in ([frechet_distance(real, x) for x in sets], [kernel_distance(real, x)[0] for x in sets]):
        assert np.diff(found).min() > 0
    assert manifolds(real, sets[-1]).coverage < manifolds(real, sets[0]).coverage / 1.3


def evaluated(tmp_path, count):
    """A data set of smooth pictures, a VAE and a GAN."""
    splits = {name: faces(count, seed, SHAPE[0]) for seed, name in enumerate(("train", "test"), 5)}
    make_dataset(tmp_path / "data", **splits)
    networks = {"encoder": random_encoder(SHAPE, 5), "decoder": random_generator(SHAPE, 5)}
    save_model(tmp_path / "vae", "vae", SHAPE, 5, **networks)
    save_model(tmp_path / "gan", "gan", SHAPE, 7, generator=random_generator(SHAPE, 7))
    return str(tmp_path / "data"), {name: str(tmp_path / name) for name in ("vae", "gan")}


def options(samples):
    return EvaluateOptions(features="random", samples=samples)


def measured(found):
    return {key: value for key, value in found.items() if isinstance(value, dict)}


def test_what_is_streamed_gives_the_same_numbers_as_what_is_held(tmp_path, monkeypatch):
    arguments = evaluated(tmp_path, 150)
    whole = metric.distances(Inputs(*arguments, options(140))).numbers
    assert (whole["count"], whole["pairs_count"]) == (140, 140)
    for limit in ("TRAIN_LIMIT", "HELD_OUT_LIMIT", "SAMPLES"):
        monkeypatch.setattr(inputs, limit, 25)
    monkeypatch.setattr(inputs, "STREAMED", 7 * 4 * 16 * 16 * 3)
    some = Inputs(*arguments, options(140))
    streamed = metric.distances(some).numbers
    assert some.streamed == 7 and len(some.real.train) == len(some.models[1].samples) == 25
    names = {"train", "vae_samples", "vae_reconstructions", "gan_samples"}
    fitted = {"vae_mixture_samples", "vae_principal_components"}  # to what is held
    for numbers in (measured(streamed), measured(whole)):
        assert numbers.keys() - fitted == names
    for name in names:
        assert streamed[name] == pytest.approx(whole[name], rel=1e-6, abs=1e-9)
    assert len({whole[name]["frechet_distance"] for name in names}) == 4


def test_of_many_images_the_first_are_compared_one_by_one_and_all_by_their_moments(tmp_path, monkeypatch):
    arguments = evaluated(tmp_path, 90)
    monkeypatch.setattr(inputs, "STREAMED", 7 * 4 * 16 * 16 * 3)
    monkeypatch.setattr(inputs, "SAMPLES", 25)
    few, all_of_them = (metric.distances(Inputs(*arguments, options(count))) for count in (60, 90))
    monkeypatch.setattr(metric, "PAIRS", 60)
    found = metric.distances(Inputs(*arguments, options(1000)))
    assert (found.numbers["count"], found.numbers["pairs_count"]) == (90, 60)
    for name, numbers in measured(found.numbers).items():
        of_all = all_of_them.numbers[name]["frechet_distance"]
        assert numbers == pytest.approx({**few.numbers[name], "frechet_distance": of_all}, rel=1e-9)
        assert numbers["frechet_distance"] != few.numbers[name]["frechet_distance"]
    assert "of the first 60 of each kind" in found.tables[0].caption
    assert "of the first" not in few.tables[0].caption


def test_20000_samples_take_no_more_memory_than_1000(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "TRAIN_LIMIT", 1_000)
    shape = (8, 8, 3)
    rng = np.random.default_rng(0)
    splits = {split: rng.integers(0, 256, (20_000, *shape), np.uint8) for split in ("train", "test")}
    make_dataset(tmp_path / "data", **splits)
    save_model(tmp_path / "gan", "gan", shape, 5, generator=random_generator(shape, 5))
    peaks = []
    for samples in (20, 1_000, 20_000):  # the first, to begin with
        evaluated = Inputs(str(tmp_path / "data"), {"gan": str(tmp_path / "gan")}, options(samples))
        assert evaluated.real and len(evaluated.train_features) == inputs.TRAIN_LIMIT
        tracemalloc.start()
        assert metric.distances(evaluated).numbers["count"] == samples
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] - peaks[1] < 20_000 * 4 * FEATURES / 2  # half of what the features of one set would take


@pytest.mark.parametrize("shape", [(28, 28, 1), (4, 6, 3), (256, 192, 3)])
def test_features_are_of_any_images_and_always_the_same(shape):
    images = np.random.default_rng(0).integers(0, 256, (3, *shape), np.uint8)
    features = feature_network(shape)(images)
    assert features.shape == (3, FEATURES) and np.ptp(features, axis=0).max() > 0
    np.testing.assert_array_equal(features, feature_network(shape)(images))
