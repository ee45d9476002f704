"""The figures: a module with a registered function for each; those named here are shown first."""

from latentfaces.components.evaluate.registry import FIGURES, import_modules

__all__ = ["FIGURES"]

import_modules(
    __name__,
    first=("real", "reconstructions", "samples", "mixture_samples", "interpolations", "manifold", "concepts"),
)
