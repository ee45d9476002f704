"""Faces in, two trained generators out: the Python interface of latentfaces.

    import latentfaces

    latentfaces.preprocess("photographs", "dataset", image_size=64)
    latentfaces.train("vae", "dataset", "vae", preset="faces")
    latentfaces.train("gan", "dataset", "gan", preset="book")
    latentfaces.evaluate("dataset", "evaluation", {"vae": "vae", "gan": "gan"})
    images = latentfaces.load("gan").sample(16)

Each is imported when it is first asked for, and Beam or TensorFlow with it.
"""

import importlib

__all__ = ["evaluate", "load", "preprocess", "synthesize", "train"]  # pyright: ignore[reportUnsupportedDunderAll]

_FUNCTIONS = {
    "evaluate": ("latentfaces.components.evaluate.evaluate", "evaluate"),
    "load": ("latentfaces.components.generate.trained", "load"),
    "preprocess": ("latentfaces.preprocessing.job", "run"),
    "synthesize": ("latentfaces.preprocessing.drawn_faces", "synthesize"),
    "train": ("latentfaces.components.train.run", "train"),
}


def __getattr__(name: str) -> object:
    """Imports one of the functions above (PEP 562)."""
    if name not in _FUNCTIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, function = _FUNCTIONS[name]
    return getattr(importlib.import_module(module), function)
