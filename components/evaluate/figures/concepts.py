"""What concept vectors do to faces."""

import functools

import numpy as np

from latentfaces.common.images import to_uint8
from latentfaces.common.pictures import grid, labelled
from latentfaces.components.evaluate.concepts import Concept, concepts
from latentfaces.components.evaluate.inputs import Autoencoder
from latentfaces.components.evaluate.registry import Picture, register_figure

STRIPS = ("Smiling", "Eyeglasses", "Male")  # the book's smile, glasses on and off, man and woman
MOST = 40  # concepts in one picture
COLUMNS = np.linspace(-1.5, 1.5, 7)  # times a concept's strength


@register_figure("concepts", about=Autoencoder)
def together(model: Autoencoder) -> Picture | None:
    """One held-out image, moved along the vector of each concept that works."""
    found = [each for each in concepts(model) if each.works][:MOST]
    if not found:
        return None
    names = [each.name.replace("_", " ") for each in found]
    rows = np.concatenate([_strip(model, each, 1) for each in found])
    caption = (
        "One held-out image, and what each concept that works does to it: moved from left to right by "
        "that many times the strength that the table below gives."
    )
    alt = "One face, of which each row changes one thing from left to right: " + ", ".join(names) + "."
    headings = [f"{column:g}" for column in COLUMNS]
    return Picture("Concepts", caption, alt, labelled(grid(rows), names, headings))


def strip(model: Autoencoder, name: str) -> Picture | None:
    """Up to 6 held-out images, each moved along the vector of one concept, whether it works or not."""
    for concept in concepts(model):
        if concept.name == name:
            ends = (f"{sign}{COLUMNS[-1] * concept.strength:g}" for sign in "−+")
            caption = (
                f"Held-out images moved along the latent direction of “{name}”, from {next(ends)} (left) to "
                f"{next(ends)} (right) times the concept vector; the middle column is not moved."
            )
            if not concept.works:
                caption += " It does not work: see the table."
            alt = f"Faces that from left to right more and more show “{name}”, and stay themselves."
            return Picture(f"Concept vector: {name}", caption, alt, grid(_strip(model, concept, 6)))
    return None


for _name in STRIPS:
    register_figure(f"concept_{_name.lower()}", about=Autoencoder)(functools.partial(strip, name=_name))


def _strip(model: Autoencoder, concept: Concept, count: int) -> np.ndarray:
    """Returns the first held-out images, each moved by all `COLUMNS`: uint8 [count or fewer, 7, H, W, C]."""
    moves = (concept.strength * COLUMNS[:, None]).astype(np.float32) * concept.vector
    return to_uint8(model.generate(model.means[:count, None] + moves))
