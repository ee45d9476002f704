import keras
import numpy as np
import pytest
import tensorflow as tf

from latentfaces.components.train.upsampling import UpSampling2D


@pytest.mark.parametrize("times", [2, 3, 4])
def test_it_enlarges_as_keras_does(times):
    images = np.random.default_rng(0).random((2, 5, 8, 3), np.float32)
    ours = UpSampling2D(times, interpolation="bilinear")(images)
    theirs = keras.layers.UpSampling2D(times, interpolation="bilinear")(images)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_xla_computes_the_same_gradient_in_float64(float64):
    layer = UpSampling2D(2, interpolation="bilinear")
    images = tf.constant(np.random.default_rng(0).random((2, 4, 4, 3)))

    def gradient():
        with tf.GradientTape() as tape:
            tape.watch(images)
            made = layer(images)
            loss = tf.reduce_sum(made * tf.square(made))
        return tape.gradient(loss, images)

    assert gradient().dtype == tf.float64
    compiled = tf.function(gradient, jit_compile=True)()
    np.testing.assert_allclose(compiled, gradient(), rtol=1e-12)
