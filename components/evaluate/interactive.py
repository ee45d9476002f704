"""What the report needs for the trained models to work in it: networks, faces to start from, concepts."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from PIL import Image

from latentfaces.common.images import to_uint8
from latentfaces.common.pictures import picture, webp
from latentfaces.components.evaluate.concepts import working
from latentfaces.components.evaluate.inputs import Autoencoder, Inputs, TrainedModel
from latentfaces.components.evaluate.models import Network
from latentfaces.components.evaluate.steps import Program, UnsupportedError, export, half

FACES = 24  # held-out images whose latents the page holds
MOST = 1e9  # multiplications, which take a browser about a second
SLOW = 1e8  # above it, frames that were drawn beforehand fill the time until the browser's own is there
REACH = 1.5  # times a concept's strength: how far its slider goes to either side

# Of the frames: faces, concepts, and pixels of a side, at most.
_FRAMES, _CONCEPTS, _SIDE = 8, 8, 96


def interactive(inputs: Inputs, room: int) -> list[dict[str, Any]]:
    """Returns what the page has to hold of each model, ready for JSON.

    Args:
        inputs: what is evaluated.
        room: bytes that all of it may add to the page. The networks that make images come first, encoders
            after them; one that does not fit is left out.

    Returns:
        For each model `name`, `title`, `shape` and `dimensions` of its latents; `generator` and `encoder`,
        as `Program.as_json`, where the page can run them; `notes`, why not; `faces`, latents of held-out
        images; `concepts`, each with `name`, `vector` and `reach`; and `frames`, a sheet of what its
        sliders show, where the browser would take long, or can't.
    """
    found = []
    for model in inputs.models:
        entry, is_slow = _start(model), True
        try:
            program = _program(model.generator, room)
            room -= program.bytes
            entry["generator"], is_slow = program.as_json(), program.multiplications > SLOW
        except UnsupportedError as error:
            entry["notes"].append(
                f"The {model.title}'s {model.generator_name} does not run in this page, since {error}."
            )
        if is_slow and isinstance(model, Autoencoder) and entry["concepts"]:
            entry["frames"] = _frames(model)
            room -= len(entry["frames"]["sheet"])
        found.append(entry)
    for model, entry in zip(inputs.models, found, strict=True):
        if isinstance(model, Autoencoder) and "generator" in entry:
            try:
                program = _program(model.encoder, room)
                room -= program.bytes
                entry["encoder"] = program.as_json()
            except UnsupportedError as error:
                entry["notes"].append(f"A photograph of yours can't be tried here, since {error}.")
    return found


def _program(network: Network, room: int) -> Program:
    """Returns a network as the page runs it; raises `UnsupportedError` if it can't, or is too large."""
    program = export(network.model)
    if (work := program.multiplications) > MOST:
        raise UnsupportedError(f"it takes {work / 1e9:.1f} billion multiplications an image")
    if program.bytes > room:
        raise UnsupportedError(f"the network's {program.bytes / 1e6:.1f} MB would make the page too large")
    return program


def _start(model: TrainedModel) -> dict[str, Any]:
    start: dict[str, Any] = {
        "name": model.name,
        "title": model.title,
        "shape": list(model.inputs.dataset.image_shape),
        "dimensions": model.latent_dim,
        "notes": [],
        "faces": "",
        "concepts": [],
    }
    if isinstance(model, Autoencoder):
        start["faces"] = half(model.means[:FACES])
        start["concepts"] = [
            {"name": each.title, "vector": half(each.vector), "reach": REACH * each.strength}
            for each in working(model)
        ]
    return start


def _frames(model: Autoencoder) -> dict[str, Any]:
    """Draws a sheet: a row for each face, itself and then both ends of each concept's slider.

    Returns:
        `sheet`, the picture's data URI, `size`, [height, width] of one frame, and how many `rows` there are.
    """
    height, width, _ = model.inputs.dataset.image_shape
    factor = min(1.0, _SIDE / max(height, width))
    size = max(1, round(height * factor)), max(1, round(width * factor))
    moves = [np.zeros(model.latent_dim)]
    for each in working(model)[:_CONCEPTS]:
        moves += [sign * REACH * each.strength * each.vector for sign in (-1, 1)]
    rows = len(model.means[:_FRAMES])
    sheet = Image.new("RGB", (size[1] * len(moves), size[0] * rows))
    for row, face in enumerate(model.means[:_FRAMES]):
        images = to_uint8(model.generate((face + np.stack(moves)).astype(np.float32)))
        for column, image in enumerate(images):
            sheet.paste(picture(image).resize(size[::-1]), (column * size[1], row * size[0]))
    return {"sheet": data_uri(webp(sheet, 80)), "size": size, "rows": rows}


def data_uri(content: bytes) -> str:
    """Returns a WebP file as the page holds it."""
    return f"data:image/webp;base64,{base64.b64encode(content).decode()}"
