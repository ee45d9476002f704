"""What a model makes of random latents."""

from latentfaces.common.pictures import grid, in_rows
from latentfaces.components.evaluate.inputs import TrainedModel
from latentfaces.components.evaluate.registry import Picture, register_figure


@register_figure("{model}_samples", about=TrainedModel)
def samples(model: TrainedModel) -> Picture:
    """The first samples, 8 a row."""
    prior = "the prior that was learned" if model.prior else "the prior N(0, I)"
    caption = (
        f"What the {model.generator_name} makes of random latent vectors from {prior}: the first ones drawn, "
        "none chosen. They should look like real images, no two alike."
    )
    alt = "A grid of generated images, which should look like the real ones and differ as much."
    title = f"{model.title} samples: {prior.removeprefix('the ')}"
    return Picture(title, caption, alt, grid(in_rows(model.samples[:64], 8)))
