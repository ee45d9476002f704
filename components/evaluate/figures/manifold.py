"""The plane of two latent dimensions, the book's listing 12.29."""

import math

import numpy as np

from latentfaces.common.pictures import grid
from latentfaces.components.evaluate import latents
from latentfaces.components.evaluate.inputs import Autoencoder
from latentfaces.components.evaluate.plot import with_values
from latentfaces.components.evaluate.registry import Picture, register_figure

SIDE = 30  # images, or fewer where they are large

_ALT = "A plane of images in which neighbours are alike and every kind has its region."


@register_figure("manifold_book", about=Autoencoder)
def book(model: Autoencoder) -> Picture | None:
    """The images of 30 x 30 points of the plane, from -1 to 1 in both directions, as in the book."""
    if model.latent_dim != 2:
        return None
    z = np.linspace(-1, 1, _side(model))
    sheet = grid(model.generate(latents.manifold(z, z)), tight=True)
    caption = (
        "The decoder's image for each point of the latent plane from −1 to 1, as in the book's figure 12.18: "
        "z[0] grows to the right, z[1] upwards. The scale is even, so that kinds which lie near the origin "
        "are squeezed, and what lies outside is not seen."
    )
    sheet = with_values(sheet, ("z[0]", "z[1]"), z, z)
    return Picture("Latent manifold from −1 to 1", caption, _ALT, sheet)


@register_figure("manifold", about=Autoencoder)
def manifold(model: Autoencoder) -> Picture | None:
    """The images of as many points at the quantiles from 2.5 % to 97.5 % of the held-out images' latents.

    So every part of the data gets its share of the picture, as in Kingma & Welling 2014, appendix A, with the
    prior's quantiles, which the book's VAE does not keep to: it averages the KL term over the dimensions.
    """
    if model.latent_dim != 2:
        return None
    x, y = np.quantile(model.means, np.linspace(0.025, 0.975, _side(model)), axis=0).T
    caption = (
        "The same plane by the quantiles of the held-out images, so that every part of the data gets its "
        f"share: z[0] grows to the right, {x[0]:.2g} to {x[-1]:.2g}, z[1] upwards, {y[0]:.2g} to "
        f"{y[-1]:.2g}. Every kind should have its region, and change smoothly into the next."
    )
    sheet = grid(model.generate(latents.manifold(x, y)), tight=True)
    return Picture("Latent manifold by quantiles", caption, _ALT, sheet)


def _side(model: Autoencoder) -> int:
    return math.isqrt(model.inputs.fitting(SIDE * SIDE))
