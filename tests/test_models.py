import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from latentfaces.common.errors import UserError
from latentfaces.components.evaluate import models
from latentfaces.components.evaluate.models import Network, load_network, read_settings

SHAPE = (8, 8, 3)


@pytest.fixture
def gan(tmp_path):
    latents = keras.Input((4,))
    pixels = keras.layers.Dense(192, activation="sigmoid")(latents)
    keras.Model(latents, keras.layers.Reshape(SHAPE)(pixels)).save(tmp_path / "generator.keras")
    (tmp_path / "config.json").write_text(json.dumps({"model": "gan", "image_shape": SHAPE}))
    return tmp_path


def test_many_inputs_run_in_a_few_large_batches():
    sizes = []

    class Recorder(keras.layers.Layer):
        def call(self, x):
            return tf.py_function(lambda x: sizes.append(len(x)) or x, [x], tf.float32)

        def compute_output_shape(self, input_shape):
            return input_shape

    inputs = keras.Input((3,))
    outputs = Recorder()(2 * inputs)
    x = np.random.default_rng(0).random((600, 3), np.float32)
    np.testing.assert_array_equal(Network(keras.Model(inputs, outputs))(x), 2 * x)
    assert sizes == [256, 256, 88] and models.BATCH == 256


def test_an_encoder_gives_its_means(tmp_path):
    images = keras.Input(SHAPE)
    flat = keras.layers.Flatten()(images)
    encoder = keras.Model(images, [keras.layers.Dense(2, name=name)(flat) for name in ("mean", "log_var")])
    encoder.save(tmp_path / "encoder.keras")
    latents = keras.Input((2,))
    decoder = keras.Model(latents, keras.layers.Reshape(SHAPE)(keras.layers.Dense(192)(latents)))
    decoder.save(tmp_path / "decoder.keras")
    loaded = {name: load_network(str(tmp_path), f"{name}.keras") for name in ("encoder", "decoder")}
    assert loaded["encoder"].output_shape == loaded["decoder"].input_shape == (2,)
    x = np.random.default_rng(0).integers(0, 256, (5, *SHAPE), np.uint8)
    means = encoder(x / np.float32(255))[0].numpy()
    np.testing.assert_allclose(loaded["encoder"](x), means, atol=1e-5)
    np.testing.assert_allclose(loaded["decoder"](means), decoder(means), atol=1e-5)


def test_settings_are_returned_where_all_fits(gan):
    assert read_settings(str(gan), "gan", SHAPE) == {"model": "gan", "image_shape": list(SHAPE)}


@pytest.mark.parametrize(
    ("spoil", "name", "says"),
    [
        (lambda folder: (folder / "generator.keras").unlink(), "gan", "has no generator.keras"),
        (lambda folder: (folder / "config.json").unlink(), "gan", "has no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "gan", "does not say which model"),
        (lambda folder: (folder / "config.json").write_text("[]"), "gan", "does not say which model"),
        (
            lambda folder: (folder / "encoder.keras").touch() or (folder / "decoder.keras").touch(),
            "vae",
            "holds a gan, not a vae: give it as --gan$",
        ),
        (lambda folder: None, "vae", "has no encoder.keras"),
        (lambda folder: None, "diffusion", "model diffusion is unknown"),
    ],
)
def test_unfit_model_folders_are_refused(gan, spoil, name, says):
    spoil(gan)
    with pytest.raises(UserError, match=says):
        read_settings(str(gan), name, SHAPE)


def test_another_image_shape_is_refused_naming_both(gan):
    with pytest.raises(UserError, match="8x8x3.*28x28x1"):
        read_settings(str(gan), "gan", (28, 28, 1))


def test_models_that_carry_code_or_are_damaged_are_refused(tmp_path):
    inputs = keras.Input((2,))
    keras.Model(inputs, keras.layers.Lambda(lambda x: x + 1)(inputs)).save(tmp_path / "code.keras")
    (tmp_path / "damaged.keras").write_bytes((tmp_path / "code.keras").read_bytes()[:500])
    for name in ("code.keras", "damaged.keras"):
        with pytest.raises(UserError, match=name):
            load_network(str(tmp_path), name)
