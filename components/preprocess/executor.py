"""What the component of preprocessing runs in its container."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from kfp import dsl

logger = logging.getLogger(__name__)


def preprocess(source: str, root: str, run_id: str, dataset: dsl.Output[dsl.Dataset], **options: Any) -> None:
    """Resizes images into TFRecord shards with Beam, unless the root has the same data set already.

    Args:
        source: CelebA as distributed, or images in a folder, an archive or arrays; local or gs://.
        root: The pipeline's folder, local or gs://.
        run_id: The run.
        dataset: dataset.json; its metadata tells where the shards are.
        **options: those of `PreprocessConfig`.
    """
    from latentfaces.common import storage
    from latentfaces.common.dataset import find_dataset
    from latentfaces.common.program import reporting
    from latentfaces.common.root import dataset_folder, start_run
    from latentfaces.preprocessing.fingerprint import fingerprint
    from latentfaces.preprocessing.options import PreprocessConfig

    with reporting():
        made_from = fingerprint(source, PreprocessConfig(**options))
        start_run(root, run_id, made_from)
        location = dataset_folder(root, made_from)
        made = find_dataset(location)
        if made:
            logger.info("the source is as it was: its images are resized already")
        else:
            from latentfaces.preprocessing.job import run

            made = run(source, location, **options)
        splits = ", ".join(f"{name} {split.examples:,}" for name, split in made.splits.items())
        logger.info("%s: examples %s; %d refused", location, splits, made.rejected)
        # What the pipeline passes on is small; the shards are read where they are.
        storage.write(Path(dataset.path), storage.read(storage.resolve(location) / "dataset.json"))
    dataset.metadata["location"] = location
