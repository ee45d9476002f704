"""What the steps of both models need to compute and apply gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import keras
import tensorflow as tf

from latentfaces.common.config import TrainConfig

Result = TypeVar("Result")


def adam(config: TrainConfig, *, ema_decay: float = 0.0) -> keras.optimizers.Optimizer:
    """Returns Adam (Kingma & Ba 2015) as the run's configuration says.

    In mixed_float16 it scales the loss, so that small gradients don't vanish (Micikevicius et al. 2018).

    Args:
        config: of the run.
        ema_decay: of an exponential moving average of the weights that is kept beside them; 0 for none.
    """
    rate = config.learning_rate
    optimizer = keras.optimizers.Adam(
        keras.optimizers.schedules.CosineDecay(rate, config.steps) if config.learning_rate_decay else rate,
        beta_1=config.beta_1,
        **({"use_ema": True, "ema_momentum": ema_decay} if ema_decay else {}),
    )
    return (
        keras.optimizers.LossScaleOptimizer(optimizer) if config.precision == "mixed_float16" else optimizer
    )


def compute(function: Callable[[], Result], config: TrainConfig) -> Result:
    """Calls a function that computes gradients, compiled with XLA if the run's configuration says so.

    XLA can't sum over workers: that, which the optimizer does, must not be in it.
    """
    return tf.function(function, jit_compile=True)() if config.xla else function()
