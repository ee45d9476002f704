"""Random numbers that do not depend on how many replicas share the work.

Every number is a function of (seed, step, position in the global batch): each replica draws for the whole
global batch and keeps its own rows. Drawing is cheap beside a convolution, and in exchange one worker and
eight train the same model.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

import keras
import tensorflow as tf

_active = threading.local()  # strategy.run traces each replica in a thread of its own


class GlobalBatchNoise:
    """The random numbers of one replica's share of one step.

    Args:
        seed: of the run.
        step: int64 scalar, the step's number.
        start: int64 scalar, position in the global batch of this replica's first image.
        local_batch_size: images of this replica.
        global_batch_size: images of all replicas together.

    Attributes:
        local_batch_size: images of this replica.
        dropout_rate: takes the place of the `Dropout` layers' own, if not None.
    """

    def __init__(
        self, seed: int, step: tf.Tensor, start: tf.Tensor, local_batch_size: int, global_batch_size: int
    ) -> None:
        self._seed = tf.stack([tf.constant(seed, tf.int64), tf.cast(step, tf.int64)])
        self._start = start
        self.local_batch_size = local_batch_size
        self._global = global_batch_size
        self._draws = 0
        # Not where XLA compiles, whose generator would give other numbers
        self._graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        self.dropout_rate: tf.Tensor | None = None

    def _draw(self, draw: Callable[..., tf.Tensor], shape: tuple[int, ...], copies: int) -> tf.Tensor:
        self._draws += 1
        with self._graph.as_default() if self._graph else contextlib.nullcontext():
            numbers = draw(
                [copies, self._global, *shape],
                seed=tf.random.experimental.stateless_fold_in(self._seed, self._draws),
                dtype=keras.config.floatx(),
            )
            mine = tf.slice(
                numbers, [0, self._start] + [0] * len(shape), [copies, self.local_batch_size, *shape]
            )
            return tf.reshape(mine, [copies * self.local_batch_size, *shape])

    def normal(self, *shape: int) -> tf.Tensor:
        """Returns standard normal numbers of shape [local batch size, *shape]."""
        return self._draw(tf.random.stateless_normal, shape, copies=1)

    def uniform(self, *shape: int, copies: int = 1) -> tf.Tensor:
        """Returns numbers in [0, 1) of shape [copies * local batch size, *shape].

        With `copies` 2 the rows serve a batch of the replica's fakes followed by its reals.
        """
        return self._draw(tf.random.stateless_uniform, shape, copies)

    def __enter__(self) -> GlobalBatchNoise:
        """Makes this the source of the `Dropout` layers that are called inside the `with` block."""
        _active.noise = self
        return self

    def __exit__(self, *_: object) -> None:
        """Ends what `__enter__` began."""
        del _active.noise

    @staticmethod
    def active() -> GlobalBatchNoise:
        """Returns the source of the `with` block that this thread is in."""
        return _active.noise
