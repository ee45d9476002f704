"""How far models' images are from held-out ones, as sets; beside it, how far the train images are."""

import dataclasses
from typing import Any

import numpy as np

from latentfaces.components.evaluate.distances import (
    BLOCKS,
    NEIGHBOURS,
    frechet_distance,
    kernel_distance,
    manifolds,
)
from latentfaces.components.evaluate.inputs import SAMPLES, Autoencoder, Inputs
from latentfaces.components.evaluate.mixture import mixture_feature_sets
from latentfaces.components.evaluate.registry import Fact, Result, Table, number, percent, register_metric

LEAST = 2 * BLOCKS  # images of each kind, below which nothing is measured


@register_metric("distances", about=Inputs)
def distances(inputs: Inputs) -> Result | None:
    """Distances from the held-out images, each set of `count` images, by `features`.

    Of `train` images, which is the best that can be had, and of each model's `<model>_samples` and
    `<model>_reconstructions`: `frechet_distance`; `kernel_distance` and `kernel_distance_error`; `precision`,
    `recall`, `density` and `coverage`.
    """
    real = inputs.real
    if min(len(real.train), len(real.held_out), inputs.fitting(SAMPLES)) < LEAST:
        return None
    sets = {"train": ("train images", inputs.train_features)}
    for model in inputs.models:
        sets[f"{model.name}_samples"] = (f"{model.title} samples", model.sample_features)
        if isinstance(model, Autoencoder):
            title = f"{model.title} reconstructions"
            sets[f"{model.name}_reconstructions"] = (title, model.reconstruction_features)
            for key, (title, batches) in mixture_feature_sets(model, inputs.fitting(SAMPLES)).items():
                sets[key] = (title, np.concatenate(list(batches)))
    # As many of each: the Fréchet distance of few images is too large, and of fewer larger still.
    count = min(len(inputs.held_out_features), *(len(features) for _, features in sets.values()))
    held_out = inputs.held_out_features[:count]
    numbers: dict[str, Any] = {"features": inputs.feature_source, "count": count}
    rows = []
    for key, (title, features) in sets.items():
        found = _measure(held_out, features[:count])
        numbers[key] = found
        kernel = f"{number(found['kernel_distance'])} ± {number(found['kernel_distance_error'])}"
        precision, recall, coverage = (percent(found[each]) for each in ("precision", "recall", "coverage"))
        density = f"{found['density']:.2f}"
        rows.append([title, number(found["frechet_distance"]), kernel, precision, recall, density, coverage])
    table = Table(
        "Distances from held-out images",
        f"Of {count:,} images of each kind, by {_FEATURES[inputs.feature_source]}. The first row is what can "
        "be reached: other real images. The Fréchet distance is not the FID, whose features are another "
        "network's. The kernel distance has no bias; beside it its standard error. Precision: images that "
        "lie among real ones; recall and coverage: real ones that the images reach; density: how near they "
        f"lie, 1 being as real images do ({NEIGHBOURS} neighbours).",
        columns=["", "Fréchet\ndistance", "kernel\ndistance", "precision", "recall", "density", "coverage"],
        rows=rows,
    )
    facts = [
        Fact(f"Fréchet distance of {title}", number(numbers[key]["frechet_distance"]),
             f"other real images: {number(numbers['train']['frechet_distance'])}")
        for key, (title, _) in sets.items()
        if key.endswith("_samples")
    ]  # fmt: skip
    return Result(numbers, facts, [table])


_FEATURES = {
    "attributes": "the features of the attribute classifier's last layer but one",
    "random": "the features of a network with random weights, since there are no labels to train one by",
}


def _measure(real: np.ndarray, features: np.ndarray) -> dict[str, float]:
    value, error = kernel_distance(real, features)
    return {
        "frechet_distance": frechet_distance(real, features),
        "kernel_distance": value,
        "kernel_distance_error": error,
        **dataclasses.asdict(manifolds(real, features)),
    }
