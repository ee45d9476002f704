"""Training from start to end: check what is asked, start the workers, or go on where they stopped."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
from pathlib import Path

from cloudpathlib import CloudPath

from components.check.check import check_output
from components.step import import_tensorflow
from components.train.config import TrainConfig, check_sides, find_preset
from components.train.gang import Gang, run_gang
from preprocessing import storage
from preprocessing.dataset import read_dataset
from preprocessing.errors import UserError

logger = logging.getLogger("latentfaces")

NETWORKS = {"vae": ("encoder", "decoder"), "gan": ("generator", "discriminator")}
PRECISIONS = ("float32", "float64", "mixed_bfloat16", "mixed_float16")


def train(
    model: str,
    dataset: str,
    output: str,
    *,
    preset: str,
    epochs: int = 0,
    steps: int = 0,
    batch_size: int = 0,
    workers: int = 1,
    gpus_per_worker: int = 0,
    seed: int = 0,
    precision: str = "float32",
    xla: bool = False,
    rebalance: bool = False,
    log_steps: int = 50,
    checkpoint_steps: int = 1000,
    checkpoint_minutes: float = 0.0,
    max_restarts: int = 3,
    rendezvous_seconds: float = 600.0,
    stuck_seconds: float = 300.0,
) -> None:
    """Trains a model; a run that was interrupted goes on from its newest checkpoint.

    Where `TF_CONFIG` is set this process is the worker that it names; else `workers` processes are started.

    Args:
        model: "vae" or "gan".
        dataset: a data set folder, local or `gs://`.
        output: the model folder, local or `gs://`.
        preset: a name in `config.PRESETS`.
        epochs: passes over the train split; 0 for the preset's.
        steps: training steps instead of epochs, if not 0.
        batch_size: global batch size; 0 for the preset's.
        workers: worker processes on this machine.
        gpus_per_worker: GPUs that each worker uses; 0 shares all that are there.
        seed: of all random numbers.
        precision: one of `PRECISIONS`.
        xla: compile the computation of gradients with XLA.
        rebalance: weaken a discriminator that overpowers the generator.
        log_steps: steps between two rows of `history.csv`.
        checkpoint_steps: steps between two checkpoints.
        checkpoint_minutes: minutes after which a checkpoint is written in between; 0 for never.
        max_restarts: how often the workers go on from the last checkpoint when one is lost.
        rendezvous_seconds: how long the workers wait for each other.
        stuck_seconds: without a step after which a worker counts as lost.

    Raises:
        UserError: if something asked for is wrong, before any long work.
        StepError: if a worker failed.
        SystemExit: after SIGTERM, with status 143; where `TF_CONFIG` is set and a peer is lost, with 75.
    """
    check_training(model, preset, batch_size, workers, gpus_per_worker)
    if min(epochs, steps) < 0:
        raise UserError("--epochs and --steps can't be negative")
    if epochs and steps:
        raise UserError("--epochs and --steps exclude each other: give one of them")
    if min(log_steps, checkpoint_steps) < 1:
        raise UserError("--log-steps and --checkpoint-steps are at least 1")
    if min(checkpoint_minutes, max_restarts) < 0:
        raise UserError("--checkpoint-minutes and --max-restarts can't be negative")
    if min(rendezvous_seconds, stuck_seconds) <= 0:
        raise UserError("--rendezvous-seconds and --stuck-seconds must be more than 0")
    if precision not in PRECISIONS:
        raise UserError(f"--precision {precision} is unknown: choose one of {', '.join(PRECISIONS)}")
    if rebalance and model != "gan":
        raise UserError("--rebalance is for the GAN: a VAE has no discriminator")
    config = configure(
        model, dataset, preset, epochs, steps, batch_size, seed, precision, xla=xla, rebalance=rebalance
    )
    check_output(output)
    folder = storage.resolve(output)
    _claim(folder, config)
    if is_finished(folder, config):
        logger.info("%s in %s is trained already.", model.upper(), output)
        return
    if "TF_CONFIG" in os.environ:
        import_tensorflow()
        from components.train import loop
        from components.train.worker import peers_watched

        with peers_watched():
            loop.train(
                config,
                folder,
                log_steps=log_steps,
                checkpoint_steps=checkpoint_steps,
                checkpoint_minutes=checkpoint_minutes,
            )
    else:
        gang = Gang(
            folder=str(folder),
            workers=workers,
            log_steps=log_steps,
            checkpoint_steps=checkpoint_steps,
            checkpoint_minutes=checkpoint_minutes,
            max_restarts=max_restarts,
            rendezvous_seconds=rendezvous_seconds,
            stuck_seconds=stuck_seconds,
        )
        run_gang(gang, gpus_per_worker)
    logger.info("%s is in %s.", model.upper(), output)


def check_training(model: str, preset: str, batch_size: int, workers: int, gpus_per_worker: int) -> None:
    """Checks what can be checked without a data set; the arguments are those of `train`.

    Raises:
        UserError: if something is wrong.
    """
    chosen = find_preset(model, preset)
    size = batch_size or chosen.batch_size
    replicas = workers * max(1, gpus_per_worker)
    if workers < 1 or gpus_per_worker < 0:
        raise UserError(
            f"{workers} workers with {gpus_per_worker} GPUs can't train: give at least one worker"
        )
    if size < 1 or size % replicas:
        raise UserError(
            f"batch size {size} of the {model.upper()} can't be divided among {replicas} replicas: "
            f"choose a multiple of {replicas}"
        )


def configure(
    model: str,
    dataset: str,
    preset: str,
    epochs: int,
    steps: int,
    batch_size: int,
    seed: int,
    precision: str,
    *,
    xla: bool = False,
    rebalance: bool = False,
) -> TrainConfig:
    """Returns the run's configuration: the preset, what was asked instead, and the data set's facts.

    Raises:
        UserError: if the preset or the data set does not exist, the data set has no train split or its images
            have a size that the preset's networks can't make.
    """
    chosen = find_preset(model, preset)
    facts = read_dataset(dataset)
    check_sides(model, preset, *facts.image_shape[:2])
    examples = facts.splits["train"].examples
    if not examples:
        raise UserError(f"data set {dataset} has no examples in its train split: preprocess more images")
    size, epochs = batch_size or chosen.batch_size, epochs or chosen.epochs
    steps = steps or math.ceil(epochs * examples / size)
    return TrainConfig(
        **{**dataclasses.asdict(chosen), "batch_size": size, "epochs": epochs},
        model=model,
        preset=preset,
        image_shape=facts.image_shape,
        dataset=str(dataset),
        dataset_digest=facts.digest,
        steps=steps,
        seed=seed,
        precision=precision,
        xla=xla,
        rebalance=rebalance,
    )


def _claim(folder: Path | CloudPath, config: TrainConfig) -> None:
    """Writes `config.json`, or makes sure that what lies there is an earlier part of the same run."""
    file = folder / "config.json"
    if not file.exists():
        storage.write(file, config.to_json().encode())
        return
    try:
        earlier = TrainConfig.from_json(file.read_text())
    except (ValueError, TypeError, KeyError):
        raise UserError(
            f"{file} does not describe a run of this version: choose another --output, or remove that folder"
        ) from None
    for field in dataclasses.fields(config):
        old, new = getattr(earlier, field.name), getattr(config, field.name)
        if old != new and field.name != "dataset":
            raise UserError(
                f"{folder} holds a run whose {field.name} is {old}, and {new} is asked for: "
                "choose another --output, or remove that folder"
            )


def is_finished(folder: Path | CloudPath, config: TrainConfig) -> bool:
    """Whether the networks, which are written last, are there."""
    return all((folder / f"{name}.keras").exists() for name in NETWORKS[config.model])


def publish_model(model: str, folder: str, target: str) -> None:
    """Copies a trained model's few files to a local folder that a pipeline passes on.

    Args:
        model: "vae" or "gan".
        folder: the model folder, local or `gs://`.
        target: the local folder.
    """
    source = storage.resolve(folder)
    for name in ("config.json", "history.csv", *(f"{network}.keras" for network in NETWORKS[model])):
        storage.write(Path(target) / name, storage.read(source / name))
