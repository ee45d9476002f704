"""The Beam job as a step of the pipeline."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from latentfaces.common import storage
from latentfaces.preprocessing.job import run

logger = logging.getLogger(__name__)


def preprocess(source: str, location: str, copy: str, **options: Any) -> None:
    """Runs the Beam job and copies the small `dataset.json`, which is what the pipeline passes on.

    Args:
        source: the images.
        location: the data set folder.
        copy: local path for the copy of `dataset.json`.
        **options: those of `PreprocessConfig`.

    Raises:
        UserError: as `preprocessing.job.run`.
    """
    dataset = run(source, location, **options)
    splits = ", ".join(f"{name} {split.examples:,}" for name, split in dataset.splits.items())
    logger.info("%s: examples %s; %d refused", location, splits, dataset.rejected)
    storage.write(Path(copy), storage.read(storage.resolve(location) / "dataset.json"))
