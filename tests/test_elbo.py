import json

import keras
import numpy as np
import pytest
from conftest import make_dataset
from scipy.stats import multivariate_normal

from latentfaces.common.config import EvaluateOptions
from latentfaces.common.errors import UserError
from latentfaces.common.images import to_float
from latentfaces.components.evaluate.inputs import Inputs
from latentfaces.components.evaluate.metrics.elbo import (
    elbo,
    importance_weighted,
    kl,
    log_likelihood,
    log_weights,
)

SHAPE, LATENTS, STD = (4, 6, 1), 3, 0.2
VALUES = 24

# Images are W z + b and noise; the columns of W are orthogonal, and so a latent's posterior is its own.
DIRECTIONS = np.linalg.qr(np.random.default_rng(0).normal(size=(VALUES, LATENTS)))[0] * [1.0, 0.5, 0.2]
OFFSET = np.random.default_rng(1).uniform(0.3, 0.7, VALUES)
VARIANCES = STD**2 / (STD**2 + np.square(DIRECTIONS).sum(axis=0))


def constant(values):
    return keras.initializers.Constant(np.asarray(values).tolist())


def linear(x, weights, bias):
    size = len(bias)
    return keras.layers.Dense(size, kernel_initializer=constant(weights), bias_initializer=constant(bias))(x)


def save_vae(folder, shift=0.0, widening=0.0, variances=True, **settings):
    """The exact posterior, or one whose mean is shifted and whose log variance is larger."""
    folder.mkdir()
    images = keras.Input(SHAPE)
    flat = keras.layers.Flatten()(images)
    weights = DIRECTIONS * VARIANCES / STD**2
    outputs = [linear(flat, weights, shift - OFFSET @ weights)]
    if variances:
        outputs.append(linear(flat, 0 * weights, np.log(VARIANCES) + widening))
    keras.Model(images, outputs).save(folder / "encoder.keras")
    latents = keras.Input((LATENTS,))
    pixels = keras.layers.Reshape(SHAPE)(linear(latents, DIRECTIONS.T, OFFSET))
    keras.Model(latents, pixels).save(folder / "decoder.keras")
    config = {"model": "vae", "image_shape": SHAPE, "likelihood_std": STD, **settings}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "history.csv").write_text("step,loss\n")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rng = np.random.default_rng(2)
    drawn = OFFSET + rng.normal(size=(40, LATENTS)) @ DIRECTIONS.T + STD * rng.normal(size=(40, VALUES))
    images = np.rint(drawn.clip(0, 1) * 255).astype(np.uint8).reshape(-1, *SHAPE)
    return make_dataset(tmp_path_factory.mktemp("elbo") / "data", train=images[:20], test=images[20:])


def load(data, tmp_path, **options):
    save_vae(tmp_path / "vae", **options)
    return Inputs(str(data), {"vae": str(tmp_path / "vae")}, EvaluateOptions()).models[0]


def evidence(model):
    """The exact log-likelihood of each held-out image's levels."""
    covariance = DIRECTIONS @ DIRECTIONS.T + STD**2 * np.eye(VALUES)
    rows = to_float(model.inputs.real.held_out).reshape(-1, VALUES)
    return multivariate_normal(OFFSET, covariance).logpdf(rows) - VALUES * np.log(255)


def weights_of(model, draws):
    images = model.inputs.real.held_out
    return log_weights(model, images, model.log_variances(images), draws)


def test_with_the_exact_posterior_the_elbo_is_the_log_likelihood(data, tmp_path):
    model = load(data, tmp_path)
    truth = evidence(model)
    weights = weights_of(model, 8)
    np.testing.assert_allclose(weights, np.broadcast_to(truth[:, None], (20, 8)), atol=1e-4)
    found = elbo(model).numbers["elbo"]
    assert (found["likelihood"], found["images"], found["draws"]) == ("gaussian", 20, 64)
    nats, bits = found["nats"], found["bits"]
    assert nats["elbo"] == pytest.approx(truth.mean(), abs=1e-4)
    assert nats["importance_weighted"] == pytest.approx(truth.mean(), abs=1e-4)
    # E log p(x|z), z normal: that of the mean, less what the variance adds to the squared error
    log_var = np.log(VARIANCES)
    divergence = np.mean(np.sum(model.means**2 + VARIANCES - 1 - log_var, axis=1)) / 2
    assert nats["kl"] == pytest.approx(divergence, rel=1e-5)
    at_mean = log_likelihood(to_float(model.inputs.real.held_out), model.reconstructions, STD).mean()
    spread = VARIANCES @ np.square(DIRECTIONS).sum(axis=0) / (2 * STD**2)
    assert nats["reconstruction"] == pytest.approx(at_mean - spread, abs=1e-3)
    assert bits["elbo"] == pytest.approx(-nats["elbo"] / VALUES / np.log(2))
    assert bits["elbo"] == pytest.approx(bits["reconstruction"] + bits["kl"])


