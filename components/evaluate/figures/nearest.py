"""What samples look like beside the train images that are most like them."""

import numpy as np

from latentfaces.common.pictures import pairs
from latentfaces.components.evaluate.inputs import TrainedModel
from latentfaces.components.evaluate.registry import Picture, register_figure


@register_figure("{model}_nearest", about=TrainedModel)
def nearest(model: TrainedModel) -> Picture:
    """The 16 samples that are nearest to a train image, each above that."""
    rows, distances = model.inputs.nearest_train(model.sample_features)
    first = np.argsort(distances, kind="stable")[:16]
    image = pairs(model.samples[first], model.inputs.real.train[rows[first]], 8)
    caption = (
        f"Above: of all {len(model.samples):,} samples the {len(first)} most like a train image, by the "
        "features that images are compared by. Below each: that train image. A model that copies shows the "
        "same picture twice."
    )
    alt = "Pairs of a sample and the train image most like it; they should not be the same picture."
    return Picture(f"{model.title}: nearest train images", caption, alt, image)
