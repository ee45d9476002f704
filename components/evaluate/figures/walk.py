"""A walk through latent space that ends where it began."""

import numpy as np

from latentfaces.common.pictures import grid, in_rows
from latentfaces.components.evaluate import latents
from latentfaces.components.evaluate.inputs import TrainedModel
from latentfaces.components.evaluate.registry import Animation, register_figure

COLUMNS, ROWS = 4, 2
STATIONS, FRAMES = 4, 48
MILLISECONDS = 80
_LARGEST = 400  # pixels of a frame's side


@register_figure("{model}_walk", about=TrainedModel)
def walk(model: TrainedModel) -> Animation:
    """8 images, each on a round trip through 4 landmarks of its own."""
    trips = COLUMNS * ROWS
    stations = np.resize(model.landmarks, (trips, STATIONS, model.latent_dim)).swapaxes(0, 1)
    frames = []
    for points in latents.round_trip(stations, FRAMES):  # one by one: together, large images would take GiBs
        frame = grid(in_rows(model.generate(points), COLUMNS))
        frame.thumbnail((_LARGEST, _LARGEST))
        frames.append(frame)
    caption = (
        f"{trips} walks through latent space at once, each by spherical interpolation from one "
        f"{model.landmark_name} to the next, {STATIONS} in all, and back to the first. Every frame should be "
        "as good as the others, and nothing should jump."
    )
    alt = f"{trips} images that change smoothly into others, again and again."
    return Animation(f"{model.title}: a walk", caption, alt, frames[0], frames, MILLISECONDS)
