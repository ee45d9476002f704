"""Training from start to end: check what is asked, start the workers, or go on where they stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import logging
import math
import os
import sys
from pathlib import Path
from typing import Any

from latentfaces.common import lease, storage
from latentfaces.common.config import LAUNCHERS, RunOptions, TrainConfig
from latentfaces.common.dataset import read_dataset
from latentfaces.common.errors import UserError
from latentfaces.common.model_folder import is_finished, read_config
from latentfaces.common.models import differences, find_model, settle
from latentfaces.common.options import options_of, pick
from latentfaces.common.storage import AnyPath
from latentfaces.components.train.launch import WorkerGroup
from latentfaces.components.train.launch.agent import Agent
from latentfaces.components.train.launch.tf_config import task_of

logger = logging.getLogger(__name__)


def train(model: str, dataset: str, output: str, **options: Any) -> None:
    """Trains a model; a run that was interrupted goes on from its newest checkpoint.

    Where `TF_CONFIG` is set this process is the worker that it names; else a launcher starts the workers.

    Args:
        model: name of a model family, "vae" or "gan".
        dataset: a data set folder, local or `gs://`.
        output: the model folder, local or `gs://`.
        **options: those of the family's `TrainConfig`, of which `preset` has no default, and of `RunOptions`.

    Raises:
        UserError: if something asked for is wrong, before any long work.
        RunError: if a worker failed.
        SystemExit: after SIGTERM, with status 143, after Ctrl-C, 130; where `TF_CONFIG` is set and a peer
            is lost, with 75.
    """
    task = task_of(os.environ["TF_CONFIG"]) if "TF_CONFIG" in os.environ else None
    run = RunOptions(**pick(RunOptions, options))
    config = configure(
        model, dataset, **{key: options[key] for key in options if key not in options_of(RunOptions)}
    )
    title = find_model(model).title
    run.check_batch(title, config.batch_size)
    storage.check_writable(output)
    folder = storage.resolve(output)
    with contextlib.ExitStack() as stack:
        check = _nothing
        if task is None or task.is_chief:
            # In a bucket, one that was killed, perhaps a pod before this one, still holds it for a while.
            wait = 0.0 if isinstance(folder, Path) else 1.5 * lease.EXPIRY
            check = stack.enter_context(lease.hold(folder, wait=wait)).check
        _claim(folder, config)
        if is_finished(folder, config):
            logger.info("%s in %s is trained already", title, output)
            return
        if task:
            group = WorkerGroup(folder=str(folder), rendezvous="", run=run)
            status = Agent(task.index, group, task, check).run()
            if status:
                sys.exit(status)
        else:
            importlib.import_module(LAUNCHERS[run.launcher]).launch(str(folder), run, check)
    logger.info("%s is in %s", title, output)


def _nothing() -> None:
    """Checks nothing: the folder is another worker's to hold."""


def configure(model: str, folder: str, **options: Any) -> TrainConfig:
    """Returns what is trained: the preset, what was asked instead, and what the data set is.

    Args:
        model: name of a model family.
        folder: the data set's, local or `gs://`.
        **options: the options of the family's `TrainConfig`.

    Raises:
        UserError: if an option is wrong, the data set does not exist, it has no train split or its images
            have a size that the preset's networks can't make.
    """
    settle(model, options, (0, 0, 3))  # what is wrong whatever the data set
    dataset = read_dataset(folder)
    config = settle(model, options, dataset.image_shape)
    examples = dataset.splits["train"].examples
    if not examples:
        raise UserError(f"data set {folder} has no examples in its train split: preprocess more images")
    return dataclasses.replace(
        config,
        dataset=str(folder),
        dataset_digest=dataset.digest,
        steps=config.steps or math.ceil(config.epochs * examples / config.batch_size),
    )


def _claim(folder: AnyPath, config: TrainConfig) -> None:
    """Writes `config.json`, or makes sure that what lies there is an earlier part of the same run."""
    file = folder / "config.json"
    if not file.exists():
        storage.write(file, config.to_json().encode())
        return
    earlier = read_config(folder)
    for name in differences(earlier, config):
        raise UserError(
            f"{folder} holds a run whose {name} is {getattr(earlier, name, None)}, and "
            f"{getattr(config, name, None)} is asked for: choose another --output, or remove that folder"
        )
