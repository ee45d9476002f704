"""The reconstructions that are most and least like their originals."""

import numpy as np

from latentfaces.common.images import to_float
from latentfaces.common.pictures import pairs
from latentfaces.components.evaluate.inputs import Autoencoder
from latentfaces.components.evaluate.registry import Picture, number, register_figure

COUNT = 8


@register_figure("reconstructions_extremes", about=Autoencoder)
def extremes(model: Autoencoder) -> Picture:
    """Two pairs of rows, the best first: originals, and below each its reconstruction."""
    real = model.inputs.real.held_out
    both = zip(real, model.reconstructions, strict=True)
    errors = np.array([np.mean(np.square(to_float(image) - made)) for image, made in both])
    count = min(COUNT, max(1, len(errors) // 2))
    order = np.argsort(errors, kind="stable")
    best, worst = order[:count], order[: -count - 1 : -1]
    shown = np.concatenate([best, worst])
    image = pairs(real[shown], model.reconstructions[shown], count)
    (low, high), (least, most) = (
        (number(errors[each].min()), number(errors[each].max())) for each in (best, worst)
    )
    caption = (
        f"Of all {len(errors):,} held-out images, the {count} with the least mean squared error, {low} to "
        f"{high} (above), and the {count} with the greatest, {least} to {most} (below), the most extreme on "
        "the left. Below each original its reconstruction."
    )
    alt = (
        "Pairs of an image and its reconstruction in two groups: the upper can hardly be told apart, the "
        "lower show what the model can't keep."
    )
    return Picture("Best and worst reconstructions", caption, alt, image)
