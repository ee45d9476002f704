"""Training from start to end: check what is asked, start the workers, or go on where they stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import logging
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from latentfaces.common import lease, storage
from latentfaces.common.config import LAUNCHERS, RunOptions, TrainConfig
from latentfaces.common.dataset import read_dataset
from latentfaces.common.errors import RunError, UserError
from latentfaces.common.model_folder import LONGER, is_finished, read_config, refuse_other_run
from latentfaces.common.models import find_model, settle
from latentfaces.common.options import options_of, pick
from latentfaces.common.pods import PodOptions
from latentfaces.common.storage import AnyPath
from latentfaces.components.train import warm_start
from latentfaces.components.train.launch import INDEX, TOKEN, WorkerGroup
from latentfaces.components.train.launch.agent import Agent
from latentfaces.components.train.launch.tf_config import this_task

logger = logging.getLogger(__name__)


def train(model: str, dataset: str, output: str, *, init: str = "", **options: Any) -> None:
    """Trains a model; a run that was interrupted, or is to be longer, goes on from its newest checkpoint.

    Where `TF_CONFIG` is set, or `rendezvous` is given, someone else starts the workers, and this process is
    one of them; else a launcher starts them.

    Args:
        model: name of a model family, "vae" or "gan".
        dataset: a data set folder, local or `gs://`.
        output: the model folder, local or `gs://`.
        init: a model folder, local or `gs://`, whose weights training begins from; it may be a stranger's.
        **options: those of the family's `TrainConfig`, of which `preset` has no default, of `RunOptions` and
            of `PodOptions`.

    Raises:
        UserError: if something asked for is wrong, before any long work.
        RunError: if a worker failed.
        SystemExit: after SIGTERM, with status 143, after Ctrl-C, 130; where `TF_CONFIG` is set and a peer
            is lost, with 75.
    """
    task = this_task()
    run = RunOptions(**pick(RunOptions, options))
    run = dataclasses.replace(run, launcher=run.started_by)
    pods = PodOptions(**pick(PodOptions, options))
    index = task.index if task else own_index(run)
    how = options_of(RunOptions) | options_of(PodOptions)
    config = configure(model, dataset, **{key: options[key] for key in options if key not in how})
    if init and config.warm_start:
        raise UserError("--init and --warm-start exclude each other: give one of them")
    title = find_model(model).title
    run.check_batch(title, config.batch_size)
    storage.check_writable(output)
    folder = storage.resolve(output)
    data = storage.resolve(dataset)
    if not output or storage.contains(data, folder) or storage.contains(folder, data):
        raise UserError(
            f"the output {output!r} and the data set {dataset} lie in one another: choose another"
        )
    with contextlib.ExitStack() as stack:
        check: Callable[[], object] = lambda: None  # noqa: E731 - the folder may be another worker's to hold
        if not index:
            # In a bucket, one that was killed, perhaps a pod before this one, still holds it for a while.
            wait = 0.0 if isinstance(folder, Path) else 1.5 * lease.EXPIRY
            check = stack.enter_context(lease.hold(folder, wait=wait)).check
            _claim(folder, config, init)
        else:
            _await_chief(folder, config, run.rendezvous_seconds)
        if is_finished(folder, config):
            logger.info("%s in %s is trained already", title, output)
            return
        if index is None:
            importlib.import_module(LAUNCHERS[run.launcher]).launch(str(folder), run, pods, check)
        else:
            group = WorkerGroup(folder=str(folder), rendezvous=run.rendezvous, run=run)
            status = Agent(index, group, task, check).run()
            if status:
                sys.exit(status)
    logger.info("%s is in %s", title, output)


def own_index(run: RunOptions) -> int | None:
    """Returns which worker this process is where a Job or JobSet starts them; None where we start them.

    Raises:
        UserError: if a worker's environment lacks its number or the group's secret.
    """
    if not run.rendezvous:
        return None
    number = os.environ.get(INDEX, "")
    if not number.isdecimal() or not int(number) < run.workers:
        raise UserError(
            f"{INDEX} is {number[:20]!r}: with --rendezvous, the environment of each of the {run.workers} "
            f"workers has to say its number, from 0 to {run.workers - 1}"
        )
    if run.workers > 1 and not os.environ.get(TOKEN):
        raise UserError(f"{TOKEN} is not set: with --rendezvous, it has to hold a secret of the group's own")
    return int(number)


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
    place = storage.resolve(folder)
    dataset = read_dataset(folder)
    config = settle(model, options, dataset.image_shape)
    examples = dataset.splits["train"].examples
    if not examples:
        raise UserError(f"data set {folder} has no examples in its train split: preprocess more images")
    return dataclasses.replace(
        config,
        dataset=str(place.absolute() if isinstance(place, Path) else place),
        dataset_digest=dataset.digest,
        examples=examples,
        steps=config.steps or _steps_of_epochs(config, examples),
    )


def _steps_of_epochs(config: TrainConfig, examples: int) -> int:
    return math.ceil(config.epochs * examples / config.batch_size)


def _await_chief(folder: AnyPath, config: TrainConfig, seconds: float) -> None:
    """Waits until the chief has claimed the folder, and makes sure that it is for the same run."""
    deadline = time.monotonic() + seconds
    file = folder / "config.json"
    while not file.exists() or read_config(folder).steps < config.steps:  # as a shorter run left it
        if time.monotonic() > deadline:
            raise RunError(
                f"the chief wrote no such config.json to {folder} within {seconds:.0f} s: check its log"
            )
        time.sleep(0.5)
    refuse_other_run(folder, config, ("dataset", "epochs"))  # of as many steps


def _claim(folder: AnyPath, config: TrainConfig, init: str = "") -> None:
    """Writes `config.json`, or makes sure that what lies there is an earlier part of the same run.

    The data set may have moved since: that it is the same is known by its digest. A run may become longer.
    """
    if (folder / "config.json").exists():
        refuse_other_run(folder, config, ("dataset", "epochs", "steps"))
        earlier = read_config(folder)
        if init and warm_start.located(init) != earlier.initial_run:
            raise UserError(
                f"{folder} holds a run that did not begin from {init}: choose another folder, or remove that "
                "one"
            )
        _go_on(folder, earlier, config)
        config = dataclasses.replace(
            config, initial_run=earlier.initial_run, initial_digest=earlier.initial_digest
        )
    elif any(not name.startswith(".") for name in storage.list_files(folder)):  # what was killed left those
        raise UserError(f"{folder} holds files and no config.json, so no run of ours: choose an empty folder")
    elif init:
        config = warm_start.begin_from(init, config)
    elif config.warm_start:
        config = warm_start.choose(config, folder)
    storage.write(folder / "config.json", config.to_json().encode())


def _go_on(folder: AnyPath, earlier: TrainConfig, config: TrainConfig) -> None:
    """Makes sure that a run can go on, as long as it was or longer; what it made before stays meanwhile.

    Raises:
        UserError: if it would be shorter, or what is trained has no checkpoint to go on from.
    """
    before, now = (_length(each, config.examples) for each in (earlier, config))
    if config.steps < earlier.steps:
        raise UserError(
            f"{folder} holds a run of {before}, and fewer are asked for, {now}: ask for as many or more, or "
            "choose another folder"
        )
    is_longer = config.steps > earlier.steps
    if (folder / LONGER).exists() or (is_longer and is_finished(folder, earlier)):
        checkpoints = folder / "checkpoints"
        if not any(name.endswith("/done") for name in storage.list_files(checkpoints)):
            raise UserError(
                f"{folder} holds a trained model, and no checkpoint from which it could be trained for "
                f"longer: choose another folder, and begin there from its weights, with --init {folder}"
            )
        said = "A longer training has begun: until it is finished, the networks are the shorter one's.\n"
        storage.write(folder / LONGER, said.encode())  # before `config.json` says that they should be others
    if is_longer:
        logger.info(
            "the %s goes on: its run of %s is now one of %s%s",
            find_model(config.model).title,
            before,
            now,
            "; its learning rate, which falls along a run, jumps to what the longer one has there"
            if config.learning_rate_decay
            else "",
        )


def _length(config: TrainConfig, examples: int) -> str:
    """How long a run is, as the user counted."""
    if config.steps == _steps_of_epochs(config, examples):
        return f"{config.epochs} epoch{'s' * (config.epochs > 1)}"
    return f"{config.steps} step{'s' * (config.steps > 1)}"
