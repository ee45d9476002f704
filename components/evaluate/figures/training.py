"""How a model's samples grew while it was trained."""

from PIL import Image

from latentfaces.common import storage
from latentfaces.common.model_folder import read_samples
from latentfaces.common.pictures import PAPER, written
from latentfaces.components.evaluate.inputs import TrainedModel
from latentfaces.components.evaluate.registry import Animation, register_figure

MILLISECONDS = 200
HELD = 10  # times as long, for which the last frame is shown

_LINE = 32  # pixels of the text above


@register_figure("{model}_training", about=TrainedModel)
def training(model: TrainedModel) -> Animation | None:
    """The upper half of the pictures in `samples/`, one epoch after another; None where there are not two."""
    found, left_out = read_samples(storage.resolve(model.folder))
    if len(found) < 2:
        return None
    frames = [_frame(picture, f"epoch {epoch}") for epoch, picture in found.items()]
    caption = (
        f"Samples of the same noise after {len(found)} of the epochs from {min(found)} to {max(found)}: "
        "every place shows one image as it grew. It should come early, and then change less and less. The "
        "last are of what was saved: averaged weights, or a prior that is learned last, give other images."
    )
    if left_out:
        caption += f" {left_out} more could not be read as pictures of one size."
    alt = "Images that begin as blurs or noise and become clearer from epoch to epoch."
    return Animation(
        f"{model.title}: training",
        caption,
        alt,
        frames[-1],
        [*frames, *[frames[-1]] * (HELD - 1)],
        MILLISECONDS,
    )


def _frame(picture: Image.Image, text: str) -> Image.Image:
    """Puts a line of text above the upper half of a picture."""
    frame = Image.new("RGB", (picture.width, _LINE + picture.height // 2), PAPER)
    frame.paste(written(text, picture.width, _LINE, "l"))
    frame.paste(picture, (0, _LINE), picture)
    return frame
