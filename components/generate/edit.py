"""Photographs changed by concept vectors: the book's section 12.4.2 on one's own pictures."""

from __future__ import annotations

import itertools
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from latentfaces.common import storage
from latentfaces.common.errors import RunError, UserError
from latentfaces.common.pictures import grid, picture, png
from latentfaces.common.storage import AnyPath
from latentfaces.components.generate.trained import load

_OTHER_PICTURES = {".gif", ".jpeg", ".jpg", ".webp"}

logger = logging.getLogger(__name__)


def edit(
    photographs: Sequence[str], folder: str, strengths: Mapping[str, float], output: str, concepts: str = ""
) -> None:
    """Writes photographs that are moved along concept vectors.

    Args:
        photographs: image files, local or `gs://`; they are cropped and resized as the training data were.
        folder: a VAE's model folder, local or `gs://`.
        strengths: how many times each concept's vector is added, such as {"Smiling": 2}.
        output: local or `gs://`. What ends in ".png" becomes one picture with a row for each photograph: as
            the model sees it, its reconstruction, and that with the change. Any other is a folder for the
            changed images, under the photographs' names, ".png" at their ends.
        concepts: as `latentfaces.load`.

    Raises:
        UserError: before anything is written, if the model, a concept or the output can't be used.
        RunError: at the end, if some photographs could not be read; the others are written.
    """
    place = storage.resolve(output)
    is_strip = place.suffix.lower() == ".png"
    storage.check_writable(output, is_file=is_strip)
    if place.suffix.lower() in _OTHER_PICTURES:
        raise UserError(f"{output} can't be written: one picture of all is a .png, anything else a folder")
    paths = [storage.resolve(photograph) for photograph in photographs]
    targets = [place if is_strip else place / f"{path.stem}.png" for path in paths]
    target, times = Counter(targets).most_common(1)[0]
    if times > 1 and not is_strip:
        raise UserError(f"two photographs would become {target}: edit them into folders of their own")
    for path, target in itertools.product(paths, set(targets)):
        if _is_same(path, target):
            raise UserError(f"the photograph {path} would be replaced: choose another output")
    model = load(folder, concepts)
    direction = model.direction(strengths)
    faces = {}  # by number
    for number, photograph in enumerate(photographs):
        try:
            faces[number] = model.read(photograph)
        except UserError as error:
            logger.warning("%s", error)
    if faces:
        images = np.stack(list(faces.values()))
        points = model.encode(images)
        edited = model.decode(points + direction)
        if is_strip:
            storage.write(place, png(grid(np.stack([images, model.decode(points), edited], axis=1))))
        else:
            for number, image in zip(faces, edited, strict=True):
                storage.write(targets[number], png(picture(image)))
    if failed := len(photographs) - len(faces):
        raise RunError(f"{failed} of {len(photographs)} photographs could not be used: see the lines above")


def _is_same(path: AnyPath, target: AnyPath) -> bool:
    if isinstance(path, Path) and isinstance(target, Path):
        return path.exists() and target.exists() and os.path.samefile(path, target)
    return str(path) == str(target)
