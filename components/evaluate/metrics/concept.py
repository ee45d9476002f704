"""Whether a concept vector does what it is called: how often its attribute is seen along the way."""

import numpy as np

from latentfaces.components.evaluate.concepts import CONCEPT, STEPS, concept_images
from latentfaces.components.evaluate.inputs import Autoencoder
from latentfaces.components.evaluate.registry import Result, Table, percent, register_metric


@register_metric("concept", about=Autoencoder)
def concept(model: Autoencoder) -> Result | None:
    """The concept's `name`, `steps` along its vector, and the `shares` of images that it is then seen in."""
    images = concept_images(model)
    if images is None:
        return None
    index = model.inputs.real.attribute_names.index(CONCEPT)
    predictions = model.inputs.classifier(images.reshape(-1, *images.shape[2:]))[:, index]
    shares: list[float] = np.mean(predictions.reshape(images.shape[:2]) > 0.5, axis=0).tolist()
    table = Table(
        "Attributes",
        f"How often the classifier sees {CONCEPT} in held-out images moved along its concept vector:",
        columns=["times the vector", *(f"{step:{'+' if step else ''}g}".replace("-", "−") for step in STEPS)],
        rows=[["share", *map(percent, shares)]],
    )
    return Result({"name": CONCEPT, "steps": STEPS.tolist(), "shares": shares}, tables=[table])
