"""What a model makes of random latents."""

from latentfaces.common.pictures import grid, in_rows
from latentfaces.components.evaluate.inputs import TrainedModel
from latentfaces.components.evaluate.registry import Picture, register_figure


@register_figure("{model}_samples", about=TrainedModel)
def samples(model: TrainedModel) -> Picture:
    """The first samples, 8 a row."""
    caption = (
        f"What the {model.generator_name} makes of random latent vectors from the prior N(0, I): the first "
        "ones drawn, none chosen. They should look like real images, no two alike."
    )
    alt = "A grid of generated images, which should look like the real ones and differ as much."
    return Picture(
        f"{model.title} samples: prior N(0, I)", caption, alt, grid(in_rows(model.samples[:64], 8))
    )
