"""From examples to batches: every epoch is a permutation of the whole split, whatever the workers."""

from __future__ import annotations

import functools

import numpy as np
import tensorflow as tf

from latentfaces.common.examples import Examples, parse_images


def batches(
    examples: Examples,
    image_shape: tuple[int, int, int],
    *,
    seed: int,
    first_step: int,
    global_batch_size: int,
    context: tf.distribute.InputContext,
    replicas_on_worker: int,
) -> tf.data.Dataset:
    """The endless batches of one worker's replicas, in the order in which its replicas take them.

    The examples of all epochs form one endless sequence, each epoch a permutation of the whole split that
    depends on (seed, epoch) alone; step s takes the global batch s of it, so batches run on across the end
    of an epoch and no worker runs out before another.

    Args:
        examples: the split.
        image_shape: (height, width, channels).
        seed: of the run.
        first_step: the step to begin with.
        global_batch_size: images of a step over all replicas.
        context: which worker this is.
        replicas_on_worker: replicas of this worker, all workers having as many.

    Returns:
        Elements {"images": uint8 [b, H, W, C], "step": int64, "start": int64}, where b is the replica's
        batch size and start its first position in the global batch.
    """
    size = global_batch_size // context.num_replicas_in_sync
    first_replica = context.input_pipeline_id * replicas_on_worker

    @functools.lru_cache(maxsize=2)  # a batch touches two epochs at most, unless it is larger than the split
    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, epoch]).permutation(len(examples))

    def read(step: np.int64, start: np.int64) -> np.ndarray:
        epochs, positions = np.divmod(step * global_batch_size + start + np.arange(size), len(examples))
        return examples.read(np.array([order(int(e))[p] for e, p in zip(epochs, positions, strict=True)]))

    def load(element: tf.Tensor) -> dict[str, tf.Tensor]:
        step = element // replicas_on_worker
        start = (first_replica + element % replicas_on_worker) * size
        serialized = tf.ensure_shape(tf.numpy_function(read, [step, start], tf.string), [size])
        return {
            "images": tf.ensure_shape(parse_images(serialized, image_shape), [size, *image_shape]),
            "step": step,
            "start": start,
        }

    # Were there an end, many workers would ask each other before every step whether it is reached.
    elements = tf.data.Dataset.counter(first_step * replicas_on_worker)
    elements = elements.map(load, num_parallel_calls=2, deterministic=True).prefetch(4)
    options = tf.data.Options()
    options.autotune.enabled = False  # there is nothing to tune, and its thread may take a minute to end
    return elements.with_options(options)
