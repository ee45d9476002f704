"""Samples of a VAE from where the data's latents are, instead of from the prior (Ghosh et al. 2020)."""

import logging
import warnings

import numpy as np
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

from latentfaces.components.evaluate.inputs import Autoencoder, once

logger = logging.getLogger(__name__)

FITTED = 5_000  # train images, at most
COMPONENTS = 10  # fewer where one would have less than `ROWS` train images for each latent
ROWS = 2
ITERATIONS = 50


def mixture_latents(model: Autoencoder, count: int) -> np.ndarray | None:
    """Latents from a Gaussian mixture with full covariances, fitted to the means of the train images'.

    The ex-post density estimation of Ghosh et al. 2020 (arXiv:1903.12436), with as many components. The first
    ones are the same whatever the count.

    Returns:
        float32 [count, D]; None where there are no more train images than latents.
    """
    if (fitted := _fit(model)) is None:
        return None
    weights, means, factors = fitted
    rng, of_components = np.random.default_rng(model.inputs.seed).spawn(2)
    components = of_components.choice(len(weights), count, p=weights)
    drawn = rng.standard_normal((count, model.latent_dim))
    for component, (mean, factor) in enumerate(zip(means, factors, strict=True)):
        rows = components == component
        drawn[rows] = drawn[rows] @ factor.T + mean
    return drawn.astype(np.float32)


@once
def _fit(model: Autoencoder) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Returns weights [K], means [K, D] and the Cholesky factors of covariances [K, D, D], or None."""
    latents = model.train_means[:FITTED].astype(np.float64)
    if len(latents) <= model.latent_dim:
        return None
    logger.info("evaluate: fitting a Gaussian mixture to the latents of the %s", model.title)
    center, scale = latents.mean(axis=0), latents.std(axis=0)
    scale[scale == 0] = 1
    components = max(1, min(COMPONENTS, len(latents) // (ROWS * model.latent_dim)))
    seed = model.inputs.seed % (1 << 32)  # scikit-learn knows no larger ones
    mixture = GaussianMixture(components, max_iter=ITERATIONS, random_state=seed)
    # More threads would add up in any order, from which other samples may follow. scikit-learn warns of few
    # different latents, as an encoder gives that has collapsed.
    with threadpool_limits(1), warnings.catch_warnings(action="ignore"):
        mixture.fit((latents - center) / scale)
    factors = np.linalg.cholesky(mixture.covariances_) * scale[:, None]
    return mixture.weights_, mixture.means_ * scale + center, factors
