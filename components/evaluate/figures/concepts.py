"""What concept vectors do to faces."""

import functools

import numpy as np

from latentfaces.common.images import to_uint8
from latentfaces.common.pictures import grid, labelled
from latentfaces.components.evaluate.concepts import BOOK, MeasuredConcept, concepts, working
from latentfaces.components.evaluate.inputs import Autoencoder
from latentfaces.components.evaluate.registry import Picture, register_figure

MOST = 40  # concepts in one picture
COLUMNS = np.linspace(-1.5, 1.5, 7)  # times a concept's strength


@register_figure("concepts", about=Autoencoder)
def together(model: Autoencoder) -> Picture | None:
    """One held-out image, moved along the vector of each concept that works."""
    found = working(model)[:MOST]
    if not found:
        return None
    names = [each.title for each in found]
    typical = np.argmin(np.linalg.norm(model.means - model.means.mean(axis=0), axis=1))
    rows = np.stack([_strip(model, each, model.means[typical]) for each in found])
    caption = (
        "The held-out image whose latent is nearest to their mean, and what each concept that works does to "
        "it, moved by so many times its strength, which the table of concepts gives."
    )
    alt = "One face, of which each row changes one thing from left to right: " + ", ".join(names) + "."
    headings = [f"{column:g}" for column in COLUMNS]
    return Picture("Concepts", caption, alt, labelled(grid(rows), names, headings))


def strip(model: Autoencoder, name: str) -> Picture | None:
    """Up to 6 held-out images, each moved along the vector of one concept, whether it works or not."""
    for concept in concepts(model):
        if concept.name == name:
            end = f"{COLUMNS[-1] * concept.strength:g}"
            caption = (
                f"Held-out images moved along the latent direction of “{name}”, from −{end} (left) to "
                f"+{end} (right) times the concept vector; the middle column is not moved."
            )
            if not concept.works:
                caption += " It does not work: see the table."
            strips = np.stack([_strip(model, concept, start) for start in model.means[:6]])
            alt = f"Faces that from left to right more and more show “{name}”, and stay themselves."
            return Picture(f"Concept vector: {name}", caption, alt, grid(strips))
    return None


for _name in BOOK:
    register_figure(f"concept_{_name.lower()}", about=Autoencoder)(functools.partial(strip, name=_name))


def _strip(model: Autoencoder, concept: MeasuredConcept, start: np.ndarray) -> np.ndarray:
    """Returns what a latent [D], moved by each of the `COLUMNS`, is an image of: uint8 [7, H, W, C]."""
    steps = (concept.strength * COLUMNS[:, None]).astype(np.float32)
    return to_uint8(model.generate(start + steps * concept.vector))
