"""The plane of two latent dimensions, the book's listing 12.29."""

import math

import numpy as np

from latentfaces.common.pictures import grid
from latentfaces.components.evaluate import latents
from latentfaces.components.evaluate.inputs import Autoencoder
from latentfaces.components.evaluate.registry import Picture, register_figure


@register_figure("manifold", about=Autoencoder)
def manifold(model: Autoencoder) -> Picture | None:
    """The images of 30 x 30 points of the plane, or fewer where images are large.

    The book's coordinates are 30 from -1 to 1. These are the quantiles from 2.5 % to 97.5 % of the held-out
    images' latents, so that every part of the data gets its share of the picture (as in Kingma & Welling
    2014, appendix A, with the prior's quantiles, which the book's VAE does not keep to: it averages the KL
    term over the dimensions).
    """
    if model.latent_dim != 2:
        return None
    side = math.isqrt(model.inputs.fitting(30 * 30))
    x, y = np.quantile(model.means, np.linspace(0.025, 0.975, side), axis=0).T
    caption = (
        "The decoder's image for each point of the latent plane: the first dimension grows to the right, "
        f"{x[0]:.2g} to {x[-1]:.2g}, the second upwards, {y[0]:.2g} to {y[-1]:.2g}, both by the quantiles of "
        "the held-out images."
    )
    alt = "A plane of images in which neighbours are alike and every kind has its region."
    return Picture("Latent manifold", caption, alt, grid(model.generate(latents.manifold(x, y)), tight=True))
