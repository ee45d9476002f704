"""The metrics: a module with a registered function for each; those named here are shown first."""

from latentfaces.components.evaluate.registry import METRICS, import_modules

__all__ = ["METRICS"]

import_modules(
    __name__,
    first=(
        "distances",
        "reconstruction",
        "elbo",
        "active_units",
        "aggregate_posterior",
        "sharpness",
        "checkerboard",
        "diversity",
        "memorisation",
        "attributes",
        "concepts",
    ),
)
