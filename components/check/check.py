"""What can be checked before any long work: options, and the places that a run reads from and writes to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from latentfaces.common import storage
from latentfaces.common.config import RunOptions
from latentfaces.common.errors import UserError
from latentfaces.common.models import MODELS, find_model, joint_options, settle
from latentfaces.common.options import pick
from latentfaces.preprocessing.options import PreprocessConfig


def check_locations(source: str, *outputs: str) -> None:
    """Checks that the source exists and that outputs can be made.

    Args:
        source: a folder, a zip file or an image, local or `gs://`.
        *outputs: folders, local or `gs://`; empty strings are passed over.

    Raises:
        UserError: if the source is missing, a bucket does not exist or a local folder can't be written.
    """
    path = storage.resolve(source)
    if not path.exists():
        raise UserError(f"the source {source} does not exist: give a folder or a zip file of images")
    for output in filter(None, outputs):
        storage.check_writable(output)


def check_options(options: Mapping[str, Any]) -> RunOptions:
    """Checks the options of all steps of a pipeline, and returns how models are trained.

    Args:
        options: those of `PreprocessConfig`, of all models (`joint_parameters`) and of `RunOptions`.

    Raises:
        UserError: if one is wrong, or they don't go together.
    """
    preprocess = PreprocessConfig(**pick(PreprocessConfig, options))
    run = RunOptions(**pick(RunOptions, options))
    shape = (preprocess.image_size, preprocess.image_size, preprocess.channels)
    for name in MODELS:
        config = settle(name, joint_options(name, options), shape)
        run.check_batch(find_model(name).title, config.batch_size)
    return run
