"""The training loop: one for every model, on one worker or many."""

from __future__ import annotations

import logging
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from cloudpathlib import CloudPath

from components.step import StepError
from components.train.checkpoints import Checkpoints
from components.train.config import TrainConfig
from components.train.gan import GAN
from components.train.gang import PEER_LOST, TERMINATED
from components.train.input import batches, open_split, parse_images
from components.train.monitor import Monitor
from components.train.networks import portable
from components.train.noise import GlobalBatchNoise
from components.train.vae import VAE
from preprocessing import storage
from preprocessing.dataset import read_dataset
from preprocessing.errors import UserError

logger = logging.getLogger("latentfaces")

TASKS = {"vae": VAE, "gan": GAN}

_SAMPLES = 16  # whose diversity is compared ...
_REAL_IMAGES = 256  # ... with that of so many real images


def train(
    config: TrainConfig,
    folder: Path | CloudPath,
    *,
    log_steps: int,
    checkpoint_steps: int,
    checkpoint_minutes: float,
    on_progress: Callable[[], object] = lambda: None,
) -> None:
    """Trains, going on from the newest checkpoint, and saves the networks in the model folder.

    Which worker of how many this process is follows from `TF_CONFIG`, as TensorFlow defines it.

    TensorFlow runs a round of steps at once, for about a second. After it the workers tell each other their
    losses, whether one has to leave (SIGTERM), and whether a checkpoint is due. Everything that depends on
    the clock is decided there and by the chief alone, so all workers do the same.

    Args:
        config: of the run.
        folder: the model folder.
        log_steps: steps between two rows of the history.
        checkpoint_steps: steps between two checkpoints.
        checkpoint_minutes: minutes after which a checkpoint is written in between; 0 for never.
        on_progress: called after every round of steps.

    Raises:
        UserError: if the data set can't be read or the batch can't be divided among the replicas.
        StepError: if a loss or a weight is not finite; its message names the step.
        SystemExit: after SIGTERM, a checkpoint being saved: with status 143, or 75 if a peer received it.
    """
    keras.utils.set_random_seed(config.seed)  # the networks' initial weights
    keras.config.set_floatx("float64" if config.precision == "float64" else "float32")
    keras.config.set_dtype_policy(config.precision)
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    implementation = tf.distribute.experimental.CommunicationImplementation
    strategy = tf.distribute.MultiWorkerMirroredStrategy(
        communication_options=tf.distribute.experimental.CommunicationOptions(
            implementation=implementation.NCCL if gpus else implementation.RING
        )
    )
    terminated = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: terminated.set())  # TensorFlow's own handler swallows it
    replicas = strategy.num_replicas_in_sync
    if config.batch_size % replicas:
        raise UserError(
            f"batch size {config.batch_size} can't be divided among {replicas} replicas: "
            f"choose a multiple of {replicas}"
        )
    dataset = read_dataset(config.dataset)
    examples = open_split(config.dataset, dataset, "train")
    with strategy.scope():
        task = TASKS[config.model](config)
    checkpoints = Checkpoints(folder / "checkpoints", task.state)
    is_chief = strategy.cluster_resolver.task_id in (None, 0)
    tell_all = _teller(strategy)
    step, losses = checkpoints.restore() if is_chief else (0, np.empty((0, 0)))
    step = int(tell_all([step])[0, 0])
    if not is_chief:
        losses = checkpoints.restore_step(step)
    monitor = None
    if is_chief:
        some = examples.read(np.arange(min(len(examples), _REAL_IMAGES)))
        monitor = Monitor(config, folder, step, parse_images(some, config.image_shape).numpy())
    if monitor and step:
        logger.info("%s goes on from step %d of %d.", config.model.upper(), step, config.steps)

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
    names: list[str] = []

    def replica_step(batch: dict[str, tf.Tensor]) -> tf.Tensor:
        images = tf.cast(batch["images"], keras.config.floatx()) / 255
        noise = GlobalBatchNoise(
            config.seed, batch["step"], batch["start"], images.shape[0], config.batch_size
        )
        losses = task.step(images, noise)
        names[:] = losses
        return tf.stack(list(losses.values()))

    @tf.function(input_signature=[tf.TensorSpec([], tf.int32)])
    def train_steps(count: tf.Tensor) -> tf.Tensor:
        """Returns the losses of some steps, summed over this worker's replicas, [count, losses]."""
        rows = tf.TensorArray(keras.config.floatx(), count)
        for row in tf.range(count):
            losses = strategy.run(replica_step, args=(next(iterator),))
            rows = rows.write(row, tf.add_n(strategy.experimental_local_results(losses)))
        return rows.stack()

    pace = 1  # steps a second, for now
    saved_at = time.monotonic()
    while step < config.steps:
        epoch_end = -(-(step * config.batch_size // len(examples) + 1) * len(examples) // config.batch_size)
        round_end = min(
            step + pace,
            step + log_steps - step % log_steps,
            step + checkpoint_steps - step % checkpoint_steps,
            epoch_end,
            config.steps,
        )
        count, started = round_end - step, time.monotonic()
        mine = train_steps(count).numpy().astype(float)
        step, now = round_end, time.monotonic()
        on_progress()
        is_last = step == config.steps
        pace = max(1, min(int(count / (now - started)), 2 * pace))
        is_due = 0 < checkpoint_minutes <= (now - saved_at) / 60
        told = tell_all([terminated.is_set(), is_due, pace, *mine.ravel()])
        leave, is_due, pace = bool(told[:, 0].any()), bool(told[0, 1]), int(told[0, 2])
        rows = told[:, 3:].sum(axis=0).reshape(mine.shape)
        _check_finite(rows, step - count, names)
        losses = np.concatenate([losses, rows]) if len(losses) else rows
        if step % log_steps == 0 or is_last:
            means = dict(zip(names, losses.mean(axis=0).tolist(), strict=True))
            watched = task.watch(means)
            if monitor:
                samples = task.sample(monitor.latents[:_SAMPLES]).numpy()
                watched["diversity_ratio"] = monitor.diversity_ratio(step, samples)
                monitor.log(step, step * config.batch_size / len(examples), means | watched)
            losses = losses[:0]
        if monitor and (step == epoch_end or is_last):
            epoch = step * config.batch_size // len(examples)
            monitor.picture(step, epoch, task.sample(monitor.latents).numpy())
        if step % checkpoint_steps == 0 or is_last or leave or is_due:
            _check_weights(task.networks, step)
            saved_at = time.monotonic()
            if monitor:
                monitor.save()  # first: a resumed run drops rows too many, and can't make missing ones
                checkpoints.save(step, losses)
        if leave:
            tell_all([step])  # no one leaves before the chief has saved
            logger.info("Leaving after SIGTERM; the checkpoint of step %d is saved.", step)
            sys.exit(TERMINATED if terminated.is_set() else PEER_LOST)
    if monitor:
        monitor.close()
        task.finish()
        _save(task.networks, folder)


def _teller(strategy: tf.distribute.Strategy) -> Callable[[Sequence[float]], np.ndarray]:
    """Returns a function that tells all workers each one's numbers.

    Every worker calls it with as many; it returns float64 [workers, numbers]. They are not summed on the way,
    so that losses have the same bits however many steps' are told at once.
    """

    @tf.function(reduce_retracing=True)
    def gather(numbers: tf.Tensor) -> tf.Tensor:
        return strategy.run(
            lambda: tf.distribute.get_replica_context().all_gather(numbers[tf.newaxis], axis=0)
        )

    def tell_all(numbers: Sequence[float]) -> np.ndarray:
        copies = strategy.experimental_local_results(gather(tf.constant(np.asarray(numbers, np.float64))))
        return copies[0].numpy()[:: len(copies)]  # a worker's replicas all say the same

    return tell_all


def _check_finite(losses: np.ndarray, first_step: int, names: list[str]) -> None:
    """Checks the losses of some steps, [steps, losses].

    Raises:
        StepError: if one is NaN or infinite.
    """
    bad = np.argwhere(~np.isfinite(losses))
    if len(bad):
        row, column = bad[0]
        raise StepError(
            f"The {names[column]} became {losses[row, column]} at step {first_step + row + 1}: "
            "training stopped. The checkpoints before it are whole; try a lower learning rate."
        )


def _check_weights(networks: dict[str, keras.Model], step: int) -> None:
    """Checks what the losses of the next step would show, before it is saved as the last good state.

    Raises:
        StepError: if a weight is NaN or infinite.
    """
    for name, network in networks.items():
        if not all(np.isfinite(weight).all() for weight in network.get_weights()):
            raise StepError(
                f"A weight of the {name} is not finite after step {step}: training stopped. "
                "The checkpoints before it are whole; try a lower learning rate."
            )


def _save(networks: dict[str, keras.Model], folder: Path | CloudPath) -> None:
    with tempfile.TemporaryDirectory() as name:
        for network, model in networks.items():
            file = Path(name) / f"{network}.keras"
            portable(model).save(file)
            storage.write(folder / file.name, file.read_bytes())
