"""What the models learned from."""

from latentfaces.common.pictures import grid, in_rows
from latentfaces.components.evaluate.inputs import RealImages
from latentfaces.components.evaluate.registry import Picture, register_figure


@register_figure("real", about=RealImages)
def real(images: RealImages) -> Picture:
    """Held-out images, 8 a row."""
    caption = (
        f"The first images of the data set's split “{images.split}”, none chosen: what the models should "
        "learn to draw."
    )
    alt = "A grid of real images, to compare the generated ones with."
    return Picture("Real images", caption, alt, grid(in_rows(images.held_out[:64], 8)))
