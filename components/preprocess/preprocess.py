"""The Beam job as a step of the pipeline."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from preprocessing import storage
from preprocessing.job import run

logger = logging.getLogger("latentfaces")


def preprocess(
    source: str,
    location: str,
    image_size: int,
    channels: int,
    max_rejected: float,
    beam_options: Sequence[str],
    description: str,
) -> None:
    """Runs the Beam job and copies the small `dataset.json`, which is what the pipeline passes on.

    Args:
        source: the images.
        location: the data set folder.
        image_size: height and width in pixels.
        channels: 1 or 3.
        max_rejected: share of the inputs that may be refused.
        beam_options: Beam's own options.
        description: local path for the copy of `dataset.json`.

    Raises:
        UserError: as `preprocessing.job.run`.
    """
    dataset = run(source, location, image_size, channels, max_rejected, beam_args=beam_options)
    splits = ", ".join(f"{name} {split.examples:,}" for name, split in dataset.splits.items())
    logger.info("%s: examples %s; %d refused", location, splits, dataset.rejected)
    storage.write(Path(description), storage.read(storage.resolve(location) / "dataset.json"))
