"""The training loop: one for every model, on one worker or many."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from cloudpathlib import CloudPath

from components.step import StepError
from components.train.checkpoints import Checkpoints
from components.train.config import TrainConfig
from components.train.gan import GAN
from components.train.input import batches, open_split
from components.train.monitor import Monitor
from components.train.noise import GlobalBatchNoise
from components.train.vae import VAE
from preprocessing import storage
from preprocessing.dataset import read_dataset
from preprocessing.errors import UserError

logger = logging.getLogger("latentfaces")

TASKS = {"vae": VAE, "gan": GAN}


def train(config: TrainConfig, folder: Path | CloudPath, *, log_steps: int, checkpoint_steps: int) -> None:
    """Trains, going on from the newest checkpoint, and saves the networks in the model folder.

    Which worker of how many this process is follows from `TF_CONFIG`, as TensorFlow defines it.

    Args:
        config: of the run.
        folder: the model folder.
        log_steps: steps between two rows of the history.
        checkpoint_steps: steps between two checkpoints.

    Raises:
        UserError: if the data set can't be read or the batch can't be divided among the replicas.
        StepError: if a loss is not finite; its message names the step.
    """
    keras.utils.set_random_seed(config.seed)  # the networks' initial weights
    keras.config.set_floatx("float64" if config.precision == "float64" else "float32")
    keras.config.set_dtype_policy(config.precision)
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    replicas = strategy.num_replicas_in_sync
    if config.batch_size % replicas:
        raise UserError(
            f"Batch size {config.batch_size} can't be divided among {replicas} replicas: choose a multiple of it."
        )
    dataset = read_dataset(config.dataset)
    examples = open_split(config.dataset, dataset, "train")
    with strategy.scope():
        task = TASKS[config.model](config)
    checkpoints = Checkpoints(folder / "checkpoints", task.state)
    step = checkpoints.restore()
    is_chief = strategy.cluster_resolver.task_id in (None, 0)
    monitor = Monitor(config, folder, step) if is_chief else None
    if step:
        logger.info("%s goes on from step %d of %d.", config.model.upper(), step, config.steps)

    local_batches = strategy.distribute_datasets_from_function(
        lambda context: batches(
            examples,
            config.image_shape,
            seed=config.seed,
            first_step=step,
            steps=config.steps,
            global_batch_size=config.batch_size,
            context=context,
            replicas_on_worker=replicas // context.num_input_pipelines,
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

    @tf.function
    def train_step(batch: dict[str, tf.Tensor]) -> tf.Tensor:
        return strategy.run(replica_step, args=(batch,))

    losses: list[tf.Tensor] = []  # of this worker's replicas, not yet summed over the workers
    for batch in local_batches:
        losses.append(train_step(batch))
        step += 1
        is_last = step == config.steps
        if step % log_steps == 0 or step % checkpoint_steps == 0 or is_last:
            summed = strategy.reduce(
                "SUM", strategy.run(lambda *rows: tf.stack(rows), args=tuple(losses)), axis=None
            )
            means = _finite_means(summed.numpy(), step - len(losses), names)
            losses.clear()
            if monitor:
                monitor.log(step, step * config.batch_size / len(examples), means)
        epoch = step * config.batch_size // len(examples)
        if monitor and (epoch > (step - 1) * config.batch_size // len(examples) or is_last):
            monitor.picture(step, epoch, task.sample(monitor.latents).numpy())
        if monitor and (step % checkpoint_steps == 0 or is_last):
            checkpoints.save(step)
            monitor.save()
    if monitor:
        monitor.close()
        task.finish()
        _save(task.networks, folder)


def _finite_means(losses: np.ndarray, first_step: int, names: list[str]) -> dict[str, float]:
    """Returns the mean of each loss over some steps, [steps, losses].

    Raises:
        StepError: if one is NaN or infinite.
    """
    bad = np.argwhere(~np.isfinite(losses))
    if len(bad):
        row, column = bad[0]
        raise StepError(
            f"The {names[column]} became {losses[row, column]} at step {first_step + row + 1}: training stopped. "
            "The checkpoints before it are whole; try a lower learning rate."
        )
    return dict(zip(names, losses.mean(axis=0).tolist(), strict=True))


def _save(networks: dict[str, keras.Model], folder: Path | CloudPath) -> None:
    with tempfile.TemporaryDirectory() as name:
        for network, model in networks.items():
            file = Path(name) / f"{network}.keras"
            model.save(file)
            storage.write(folder / file.name, file.read_bytes())
