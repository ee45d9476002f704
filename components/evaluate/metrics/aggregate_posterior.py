"""How far the latents that a decoder was trained on are from N(0, I)."""

import numpy as np

from latentfaces.components.evaluate.inputs import Autoencoder
from latentfaces.components.evaluate.registry import Fact, Result, number, register_metric

IMAGES = 2_000  # train images, whose posteriors' variances are averaged


@register_metric("{model}", about=Autoencoder)
def aggregate_posterior(model: Autoencoder) -> Result | None:
    """`aggregate_posterior_kl`: how far the aggregate posterior is from N(0, I), in nats a latent.

    The aggregate posterior is the mixture of all train images' posteriors. This is the divergence from
    N(0, I) of the normal distribution with its mean and covariance, the least of all distributions that have
    these; the mean divergence of the single posteriors is the most (Hoffman & Johnson 2016, ELBO surgery).

    None where there are no more train images than latents, the encoder gives no variances, or some latents
    follow from others, to the last digit.
    """
    means, variances = model.train_means, model.log_variances(model.inputs.real.train[:IMAGES])
    if variances is None or len(means) <= model.latent_dim:
        return None
    covariance = np.cov(means, rowvar=False, dtype=np.float64).reshape(model.latent_dim, -1)
    covariance += np.diag(np.exp(variances.astype(np.float64)).mean(axis=0))
    nats = gaussian_kl(means.mean(axis=0, dtype=np.float64), covariance) / model.latent_dim
    if not np.isfinite(nats):
        return None
    label = "Aggregate posterior from N(0, I), nats a latent, 0 = equal"
    return Result({"aggregate_posterior_kl": nats}, [Fact(label, number(nats))])


def gaussian_kl(mean: np.ndarray, covariance: np.ndarray) -> float:
    """Returns the divergence in nats of N(mean, covariance) from N(0, I), of shapes [D] and [D, D]."""
    squares = np.trace(covariance) + mean @ mean
    return float(squares - len(mean) - np.linalg.slogdet(covariance)[1]) / 2
