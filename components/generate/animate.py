"""A walk through latent space that closes on itself, as an animation."""

from __future__ import annotations

import numpy as np

from latentfaces.common import storage
from latentfaces.common.errors import UserError
from latentfaces.common.pictures import animated, grid
from latentfaces.components.evaluate import latents
from latentfaces.components.generate.trained import load

_STATIONS = 6  # random faces that a walk comes by
_MILLISECONDS = 50  # for each frame
_KINDS = ("webp", "gif")


def animate(folder: str, output: str, frames: int, seed: int, start: str = "", end: str = "") -> None:
    """Writes an animation of the images on a walk, which is shown again and again without a jump.

    It goes by the images that `generate` makes of `seed` and the next numbers, or from one photograph to
    another and back.

    Args:
        folder: the model folder, local or `gs://`.
        output: a file that ends in ".webp" or ".gif", local or `gs://`.
        frames: how many images.
        seed: of the first random image.
        start: a photograph, local or `gs://`; "" for random images.
        end: another one; both or neither are given.

    Raises:
        UserError: if the model, a photograph or the output can't be used.
    """
    place = storage.resolve(output)
    kind = place.suffix.lower().removeprefix(".")
    if kind not in _KINDS:
        raise UserError(f"the output {output} is no animation's name: end it in .{' or .'.join(_KINDS)}")
    if bool(start) != bool(end):
        raise UserError("a walk between photographs needs two of them: give --from and --to")
    storage.check_writable(output, is_file=True)
    model = load(folder)
    if start:
        stations = model.encode(np.stack([model.read(start), model.read(end)]))
    else:
        stations = model.sample_latents(_STATIONS, seed)
    images = model.decode(latents.round_trip(stations[:, None], frames)[:, 0])
    pictures = [grid(image[None, None]).convert("RGB") for image in images]
    storage.write(place, animated(pictures, kind, _MILLISECONDS))
