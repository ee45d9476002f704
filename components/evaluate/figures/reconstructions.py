"""What is left of an image after encoder and decoder."""

from latentfaces.common.pictures import pairs
from latentfaces.components.evaluate.inputs import Autoencoder
from latentfaces.components.evaluate.registry import Picture, register_figure


@register_figure("reconstructions", about=Autoencoder)
def reconstructions(model: Autoencoder) -> Picture:
    """Rows of 8 originals, each above the row of their reconstructions."""
    real = model.inputs.real
    image = pairs(real.held_out[:32], model.reconstructions[:32], 8)
    caption = (
        f"Above: the first images of the split “{real.split}”, none chosen. Below each: the same after "
        "encoder and decoder. What is shown should stay; fine detail goes first."
    )
    alt = "Pairs of an image and its reconstruction, which should be hard to tell apart."
    return Picture("Reconstructions", caption, alt, image)
