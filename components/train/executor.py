"""What the component of training runs in its container."""

from __future__ import annotations

from typing import Any

from kfp import dsl


def train(
    kind: str, dataset: dsl.Input[dsl.Dataset], location: str, model: dsl.Output[dsl.Model], **options: Any
) -> None:
    """Trains a model on a data set, going on from the newest checkpoint at the location.

    Args:
        kind: Name of the model, such as vae or gan.
        dataset: dataset.json; its metadata tells where the shards are.
        location: Model folder, local or gs://.
        model: config.json, the history and the networks.
        **options: those of the model and of `RunOptions`.
    """
    from latentfaces.common.model_folder import copy_model
    from latentfaces.common.program import reporting
    from latentfaces.components.train.run import train

    with reporting():
        train(kind, dataset.metadata["location"], location, **options)
        copy_model(kind, location, model.path)
    model.metadata["location"] = location
