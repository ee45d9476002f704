"""The way in latent space from one image to another."""

from latentfaces.common.pictures import grid
from latentfaces.components.evaluate import latents
from latentfaces.components.evaluate.inputs import TrainedModel
from latentfaces.components.evaluate.registry import Picture, register_figure


@register_figure("{model}_interpolations", about=TrainedModel)
def interpolations(model: TrainedModel) -> Picture:
    """Up to 6 ways of 9 images, from the first landmarks to the last."""
    count = max(min(6, len(model.landmarks) // 2), 1)
    ways = latents.slerp(model.landmarks[:count], model.landmarks[-count:], 9)
    caption = (
        f"Each row leads from the latents of one {model.landmark_name} (left) to those of another (right) by "
        "spherical interpolation. Every image on the way should be as good as the two ends."
    )
    alt = "Rows of images that change evenly from the one on the left into the one on the right."
    return Picture(f"{model.title}: interpolations", caption, alt, grid(model.generate(ways)))
