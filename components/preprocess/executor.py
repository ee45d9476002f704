"""What the component of preprocessing runs in its container."""

from __future__ import annotations

from typing import Any

from kfp import dsl


def preprocess(source: str, location: str, dataset: dsl.Output[dsl.Dataset], **options: Any) -> None:
    """Resizes images into TFRecord shards with Beam.

    Args:
        source: CelebA as distributed, a folder of images, or a zip of either; local or gs://.
        location: Data set folder, local or gs://.
        dataset: dataset.json; its metadata tells where the shards are.
        **options: those of `PreprocessConfig`.
    """
    from latentfaces.common.program import reporting
    from latentfaces.components.preprocess.preprocess import preprocess

    with reporting():
        preprocess(source, location, dataset.path, **options)
    dataset.metadata["location"] = location
