"""Bilinear enlargement as matrix products: in any precision, and with a deterministic gradient.

TensorFlow's own is not deterministic on GPUs, and has no float64 under XLA.
"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf


class UpSampling2D(keras.layers.UpSampling2D):
    """Keras' `UpSampling2D` with bilinear interpolation."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns images [N, H, W, C], each side so many times as long."""
        for axis, equation in enumerate(("ab,nbwc->nawc", "ab,nhbc->nhac")):
            weights = interpolation(inputs.shape[1 + axis], self.size[axis])
            inputs = tf.einsum(equation, tf.constant(weights, inputs.dtype), inputs)
        return inputs


def interpolation(size: int, times: int) -> np.ndarray:
    """Returns the weights of `size` pixels in each of `times` as many, float64 [times * size, size].

    Pixels are squares, and colours those of their centres; beyond the outer ones nothing changes.
    """
    places = ((np.arange(times * size) + 0.5) / times - 0.5).clip(0, size - 1)
    weights: np.ndarray = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(size)))
    return weights
