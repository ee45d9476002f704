"""How much images differ from one another."""

from latentfaces.common import images
from latentfaces.components.evaluate.inputs import DIVERSITY_LIMIT, RealImages, TrainedModel
from latentfaces.components.evaluate.registry import Fact, Result, percent, register_metric


@register_metric("real", about=RealImages)
def real_diversity(real: RealImages) -> Result:
    """`diversity` of the held-out images, as `latentfaces.common.images.diversity`."""
    return Result({"diversity": real.diversity})


@register_metric("{model}", about=TrainedModel)
def diversity(model: TrainedModel) -> Result:
    """`diversity` of samples, and `diversity_ratio` to real images', None where those are all the same."""
    own, real = images.diversity(model.samples[:DIVERSITY_LIMIT]), model.inputs.real.diversity
    ratio = own / real if real else None
    return Result(
        {"diversity": own, "diversity_ratio": ratio},
        facts=[Fact(f"Diversity of {model.title} samples", percent(ratio), f"real images: {percent(1.0)}")],
    )
