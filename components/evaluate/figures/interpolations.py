"""The way in latent space from one image to another."""

from latentfaces.common.pictures import grid
from latentfaces.components.evaluate import latents
from latentfaces.components.evaluate.inputs import Autoencoder
from latentfaces.components.evaluate.registry import Picture, register_figure


@register_figure("interpolations", about=Autoencoder)
def interpolations(model: Autoencoder) -> Picture:
    """Up to 6 ways of 9 images, from the first held-out images to the last."""
    count = max(min(6, len(model.means) // 2), 1)
    ways = latents.slerp(model.means[:count], model.means[-count:], 9)
    caption = "From one held-out image (left) to another (right): spherical interpolation of their latents."
    alt = "Rows of faces that change evenly from one person into another."
    return Picture("Interpolations", caption, alt, grid(model.generate(ways)))
