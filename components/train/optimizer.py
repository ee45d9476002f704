"""What the steps of both models need to compute and apply gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import keras
import tensorflow as tf

from latentfaces.common.config import TrainConfig

Result = TypeVar("Result")


def adam(
    config: TrainConfig, *, beta_2: float = 0.999, last: float = 0.0, ema_decay: float = 0.0
) -> keras.optimizers.Optimizer:
    """Returns Adam (Kingma & Ba 2015) as the run's configuration says.

    In mixed_float16 it scales the loss, so that small gradients don't vanish (Micikevicius et al. 2018).

    Args:
        config: of the run.
        beta_2: Adam's second momentum.
        last: the part of the learning rate to which it falls, if it does.
        ema_decay: of an exponential moving average of the weights that is kept beside them; 0 for none.
    """
    rate: Any = config.learning_rate
    if config.learning_rate_decay:
        warmup = min(config.warmup_steps, config.steps // 10)
        rise = {"initial_learning_rate": 0.0, "warmup_target": rate, "warmup_steps": warmup}
        rate = keras.optimizers.schedules.CosineDecay(
            **(rise if warmup else {"initial_learning_rate": rate}),
            decay_steps=config.steps - warmup,
            alpha=last,
        )
    optimizer = keras.optimizers.Adam(
        rate,
        beta_1=config.beta_1,
        beta_2=beta_2,
        **({"use_ema": True, "ema_momentum": ema_decay} if ema_decay else {}),
    )
    return _LossScaleOptimizer(optimizer) if config.precision == "mixed_float16" else optimizer


class _LossScaleOptimizer(keras.optimizers.LossScaleOptimizer):
    """Keras' optimizer that scales losses, of which all replicas leave a step out, or none does.

    One that left it out by itself would let the others wait for its gradients forever.
    """

    def check_finite(self, grads: list[tf.Tensor]) -> tf.Tensor:
        """Returns whether all gradients of all replicas are finite."""
        overflows = tf.cast(~super().check_finite(grads), tf.float32)
        replica = tf.distribute.get_replica_context()
        return tf.equal(replica.all_reduce(tf.distribute.ReduceOp.SUM, overflows), 0)


def compute(function: Callable[[], Result], config: TrainConfig) -> Result:
    """Calls a function that computes gradients, compiled with XLA if the run's configuration says so.

    XLA can't sum over workers: that, which the optimizer does, must not be in it.
    """
    return tf.function(function, jit_compile=True)() if config.xla else function()
