"""What can be checked before any long work: options, and the places that a run reads from and writes to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentfaces.common import storage
from latentfaces.common.config import RunOptions
from latentfaces.common.errors import UserError
from latentfaces.common.model_folder import refuse_other_run
from latentfaces.common.models import MODELS, find_model, joint_options, settle
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


def check_options(options: Mapping[str, Any], root: str = "") -> RunOptions:
    """Checks the options of all components of a pipeline, and returns how models are trained.

    Args:
        options: those of `PreprocessConfig`, of all models (`joint_parameters`) and of `RunOptions`.
        root: the pipeline's folder, local or `gs://`, whose earlier runs have to be the same; "" for none.

    Raises:
        UserError: if one is wrong, they don't go together, or a model folder in the root holds another run.
    """
    preprocess = PreprocessConfig(**pick(PreprocessConfig, options))
    shape = (preprocess.image_size, preprocess.image_size, preprocess.channels)
    run = RunOptions(**pick(RunOptions, options))
    for name in MODELS:
        config = settle(name, joint_options(name, options), shape)
        run.check_batch(find_model(name).title, config.batch_size)
        if root and (storage.resolve(root) / name / "config.json").exists():
            of_the_data = {"dataset", "dataset_digest", *(() if config.steps else ("steps",))}
            refuse_other_run(storage.resolve(root) / name, config, of_the_data)
    return run
