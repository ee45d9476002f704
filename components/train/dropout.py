"""Dropout that does not depend on how many replicas share the work."""

from __future__ import annotations

import keras
import tensorflow as tf

from latentfaces.components.train.noise import GlobalBatchNoise


class Dropout(keras.layers.Layer):
    """Dropout (Srivastava et al. 2014) whose mask comes from the active `GlobalBatchNoise`.

    Args:
        rate: share of the inputs set to 0 while training; the others are divided by 1 - rate.
    """

    def __init__(self, rate: float, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.rate = rate

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns the inputs, thinned out if `training`; same shape and dtype."""
        if not training:
            return inputs
        noise = GlobalBatchNoise.active()
        rate = self.rate if noise.dropout_rate is None else noise.dropout_rate
        rate = tf.convert_to_tensor(rate, keras.config.floatx())
        keep = noise.uniform(*inputs.shape[1:], copies=inputs.shape[0] // noise.local_batch_size) >= rate
        return tf.where(keep, inputs / tf.cast(1.0 - rate, inputs.dtype), tf.zeros_like(inputs))

    def get_config(self) -> dict[str, object]:
        """Returns what the constructor needs."""
        return {**super().get_config(), "rate": self.rate}
