"""What a VAE maximises, and a tighter bound: how probable held-out images are under it."""

import math

import numpy as np

from latentfaces.common.images import AT_ONCE, to_float
from latentfaces.components.evaluate.inputs import Autoencoder
from latentfaces.components.evaluate.principal_components import principal_components
from latentfaces.components.evaluate.registry import Fact, Result, Table, register_metric

IMAGES, DRAWS = 100, 64  # held-out images, and latents drawn from the posterior of each
LEVELS = 256  # of a pixel's value; a Gaussian's density is taken as constant over each, 1/255 wide
_CLIP = 1e-7  # from 0 and 1, as `keras.losses.binary_crossentropy`


@register_metric("{model}", about=Autoencoder)
def elbo(model: Autoencoder) -> Result | None:
    """`elbo`: its terms and the importance-weighted bound, in nats an image and in bits a dimension.

    Over `images` held-out images, with `draws` latents of each: `reconstruction`, the log-likelihood expected
    under the posterior; `kl`, of the posterior from N(0, I); `elbo`, their difference (Kingma & Welling
    2014); `importance_weighted`, the bound of Burda et al. 2016 (arXiv:1509.00519). Beside a Gaussian's
    `principal_components`, the log-likelihood of as many of these. All are sums over all values of an image
    and all latents. Bits are negative log-likelihoods, the smaller the better.

    `likelihood` is "bernoulli", the book's cross-entropy, which for values between 0 and 1 is a probability
    only in name; or "gaussian" of the `likelihood_std` that the model was trained with, as the probability of
    one of 256 levels, so that the bits compare with other models of 8-bit images.

    None where the encoder gives no variances.
    """
    images = model.inputs.real.held_out[: model.inputs.fitting(IMAGES)]
    variances = model.log_variances(images)
    if variances is None:
        return None
    weights = log_weights(model, images, variances, DRAWS)
    bound = float(weights.mean())
    divergence = float(np.mean(kl(model.means[: len(images)], variances)))
    # The expectation of log p(x|z), less noisily than by its own mean: near the true posterior the weights
    # hardly differ.
    nats = {
        "reconstruction": bound + divergence,
        "kl": divergence,
        "elbo": bound,
        "importance_weighted": float(np.mean(importance_weighted(weights))),
    }
    dimension = images[0].size * math.log(2)
    bits = {name: (value if name == "kl" else -value) / dimension for name, value in nats.items()}
    likelihood = "gaussian" if model.likelihood_std else "bernoulli"
    titles = dict(_TITLES)
    if model.likelihood_std and (line := principal_components(model)):
        density = float(line.log_likelihood(images).mean())
        nats["principal_components"] = density - images[0].size * math.log(LEVELS - 1)
        bits["principal_components"] = -nats["principal_components"] / dimension
        titles["principal_components"] = f"log-likelihood of {model.latent_dim} principal components, exact"
    numbers = {"likelihood": likelihood, "images": len(images), "draws": DRAWS, "nats": nats, "bits": bits}
    what = (
        f"a Gaussian likelihood with the standard deviation {model.likelihood_std:g} that the model was "
        "trained with, as the probability of one of 256 levels of a value"
        if model.likelihood_std
        else "the Bernoulli likelihood of the book’s cross-entropy, which takes a value for a probability"
    )
    table = Table(
        "Likelihood",
        f"Of {len(images):,} held-out images under {what}, summed over all values of an image. The evidence "
        "lower bound (ELBO) is the reconstruction term less the divergence (KL) of posterior from N(0, I); "
        f"with {DRAWS} importance-weighted draws the bound is tighter. In bits a dimension less is "
        "better.",
        columns=["", "nats\nan image", "bits\na dimension"],
        rows=[
            [title, f"{nats[name]:,.1f}".replace("-", "−"), f"{bits[name]:.3f}"]
            for name, title in titles.items()
        ],
    )
    label = f"Evidence lower bound (ELBO) of {len(images):,} held-out images, bits a dimension"
    beside = ""
    if "principal_components" in bits:
        beside = f"{model.latent_dim} principal components: {bits['principal_components']:.3f}"
    return Result({"elbo": numbers}, [Fact(label, f"{bits['elbo']:.3f}", beside)], [table])


_TITLES = {
    "reconstruction": "reconstruction term",
    "kl": "divergence from N(0, I)",
    "elbo": "ELBO",
    "importance_weighted": f"importance-weighted bound, {DRAWS} draws",
}


def log_weights(model: Autoencoder, images: np.ndarray, variances: np.ndarray, draws: int) -> np.ndarray:
    """Returns log p(x|z) + log p(z) - log q(z|x) for latents z drawn from the posterior q of each image x.

    Its mean is the ELBO. Where the posterior is the true one, all are log p(x).

    Args:
        model: whose encoder gives the posterior.
        images: uint8 [N, H, W, C].
        variances: the logarithms of their posteriors' variances, [N, D].
        draws: K.

    Returns:
        float64 [N, K].
    """
    means = model.encoder(images)
    rng = np.random.default_rng(model.inputs.seed)
    owners = np.repeat(np.arange(len(images)), draws)
    weights = np.empty(len(owners))
    rows = max(1, AT_ONCE // images[0].size)
    for start in range(0, len(owners), rows):
        part = owners[start : start + rows]
        noise = rng.standard_normal((len(part), model.latent_dim), dtype=np.float32)
        points = means[part] + np.exp(variances[part] / 2) * noise
        likelihoods = log_likelihood(to_float(images[part]), model.generate(points), model.likelihood_std)
        ratios = np.square(noise, dtype=np.float64) + variances[part] - np.square(points, dtype=np.float64)
        weights[start : start + rows] = likelihoods + np.sum(ratios, axis=1) / 2
    return weights.reshape(len(images), draws)


def log_likelihood(images: np.ndarray, decoded: np.ndarray, std: float) -> np.ndarray:
    """Returns log p(x|z) in nats, float64 [N], of images, given what the decoder makes of their latents.

    Args:
        images: float32 in [0, 1], [N, H, W, C].
        decoded: float32 [N, H, W, C].
        std: of a Gaussian, whose density is multiplied by the width of one of 256 levels; 0 for Bernoulli's.
    """
    if std:
        squares = np.sum(np.square(images - decoded, dtype=np.float64), axis=(1, 2, 3))
        constant = math.log(std * math.sqrt(2 * math.pi) * (LEVELS - 1))
        return -squares / (2 * std**2) - images[0].size * constant
    shares = decoded.clip(_CLIP, 1 - _CLIP)
    nats = images * np.log(shares) + (1 - images) * np.log(1 - shares)
    return nats.sum(axis=(1, 2, 3), dtype=np.float64)


def kl(means: np.ndarray, log_variances: np.ndarray) -> np.ndarray:
    """Returns the divergence in nats of normal distributions from N(0, I), float64 [N], both [N, D]."""
    m, v = means.astype(np.float64), log_variances.astype(np.float64)
    return np.sum(m**2 + np.exp(v) - 1 - v, axis=1) / 2


def importance_weighted(weights: np.ndarray) -> np.ndarray:
    """Returns the bound of each image, [N], from K log weights of each, [N, K]: equation 8 of Burda et al."""
    return np.logaddexp.reduce(weights, axis=1) - math.log(weights.shape[1])
