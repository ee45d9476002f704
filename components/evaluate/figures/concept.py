"""What a concept vector does to images."""

from latentfaces.common.pictures import grid
from latentfaces.components.evaluate.concepts import CONCEPT, STEPS, concept_images
from latentfaces.components.evaluate.inputs import Autoencoder
from latentfaces.components.evaluate.registry import Picture, register_figure


@register_figure(f"concept_{CONCEPT.lower()}", about=Autoencoder)
def concept(model: Autoencoder) -> Picture | None:
    """Up to 6 held-out images, each moved along the vector from left to right."""
    images = concept_images(model)
    if images is None:
        return None
    caption = (
        f"Held-out images moved along the latent direction of “{CONCEPT}”, from −{-STEPS[0]:g} (left) "
        f"to +{STEPS[-1]:g} (right) times the concept vector; the middle column is not moved."
    )
    alt = f"Faces that from left to right more and more show “{CONCEPT}”, and stay themselves."
    return Picture(f"Concept vector: {CONCEPT}", caption, alt, grid(images[:6]))
