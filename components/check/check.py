"""What can be checked before any long work: options, and the places that a run reads from and writes to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentfaces.common import storage
from latentfaces.common.config import RunOptions, TrainConfig
from latentfaces.common.errors import UserError
from latentfaces.common.model_folder import read_config
from latentfaces.common.models import MODELS, differences, find_model, joint_options, settle
from latentfaces.common.options import pick
from latentfaces.preprocessing.options import PreprocessConfig


def check_locations(source: str, *outputs: str) -> None:
    """Checks that the source exists and that outputs can be made.

    Args:
        source: a folder, a zip file or an image, local or `gs://`.
        *outputs: folders, local or `gs://`; empty strings are passed over.

    Raises:
        UserError: if the source is missing, a bucket does not exist or a local folder can't be written; in
            a pod also if a local folder is the pod's own, which no other pod sees.
    """
    if not storage.resolve(source).exists():
        raise UserError(f"the source {source} does not exist: give a folder or a zip file of images")
    for output in filter(None, outputs):
        folder = storage.resolve(output)
        if "KUBERNETES_SERVICE_HOST" in os.environ and isinstance(folder, Path):
            if not any(place.is_mount() for place in [folder, *folder.absolute().parents][:-1]):
                raise UserError(
                    f"{output} lies on this pod's own disk, which no other step sees: "
                    "give a gs:// location, or a folder on a volume that all pods mount"
                )
        storage.check_writable(output)


def check_options(options: Mapping[str, Any]) -> RunOptions:
    """Checks the options of all steps of a pipeline, and returns how models are trained.

    Args:
        options: those of `PreprocessConfig`, of all models (`joint_parameters`) and of `RunOptions`.

    Raises:
        UserError: if one is wrong, or they don't go together.
    """
    run = RunOptions(**pick(RunOptions, options))
    for name, config in _configs(options).items():
        run.check_batch(find_model(name).title, config.batch_size)
    return run


def check_earlier(root: str, options: Mapping[str, Any]) -> None:
    """Compares what is asked for with the runs that lie in the root folder of the pipeline.

    Args:
        root: the folder, local or `gs://`.
        options: as for `check_options`.

    Raises:
        UserError: if a model folder in it holds another run.
    """
    for name, config in _configs(options).items():
        folder = storage.resolve(root) / name
        if not (folder / "config.json").exists():
            continue
        earlier = read_config(folder)
        of_the_data = {"dataset_digest", *(() if config.steps else ("steps",))}
        for field in differences(earlier, config):
            if field not in of_the_data:
                raise UserError(
                    f"{folder} holds a run whose {field} is {getattr(earlier, field, None)}, and "
                    f"{getattr(config, field, None)} is asked for: choose another root, or remove that folder"
                )


def _configs(options: Mapping[str, Any]) -> dict[str, TrainConfig]:
    """What is trained, by model, as far as it is known without a data set."""
    preprocess = PreprocessConfig(**pick(PreprocessConfig, options))
    shape = (preprocess.image_size, preprocess.image_size, preprocess.channels)
    return {name: settle(name, joint_options(name, options), shape) for name in MODELS}
