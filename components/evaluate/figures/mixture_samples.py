"""What a decoder makes of latents that are distributed as the data's."""

from latentfaces.common.pictures import grid, in_rows
from latentfaces.components.evaluate.inputs import SAMPLES, Autoencoder
from latentfaces.components.evaluate.mixture import mixture_latents
from latentfaces.components.evaluate.registry import Picture, register_figure


@register_figure("{model}_mixture_samples", about=Autoencoder)
def mixture_samples(model: Autoencoder) -> Picture | None:
    """The first samples, 8 a row."""
    points = mixture_latents(model, min(64, model.inputs.fitting(SAMPLES)))
    if points is None:
        return None
    caption = (
        f"What the {model.generator_name} makes of random latent vectors from a Gaussian mixture that was "
        "fitted to the train images’ latents, instead of the prior: the first ones drawn, none chosen. Where "
        "these are better, the prior is not where the latents are."
    )
    alt = "A grid of images that look like the real ones, each another."
    title = f"{model.title} samples: Gaussian mixture"
    return Picture(title, caption, alt, grid(in_rows(model.generate(points), 8)))
