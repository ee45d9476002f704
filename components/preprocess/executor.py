"""What the component of preprocessing runs in its container."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from kfp import dsl

logger = logging.getLogger(__name__)


def preprocess(source: str, location: str, dataset: dsl.Output[dsl.Dataset], **options: Any) -> None:
    """Resizes images into TFRecord shards with Beam.

    Args:
        source: CelebA as distributed, a folder of images, or a zip of either; local or gs://.
        location: Data set folder, local or gs://.
        dataset: dataset.json; its metadata tells where the shards are.
        **options: those of `PreprocessConfig`.
    """
    from latentfaces.common import storage
    from latentfaces.common.program import reporting
    from latentfaces.preprocessing.job import run

    with reporting():
        made = run(source, location, **options)
        splits = ", ".join(f"{name} {split.examples:,}" for name, split in made.splits.items())
        logger.info("%s: examples %s; %d refused", location, splits, made.rejected)
        # What the pipeline passes on is small; the shards are read where they are.
        storage.write(Path(dataset.path), storage.read(storage.resolve(location) / "dataset.json"))
    dataset.metadata["location"] = location
