"""What the workers tell each other between two rounds of steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf


class Round(NamedTuple):
    """What one worker has to say after a round, or all of them together.

    Attributes:
        terminated: whether it has to leave.
        is_due: whether a checkpoint is due by the clock.
        pace: steps of the next round, at most.
        losses: float64 [steps, losses].
    """

    terminated: bool
    is_due: bool
    pace: int
    losses: np.ndarray


class Exchange:
    """An all-gather of numbers among the workers of a strategy.

    The numbers are not summed on the way, so that losses have the same bits however many are told at once.

    Args:
        strategy: whose workers all call the same methods in the same order.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        @tf.function(reduce_retracing=True)
        def gather(numbers: tf.Tensor) -> tf.Tensor:
            return strategy.run(
                lambda: tf.distribute.get_replica_context().all_gather(numbers[tf.newaxis], axis=0)
            )

        self._strategy = strategy
        self._gather = gather

    def all_gather(self, numbers: Sequence[float] | np.ndarray) -> np.ndarray:
        """Returns every worker's numbers, float64 [workers, ...]; each worker gives as many."""
        mine = tf.constant(np.asarray(numbers, np.float64))
        copies = self._strategy.experimental_local_results(self._gather(mine))
        return copies[0].numpy()[:: len(copies)]  # a worker's replicas all say the same

    def agree_on(self, step: int) -> int:
        """Returns the step that the chief gives; also a barrier, which no one passes before all are there."""
        return int(self.all_gather([step])[0, 0])

    def chiefs(self, array: np.ndarray) -> np.ndarray:
        """Returns the array, float64, that the chief gives; all give one of the same shape."""
        given: np.ndarray = self.all_gather(array)[0]
        return given

    def after_round(self, mine: Round) -> Round:
        """Returns what holds for all: whether one leaves, the chief's clock and pace, summed losses."""
        told = self.all_gather([mine.terminated, mine.is_due, mine.pace, *mine.losses.ravel()])
        return Round(
            terminated=bool(told[:, 0].any()),
            is_due=bool(told[0, 1]),
            pace=int(told[0, 2]),
            losses=told[:, 3:].sum(axis=0).reshape(mine.losses.shape),
        )
