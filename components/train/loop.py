"""The training loop: one for every model, on one worker or many."""

from __future__ import annotations

import logging
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import keras
import numpy as np
import tensorflow as tf

from latentfaces.common import storage
from latentfaces.common.config import RunOptions, TrainConfig
from latentfaces.common.dataset import read_dataset
from latentfaces.common.errors import RunError, UserError
from latentfaces.common.examples import open_split, parse_images
from latentfaces.common.model_folder import LONGER
from latentfaces.common.models import find_model
from latentfaces.common.storage import AnyPath
from latentfaces.components.train import warm_start
from latentfaces.components.train.batches import batches
from latentfaces.components.train.checkpoints import Checkpoints
from latentfaces.components.train.convolution import portable
from latentfaces.components.train.exchange import Exchange, Round
from latentfaces.components.train.launch import PEER_LOST, TERMINATED
from latentfaces.components.train.launch.tf_config import this_task
from latentfaces.components.train.monitor import Monitor
from latentfaces.components.train.noise import GlobalBatchNoise

logger = logging.getLogger(__name__)

_REAL_IMAGES = 256  # with whose diversity that of samples is compared
_AT_ONCE = 100  # of the images that a model begins or ends with


def train(
    config: TrainConfig,
    run: RunOptions,
    folder: AnyPath,
    *,
    on_progress: Callable[[], object] = lambda: None,
) -> None:
    """Trains, going on from the newest checkpoint, and saves the networks in the model folder.

    Which worker of how many this process is follows from `TF_CONFIG`, as TensorFlow defines it.

    TensorFlow runs a round of steps at once, for about a second. After it the workers tell each other their
    losses, whether one has to leave (SIGTERM), and whether a checkpoint is due. Everything that depends on
    the clock is decided there and by the chief alone, so all workers do the same.

    Args:
        config: what is trained.
        run: when to log and to save.
        folder: the model folder.
        on_progress: called after every round of steps, and often while the networks are finished.

    Raises:
        UserError: if the data set can't be read or the batch can't be divided among the replicas.
        RunError: if a loss or a weight is not finite; its message names the step.
        SystemExit: after SIGTERM, a checkpoint being saved: with status 143, or 75 if a peer received it.
    """
    # Set up precision, devices and the strategy.
    keras.utils.set_random_seed(config.short_seed)  # the networks' initial weights
    keras.config.set_floatx("float64" if config.precision == "float64" else "float32")
    keras.config.set_dtype_policy(config.precision)
    strategy = _make_strategy(run.gpus_per_worker)
    terminated = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: terminated.set())  # TensorFlow's own handler swallows it
    on_progress()  # all peers are there
    replicas = strategy.num_replicas_in_sync
    if config.batch_size % replicas:
        raise UserError(
            f"batch size {config.batch_size} can't be divided among {replicas} replicas: "
            f"choose a multiple of {replicas}"
        )

    # Open the data set and build the model.
    dataset = read_dataset(config.dataset)
    if dataset.digest != config.dataset_digest:
        raise UserError(
            f"the data set {config.dataset} is another than this run began with: train in another folder"
        )
    examples = open_split(config.dataset, dataset, "train")
    with strategy.scope():
        model = find_model(config.model, config.preset)(config)

    # Go on from the newest checkpoint that the chief can read, or begin: from what the train images are like,
    # or from another model's weights.
    checkpoints = Checkpoints(folder / "checkpoints", model.state, len(model.loss_names))
    exchange = Exchange(strategy)
    task = this_task()
    is_chief = task is None or task.is_chief
    step, losses = checkpoints.restore() if is_chief else (0, np.empty((0, 0)))
    step = exchange.agree_on(step)
    if not is_chief:
        losses = checkpoints.restore_step(step)

    def train_images(count: int, size: int) -> Iterator[np.ndarray]:
        rows = np.arange(min(len(examples), count))
        for start in range(0, len(rows), size):
            yield parse_images(examples.read(rows[start : start + size]), config.image_shape).numpy()

    if model.begins_with and not step:
        model.begin(train_images(model.begins_with, _AT_ONCE), exchange.chiefs)
    if config.initial_run and not step:
        warm_start.load(config, folder, model.networks)
    monitor = None
    if is_chief:
        some = examples.read(np.arange(min(len(examples), _REAL_IMAGES)))
        monitor = Monitor(config, folder, step, parse_images(some, config.image_shape).numpy())
        if step:
            logger.info("%s goes on from step %d of %d", model.title, step, config.steps)

    # Prepare a round of steps as one call of TensorFlow.
    iterator = iter(
        strategy.distribute_datasets_from_function(
            lambda context: batches(
                examples,
                config.image_shape,
                seed=config.seed,
                first_step=step,
                global_batch_size=config.batch_size,
                context=context,
                replicas_on_worker=replicas // context.num_input_pipelines,
            )
        )
    )

    def replica_step(batch: dict[str, tf.Tensor]) -> tf.Tensor:
        images = tf.cast(batch["images"], keras.config.floatx()) / 255
        noise = GlobalBatchNoise(
            config.short_seed, batch["step"], batch["start"], images.shape[0], config.batch_size
        )
        losses = model.step(images, noise)
        return tf.stack([losses[name] for name in model.loss_names])

    @tf.function(input_signature=[tf.TensorSpec([], tf.int32)])
    def train_steps(count: tf.Tensor) -> tf.Tensor:
        """Returns the losses of some steps, summed over this worker's replicas, [count, losses]."""
        rows = tf.TensorArray(keras.config.floatx(), count)
        for row in tf.range(count):
            losses = strategy.run(replica_step, args=(next(iterator),))
            rows = rows.write(row, tf.add_n(strategy.experimental_local_results(losses)))
        return rows.stack()

    def leave() -> NoReturn:
        if monitor:
            monitor.close()
            logger.info("leaving; the checkpoint of step %d is saved", step)
        sys.exit(TERMINATED if terminated.is_set() else PEER_LOST)

    pace = 1  # steps of a round, for now
    saved_at = time.monotonic()
    while step < config.steps:
        # Train for a round of steps.
        epoch_end = next_epoch_end(step, config.batch_size, len(examples))
        first_step, started = step, time.monotonic()
        step = round_end(step, pace, config.steps, epoch_end, run.log_steps, run.checkpoint_steps)
        mine = train_steps(step - first_step).numpy().astype(float)
        is_last, now = step == config.steps, time.monotonic()
        on_progress()

        # Exchange losses and intentions with the other workers.
        pace = max(1, min(int((step - first_step) / (now - started)), 2 * pace))
        is_due = 0 < run.checkpoint_minutes <= (now - saved_at) / 60
        ours = exchange.after_round(Round(terminated.is_set(), is_due, pace, mine))
        pace = ours.pace
        _check_finite(ours.losses, first_step, model.loss_names)
        losses = np.concatenate([losses, ours.losses]) if len(losses) else ours.losses

        # Report the mean losses since the last row of the history.
        if step % run.log_steps == 0 or is_last:
            means = dict(zip(model.loss_names, losses.mean(axis=0).tolist(), strict=True))
            watched = model.watch(means)
            if monitor:
                diversity = monitor.diversity_ratio(step, model.sample(monitor.few_latents).numpy())
                monitor.log(
                    step,
                    step * config.batch_size / len(examples),
                    means | watched | {"diversity_ratio": diversity},
                )
            losses = losses[:0]

        # Show samples after each epoch.
        if monitor and step == epoch_end and not is_last:
            monitor.picture(
                step, step * config.batch_size // len(examples), model.sample(monitor.latents).numpy()
            )

        # Save a checkpoint.
        if step % run.checkpoint_steps == 0 or is_last or ours.terminated or ours.is_due:
            _check_weights(model.networks, step)
            saved_at = time.monotonic()
            if monitor:
                monitor.save()  # first: a resumed run drops rows too many, and can't make missing ones
                checkpoints.save(step, losses)

        # Leave after SIGTERM, all together.
        if ours.terminated:
            exchange.agree_on(step)  # no one leaves before the chief has saved
            leave()

    # Finish the networks, show what they make, and save them.
    if monitor:

        def go_on() -> None:
            on_progress()
            if terminated.is_set():
                leave()

        monitor.end()
        size = min(_AT_ONCE, config.batch_size)  # which a network has memory for
        model.finish(train_images(model.ends_with, size), go_on)
        _check_weights(model.networks, step)
        epoch = step * config.batch_size // len(examples)
        monitor.show_finished(step, epoch, model.sample(monitor.latents).numpy())
        monitor.close()
        _save(model.networks, folder)


