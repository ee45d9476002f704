"""Whether a model draws what it was shown: how near its samples are to train images."""

import numpy as np

from latentfaces.components.evaluate.inputs import TrainedModel
from latentfaces.components.evaluate.registry import Fact, Result, percent, register_metric

NEAR = 0.01  # of the held-out images are nearer to a train image than that
LEAST = 100  # held-out images, by which that can be told


@register_metric("{model}", about=TrainedModel)
def memorisation(model: TrainedModel) -> Result | None:
    """`memorised_share`: of `memorised_count` samples, those nearer to a train image than 99 % of real ones.

    The real ones are those held out. A model that knows the train images no better than any others reaches
    1 % too. Near is meant of the features that images are compared by. None where no image is held out, or
    too few are.
    """
    inputs = model.inputs
    if inputs.real.split == "train" or len(inputs.held_out_features) < LEAST:
        return None
    limit = np.quantile(inputs.nearest_train(inputs.held_out_features)[1], NEAR)
    near = inputs.nearest_train(model.sample_features)[1] < limit
    share, count = float(np.mean(near)), len(near)
    label = f"Of {count:,} {model.title} samples, very near to a train image"
    fact = Fact(label, percent(share), f"real images: {percent(NEAR)}")
    return Result({"memorised_share": share, "memorised_count": count}, facts=[fact])
