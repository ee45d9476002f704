"""The two concepts whose vectors span a plane of a latent space of many dimensions."""

from latentfaces.components.evaluate.concepts import Concept, concepts
from latentfaces.components.evaluate.inputs import Autoencoder

_FIRST = ("Smiling", "Eyeglasses", "Male")  # the book's


def two_concepts(model: Autoencoder) -> tuple[Concept, Concept] | None:
    """Returns two concepts that work, the book's first; None where there are fewer."""
    found = {concept.name: concept for concept in concepts(model) if concept.works}
    names = sorted(found, key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))
    return (found[names[0]], found[names[1]]) if len(names) > 1 else None
