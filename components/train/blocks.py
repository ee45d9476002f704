"""What the networks of several models are built of."""

from __future__ import annotations

import keras
from keras import layers


def he(gain: float = 1.0) -> keras.initializers.Initializer:
    """Returns He's initializer (2015) for leaky rectifiers of slope 0.2."""
    return keras.initializers.VarianceScaling(2 * gain**2 / (1 + 0.2**2))


def normalized(x: keras.KerasTensor) -> keras.KerasTensor:
    """Normalizes the features of each pixel, as replicas may that share a batch, and rectifies them.

    RMS normalization is Zhang & Sennrich's (2019).
    """
    return layers.LeakyReLU(negative_slope=0.2)(layers.RMSNormalization()(x))
