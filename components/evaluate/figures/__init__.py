"""The figures: a module with a registered function for each; those named here are shown first."""

from latentfaces.components.evaluate.registry import FIGURES, import_modules

__all__ = ["FIGURES"]

import_modules(
    __name__,
    first=("real", "samples", "mixture_samples", "walk", "training", "interpolations", "nearest",
           "reconstructions", "extremes", "manifold", "plane", "encoded", "concepts", "concept_effects"),
)  # fmt: skip
