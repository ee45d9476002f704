"""Samples of a VAE from where the data's latents are, instead of from the prior (Ghosh et al. 2020)."""

import logging

import numpy as np
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

from latentfaces.components.evaluate.inputs import SAMPLES, Autoencoder, once

logger = logging.getLogger(__name__)

FITTED = 5_000  # train images, at most
COMPONENTS = 10  # fewer where one would have less than `ROWS` train images for each latent
ROWS = 5
ITERATIONS = 50


@once
def mixture_latents(model: Autoencoder) -> np.ndarray | None:
    """Latents from a Gaussian mixture with full covariances, fitted to the means of the train images'.

    The ex-post density estimation of Ghosh et al. 2020 (arXiv:1903.12436), with as many components.

    Returns:
        float32 [at most `SAMPLES`, D], in random order; None where there are no more train images than
        latents.
    """
    means = model.train_means[:FITTED].astype(np.float64)
    if len(means) <= model.latent_dim:
        return None
    logger.info("evaluate: fitting a Gaussian mixture to the latents of the %s", model.title)
    center, scale = means.mean(axis=0), means.std(axis=0)
    scale[scale == 0] = 1
    components = max(1, min(COMPONENTS, len(means) // (ROWS * model.latent_dim)))
    mixture = GaussianMixture(components, max_iter=ITERATIONS, random_state=model.inputs.seed)
    with threadpool_limits(1):  # with more, k-means sums in any order, and other samples may follow
        mixture.fit((means - center) / scale)
        drawn, _ = mixture.sample(model.inputs.fitting(SAMPLES))  # one component after the other
    order = np.random.default_rng(model.inputs.seed).permutation(len(drawn))
    return (drawn[order] * scale + center).astype(np.float32)