def test_the_importance_weighted_bound_grows_from_the_elbo_towards_the_truth(data, tmp_path):
    model = load(data, tmp_path, shift=0.3, widening=0.5)
    weights = weights_of(model, 4096)
    truth = evidence(model).mean()
    gap = np.sum(np.exp(0.5) + 0.3**2 / VARIANCES - 1 - 0.5) / 2  # of the posterior given from the exact one
    bounds = [importance_weighted(weights.reshape(-1, count)).mean() for count in (1, 4, 64, 4096)]
    assert bounds[0] == pytest.approx(truth - gap, abs=0.05)
    assert bounds == sorted(bounds)
    assert bounds[0] < bounds[2] - 0.5 and bounds[2] < truth
    assert bounds[3] == pytest.approx(truth, abs=0.05)
    nats = elbo(model).numbers["elbo"]["nats"]
    assert nats["elbo"] < nats["importance_weighted"] < truth


def test_without_a_standard_deviation_it_is_the_books_cross_entropy_over_all_channels():
    rng = np.random.default_rng(0)
    images, decoded = rng.random((2, 5, 4, 4, 3)).astype(np.float32)
    decoded[0, 0, 0] = 0, 1, 0.5
    expected = -3 * np.sum(keras.losses.binary_crossentropy(images, decoded), axis=(1, 2))
    np.testing.assert_allclose(log_likelihood(images, decoded, 0), expected, rtol=1e-5)


def test_a_config_without_a_standard_deviation_means_bernoulli(data, tmp_path):
    assert elbo(load(data, tmp_path, likelihood_std=None)).numbers["elbo"]["likelihood"] == "bernoulli"


def test_kl_is_that_of_the_training_loss():
    from latentfaces.components.train.models.vae import kl_loss

    means, log_variances = np.random.default_rng(0).normal(size=(2, 7, 5))
    expected = np.sum(kl_loss(means, log_variances), axis=1)
    np.testing.assert_allclose(kl(means, log_variances), expected)


def test_an_encoder_without_variances_has_no_elbo(data, tmp_path):
    assert elbo(load(data, tmp_path, variances=False)) is None


def test_variances_of_no_trained_model_are_told(data, tmp_path):
    model = load(data, tmp_path, widening=100.0)
    with pytest.raises(UserError, match="encoder of the VAE gives log variances beyond ±50: train it again"):
        elbo(model)


@pytest.mark.parametrize("std", ["0.1", -1, 1e300, [0.1]])
def test_a_standard_deviation_that_is_none_is_told(data, tmp_path, std):
    with pytest.raises(UserError, match="vae/config.json' gives a likelihood_std that is no standard"):
        load(data, tmp_path, likelihood_std=std)


def test_more_images_than_fit_at_once_change_nothing(data, tmp_path, monkeypatch):
    model = load(data, tmp_path)
    whole = weights_of(model, 3)
    monkeypatch.setattr("latentfaces.components.evaluate.metrics.elbo.AT_ONCE", 7 * VALUES)
    np.testing.assert_allclose(weights_of(model, 3), whole, atol=1e-4)


def test_the_standard_deviation_of_a_calibrated_vae_is_that_of_what_it_leaves_out(data, tmp_path):
    model = load(data, tmp_path, likelihood_std=None, calibrated=True)
    assert model.likelihood_std == pytest.approx(STD, rel=0.1)
    assert elbo(model).numbers["elbo"]["likelihood"] == "gaussian"
