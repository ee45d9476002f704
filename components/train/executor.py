"""What the component of training runs in its container."""

from __future__ import annotations

from typing import Any

from kfp import dsl


def train(
    kind: str,
    dataset: dsl.Input[dsl.Dataset],
    root: str,
    run_id: str,
    model: dsl.Output[dsl.Model],
    **options: Any,
) -> None:
    """Trains a model on a data set, going on from the newest checkpoint of the same run.

    Args:
        kind: Name of the model, such as vae or gan.
        dataset: dataset.json; its metadata tells where the shards are.
        root: The pipeline's folder, local or gs://.
        run_id: The run.
        model: config.json, the history and the networks.
        **options: those of the model, of `RunOptions` and of `PodOptions`.
    """
    from latentfaces.common.model_folder import copy_model
    from latentfaces.common.program import reporting
    from latentfaces.common.promoted import model_folder
    from latentfaces.components.train.run import train

    with reporting():
        location = model_folder(root, run_id, kind)
        train(kind, dataset.metadata["location"], location, **options)
        copy_model(location, model.path)
    model.metadata["location"] = location