def next_epoch_end(step: int, batch_size: int, examples: int) -> int:
    """Returns the first step after `step` at which an epoch is complete."""
    return -(-(step * batch_size // examples + 1) * examples // batch_size)


def round_end(step: int, pace: int, steps: int, epoch_end: int, log_steps: int, checkpoint_steps: int) -> int:
    """Returns the step at which the round that begins at `step` ends.

    Args:
        step: steps done.
        pace: steps that the round may have.
        steps: of the run.
        epoch_end: the next step after which samples are shown.
        log_steps: steps between two rows of the history.
        checkpoint_steps: steps between two checkpoints.
    """
    return min(
        step + pace,
        step + log_steps - step % log_steps,
        step + checkpoint_steps - step % checkpoint_steps,
        epoch_end,
        steps,
    )


def _make_strategy(promised_gpus: int) -> tf.distribute.MultiWorkerMirroredStrategy:
    """NCCL on GPUs, whose memory is taken as it is needed; a ring over gRPC elsewhere.

    Raises:
        RunError: if there are fewer GPUs than were promised.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if len(gpus) < promised_gpus:
        raise RunError(
            f"this worker sees {len(gpus)} GPUs, and --gpus-per-worker promises {promised_gpus}: "
            "check the machine's driver, TensorFlow's build and the pod's resources"
        )
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    implementation = tf.distribute.experimental.CommunicationImplementation
    return tf.distribute.MultiWorkerMirroredStrategy(
        communication_options=tf.distribute.experimental.CommunicationOptions(
            implementation=implementation.NCCL if gpus else implementation.RING
        )
    )


def _check_finite(losses: np.ndarray, first_step: int, names: tuple[str, ...]) -> None:
    """Checks the losses of some steps, [steps, losses].

    Raises:
        RunError: if one is NaN or infinite.
    """
    bad = np.argwhere(~np.isfinite(losses))
    if len(bad):
        row, column = bad[0]
        raise RunError(
            f"the {names[column]} became {losses[row, column]} at step {first_step + row + 1}: training "
            "stopped; the checkpoints before it are whole, try a lower learning rate"
        )


def _check_weights(networks: dict[str, keras.Model], step: int) -> None:
    """Checks what the losses of the next step would show, before it is saved as the last good state.

    Raises:
        RunError: if a weight is NaN or infinite.
    """
    for name, network in networks.items():
        if not all(np.isfinite(weight).all() for weight in network.get_weights()):
            raise RunError(
                f"a weight of the {name} is not finite after step {step}: training stopped; "
                "the checkpoints before it are whole, try a lower learning rate"
            )


def _save(networks: dict[str, keras.Model], folder: AnyPath) -> None:
    with tempfile.TemporaryDirectory() as name:
        files = [Path(name) / f"{network}.keras" for network in networks]
        for file, model in zip(files, networks.values(), strict=True):
            portable(model).save(file)
        for file in files:  # one at once after the other, since they belong together
            storage.write(folder / file.name, file.read_bytes())
    storage.delete(folder / LONGER)
