"""How far models' images are from held-out ones, as sets; beside it, how far the train images are."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from latentfaces.components.evaluate.distances import (
    BLOCKS,
    NEIGHBOURS,
    Moments,
    frechet_distance,
    kernel_distance,
    manifolds,
)
from latentfaces.components.evaluate.feature_sets import feature_sets, held_out_features
from latentfaces.components.evaluate.inputs import Inputs
from latentfaces.components.evaluate.registry import Fact, Result, Table, number, percent, register_metric

LEAST = 2 * BLOCKS  # images of each kind, below which nothing is measured
PAIRS = 1000  # images of each kind that are compared one by one, and whose features are held: the first ones


@register_metric("distances", about=Inputs)
def distances(inputs: Inputs) -> Result | None:
    """Distances from the held-out images, each set of `count` images, by `features`.

    Of `train` images, which is the best that can be had, and of each model's `<model>_samples` and
    `<model>_reconstructions`: `frechet_distance`, or `fid` where it is that; and, of the first `pairs_count`
    of each set, `kernel_distance` and `kernel_distance_error`; `precision`, `recall`, `density`, `coverage`.
    """
    count = inputs.compared
    if count < LEAST:
        return None
    sets = feature_sets(inputs, count)
    held_out = _gather(held_out_features(inputs, count), count)
    key_of_frechet, name = "frechet_distance", "Fréchet distance"
    if inputs.feature_source == "inception":
        key_of_frechet, name = "fid", "FID"
    pairs = len(held_out[1])
    numbers: dict[str, Any] = {"features": inputs.feature_source, "count": count, "pairs_count": pairs}
    rows = []
    for key, (title, batches) in sets.items():
        moments, first = _gather(batches, count)
        value, error = kernel_distance(held_out[1], first)
        found = manifolds(held_out[1], first)
        numbers[key] = {
            key_of_frechet: frechet_distance(held_out[0], moments),
            "kernel_distance": value,
            "kernel_distance_error": error,
            **dataclasses.asdict(found),
        }
        rows.append(
            [
                title,
                number(numbers[key][key_of_frechet]),
                f"{number(value)} ± {number(error)}",
                *map(percent, (found.precision, found.recall)),
                f"{found.density:.2f}",
                percent(found.coverage),
            ]
        )
    table = Table(
        "Distances from held-out images",
        f"Of {count:,} images of each kind, by {_FEATURES[inputs.feature_source]}. The first row is what can "
        f"be reached: other real images.{'' if name == 'FID' else _NOT_THE_FID} The kernel distance has no "
        "bias; beside it its standard error. Precision: images that "
        "lie among real ones; recall and coverage: real ones that the images reach; density: how near they "
        f"lie, 1 being as real images do ({NEIGHBOURS} neighbours)."
        + (f" All but the {name} is of the first {pairs:,} of each kind." if pairs < count else ""),
        columns=["", name.replace(" ", "\n"), "kernel\ndistance", "precision", "recall", "density",
                 "coverage"],
        rows=rows,
    )  # fmt: skip
    facts = [
        Fact(f"{name} of {count:,} {title}", number(numbers[key][key_of_frechet]),
             f"other real images: {number(numbers['train'][key_of_frechet])}")
        for key, (title, _) in sets.items()
        if key.endswith("_samples")
    ]  # fmt: skip
    return Result(numbers, facts, [table])


_FEATURES = {
    "attributes": "the features of the attribute classifier's last layer but one",
    "components": "the features of a network trained to tell on which side of the median images lie along "
    "their principal components",
    "random": "the features of a network with random weights",
    "inception": "the features of the FID's network, of images resized as in clean-fid",
}
_NOT_THE_FID = " The Fréchet distance is not the FID, whose features are another network's."


def _gather(batches: Iterable[np.ndarray], count: int) -> tuple[Moments, np.ndarray]:
    """Returns the moments of the first `count` rows of batches, [n, F], and of these the first `PAIRS`."""
    moments, first = Moments(), []
    for batch in batches:
        batch = batch[: count - moments.count]
        if moments.count < PAIRS:
            first.append(batch[: PAIRS - moments.count])
        moments.add(batch)
        if moments.count == count:
            break
    return moments, np.concatenate(first)
