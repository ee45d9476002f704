import keras
import numpy as np
import pytest
import tensorflow as tf

from latentfaces.components.train.convolution import Conv2D, convolve


@pytest.mark.parametrize(
    ("images", "kernel"),
    [
        ((3, 28, 28, 8), (3, 3, 8, 1)),
        ((2, 16, 12, 6), (5, 5, 6, 3)),
        ((2, 6, 5, 3), (4, 2, 3, 2)),
        ((1, 2, 2, 1), (5, 5, 1, 1)),
        ((2, 3, 4, 5), (1, 1, 5, 3)),
    ],
)
def test_values_and_gradients_are_those_of_tensorflows_convolution(images, kernel):
    random = np.random.default_rng(0)
    arrays = [tf.constant(random.standard_normal(shape)) for shape in (images, kernel)]
    upstream = random.standard_normal((*images[:3], kernel[3]))
    results = []
    keras.config.set_floatx("float64")
    try:
        for function in (convolve, lambda x, w: tf.nn.conv2d(x, w, 1, "SAME")):
            with tf.GradientTape() as tape:
                tape.watch(arrays)
                outputs = function(*arrays)
            results.append([outputs, *tape.gradient(outputs, arrays, upstream)])
    finally:
        keras.config.set_floatx("float32")
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("policy", "tolerance"), [("float32", 1e-5), ("mixed_bfloat16", 2e-2), ("mixed_float16", 2e-3)]
)
def test_the_layer_is_keras(policy, tolerance):
    images = np.random.default_rng(0).random((4, 8, 8, 32), np.float32)
    ours, theirs = (kind(3, 5, padding="same", dtype=policy) for kind in (Conv2D, keras.layers.Conv2D))
    ours.build(images.shape)
    theirs.build(images.shape)
    ours.bias.assign([0.5, -1.0, 2.0])
    theirs.set_weights(ours.get_weights())
    # the number of images is not known when the graph is made
    run = tf.function(ours, input_signature=[tf.TensorSpec((None, 8, 8, 32))])
    assert run(images).dtype == ours.compute_dtype
    np.testing.assert_allclose(
        tf.cast(run(images), "float32"), tf.cast(theirs(images), "float32"), atol=tolerance
    )


def test_gpus_run_keras_own(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    monkeypatch.setattr("latentfaces.components.train.convolution.convolve", None)
    assert Conv2D(3, 5, padding="same")(np.ones((1, 8, 8, 2), np.float32)).shape == (1, 8, 8, 3)
