from types import SimpleNamespace

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from latentfaces.components.evaluate.metrics.active_units import active_units
from latentfaces.components.evaluate.metrics.aggregate_posterior import aggregate_posterior, gaussian_kl
from latentfaces.components.evaluate.metrics.elbo import kl


def vae(means, log_variances=None):
    return SimpleNamespace(
        title="VAE",
        means=means,
        train_means=means,
        latent_dim=means.shape[1],
        log_variances=lambda images: log_variances,
        inputs=SimpleNamespace(real=SimpleNamespace(train=means)),
    )


def test_the_divergence_of_normal_distributions_is_the_integral():
    for mean, std in ((0.0, 1.0), (1.5, 0.4), (-0.3, 2.0)):
        one, prior = norm(mean, std), norm(0, 1)

        def integrand(x, one=one, prior=prior):
            return one.pdf(x) * (one.logpdf(x) - prior.logpdf(x))

        expected, _ = quad(integrand, mean - 12 * std, mean + 12 * std, epsabs=1e-10)
        assert gaussian_kl(np.array([mean]), np.array([[std**2]])) == pytest.approx(expected, abs=1e-8)


def test_the_divergence_does_not_depend_on_the_axes():
    rng = np.random.default_rng(0)
    mean, log_variances = rng.normal(size=(2, 5))
    turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    turned = turn @ np.diag(np.exp(log_variances)) @ turn.T
    assert gaussian_kl(turn @ mean, turned) == pytest.approx(kl(mean[None], log_variances[None])[0])


def test_posteriors_that_fill_the_prior_are_near_and_others_far():
    rng = np.random.default_rng(0)
    means = np.sqrt(0.75) * rng.normal(size=(20_000, 4))
    filling = aggregate_posterior(vae(means, np.full((2000, 4), np.log(0.25)))).numbers
    assert filling["aggregate_posterior_kl"] == pytest.approx(0, abs=1e-3)
    narrow = aggregate_posterior(vae(means / 10, np.full((2000, 4), -20.0))).numbers
    assert narrow["aggregate_posterior_kl"] == pytest.approx((0.0075 - 1 - np.log(0.0075)) / 2, rel=0.01)


def test_it_is_at_most_the_mean_divergence_of_the_posteriors():
    rng = np.random.default_rng(0)
    means = rng.choice([-2.0, 0.5, 3.0], size=(500, 3))
    log_variances = rng.uniform(-3, -1, (500, 3))
    found = aggregate_posterior(vae(means, log_variances)).numbers["aggregate_posterior_kl"]
    assert 0 < found < kl(means, log_variances).mean() / 3


def test_without_variances_or_enough_images_there_is_none():
    means = np.random.default_rng(0).normal(size=(4, 4))
    assert aggregate_posterior(vae(means, 0 * means)) is None
    assert aggregate_posterior(vae(means[:, :2])) is None


def test_latents_that_follow_from_others_are_infinitely_far_from_the_prior_and_give_no_number():
    means = np.repeat(np.arange(9.0)[:, None], 2, axis=1)
    assert aggregate_posterior(vae(means, np.full((9, 2), -50.0))) is None


def test_units_are_active_whose_means_vary():
    means = np.random.default_rng(0).normal(size=(1000, 4)) * np.sqrt([1, 0.02, 0.005, 0]) + [0, 0, 0, 9]
    result = active_units(vae(means))
    assert result.numbers == {"active_units": 2, "latents": 4} and result.facts[0].value == "2 of 4"
