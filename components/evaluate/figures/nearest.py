"""What samples look like beside the train images that are most like them."""

import numpy as np

from latentfaces.common.images import to_uint8
from latentfaces.common.pictures import grid, in_rows
from latentfaces.components.evaluate.inputs import TrainedModel
from latentfaces.components.evaluate.registry import Picture, register_figure


@register_figure("{model}_nearest", about=TrainedModel)
def nearest(model: TrainedModel) -> Picture:
    """The 16 samples that are nearest to a train image, each above that."""
    rows, distances = model.inputs.nearest_train(model.sample_features)
    first = np.argsort(distances, kind="stable")[:16]
    pairs = (model.samples[first], model.inputs.real.train[rows[first]])
    above, below = (in_rows(to_uint8(images), 8) for images in pairs)
    cells = np.stack([above, below], axis=1).reshape(-1, *above.shape[1:])
    caption = (
        f"Above: of all {len(model.samples):,} samples the {len(first)} most like a train image, by the "
        "features that images are compared by. Below each: that train image. A model that copies shows the "
        "same picture twice."
    )
    alt = "Pairs of a sample and the train image most like it; they should not be the same picture."
    return Picture(f"{model.title}: nearest train images", caption, alt, grid(cells, rows_in_group=2))
