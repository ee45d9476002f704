"""Images from a trained generator, each from a seed of its own."""

from __future__ import annotations

import numpy as np
from PIL import Image

from latentfaces.common import storage
from latentfaces.common.errors import UserError
from latentfaces.common.images import to_uint8
from latentfaces.common.models import find_model
from latentfaces.common.pictures import png
from latentfaces.common.program import import_tensorflow
from latentfaces.components.evaluate import latents

_AT_ONCE = 16  # images; a short batch is filled up, since its size may change the last bit of a pixel


def generate(model: str, folder: str, count: int, seed: int, output: str) -> None:
    """Writes images of a trained model as PNG files, named after their seeds: "000007.png".

    An image follows from the model and its own seed, `seed` for the first one and so on, whatever others are
    made with it.

    Args:
        model: name of the model family.
        folder: the model folder, local or `gs://`.
        count: how many images.
        seed: of the first.
        output: the folder to write to, local or `gs://`; images of the same names are replaced.

    Raises:
        UserError: if there is no such model, it can't be loaded, or the output can't be written.
    """
    family = find_model(model)
    storage.check_writable(output)
    import_tensorflow()  # which sets up Keras, and so precedes what imports it
    from latentfaces.components.evaluate.models import load_network, read_settings

    try:
        height, width, channels = read_settings(folder, model, None)["image_shape"]
    except UserError as error:  # whose advice is that for an evaluation
        raise UserError(str(error).replace("give it as --", "give --model ")) from None
    if channels not in (1, 3):
        raise UserError(f"the model '{folder}' makes images of {channels} channels: give one with 1 or 3")
    file = f"{family.generator}.keras"
    network = load_network(folder, file, takes=(None,), gives=(height, width, channels))
    place = storage.resolve(output)
    for start in range(seed, seed + count, _AT_ONCE):
        seeds = range(start, start + _AT_ONCE)
        points = [latents.sample(1, network.input_shape[0], each) for each in seeds]
        images = to_uint8(network(np.concatenate(points)))
        for each, image in zip(seeds, images, strict=True):
            if each < seed + count:
                picture = Image.fromarray(image[..., 0] if channels == 1 else image)
                storage.write(place / f"{each:06d}.png", png(picture))
