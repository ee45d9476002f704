import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from latentfaces.common.errors import UserError
from latentfaces.components.evaluate import models
from latentfaces.components.evaluate.models import Network, load_network, load_prior, read_settings

SHAPE = (8, 8, 3)


@pytest.fixture
def gan(tmp_path):
    latents = keras.Input((4,))
    pixels = keras.layers.Dense(192, activation="sigmoid")(latents)
    keras.Model(latents, keras.layers.Reshape(SHAPE)(pixels)).save(tmp_path / "generator.keras")
    (tmp_path / "config.json").write_text(json.dumps({"model": "gan", "image_shape": SHAPE}))
    return tmp_path


def rewrite(path, config=None, weights=None):
    """Changes a network's description, by a function of its text, or its weights, of the open HDF5 file."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    if config:
        members["config.json"] = config(members["config.json"].decode()).encode()
    if weights:
        file = io.BytesIO(members["model.weights.h5"])
        with h5py.File(file, "r+") as opened:
            weights(opened)
        members["model.weights.h5"] = file.getvalue()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def load(folder, takes=(None,), gives=SHAPE):
    return load_network(str(folder), "generator.keras", takes, gives)


def test_many_inputs_run_in_a_few_large_batches(monkeypatch):
    sizes = []

    class Recorder(keras.layers.Layer):
        def call(self, x):
            return tf.py_function(lambda x: sizes.append(len(x)) or x, [x], tf.float32)

        def compute_output_shape(self, input_shape):
            return input_shape

    inputs = keras.Input((3,))
    model = keras.Model(inputs, Recorder()(2 * inputs))
    x = np.random.default_rng(0).random((600, 3), np.float32)
    np.testing.assert_array_equal(Network(model, "it")(x), 2 * x)
    assert sizes == [256, 256, 88] and models.BATCH == 256
    sizes.clear()
    monkeypatch.setattr(models, "BATCH_BYTES", 100 * 3 * 4)
    np.testing.assert_array_equal(Network(model, "it")(x[:250]), 2 * x[:250])
    assert sizes == [100, 100, 50]


def test_an_encoder_gives_its_means_and_its_log_variances(tmp_path):
    images = keras.Input(SHAPE)
    flat = keras.layers.Flatten()(images)
    encoder = keras.Model(images, [keras.layers.Dense(2, name=name)(flat) for name in ("mean", "log_var")])
    encoder.save(tmp_path / "encoder.keras")
    latents = keras.Input((2,))
    decoder = keras.Model(latents, keras.layers.Reshape(SHAPE)(keras.layers.Dense(192)(latents)))
    decoder.save(tmp_path / "generator.keras")
    encode = load_network(str(tmp_path), "encoder.keras", SHAPE, (2,))
    decode = load(tmp_path, (2,))
    x = np.random.default_rng(0).integers(0, 256, (5, *SHAPE), np.uint8)
    means = encoder(x / np.float32(255))[0].numpy()
    np.testing.assert_allclose(encode(x), means, atol=1e-5)
    np.testing.assert_allclose(encode.second()(x), encoder(x / np.float32(255))[1], atol=1e-5)
    np.testing.assert_allclose(decode(means), decoder(means), atol=1e-5)
    assert decode.second() is None


def test_settings_are_returned_where_all_fits(gan):
    assert read_settings(str(gan), "gan", SHAPE) == {"model": "gan", "image_shape": list(SHAPE)}


def test_that_the_networks_are_a_shorter_trainings_is_told(gan, caplog):
    (gan / "longer.txt").touch()
    read_settings(str(gan), "gan", SHAPE)
    assert f"'{gan}' is being trained for longer" in caplog.text


@pytest.mark.parametrize(
    ("spoil", "name", "says"),
    [
        (lambda folder: (folder / "config.json").unlink(), "gan", "has no config.json"),
        (lambda folder: None, "vae", "holds a gan, not a vae: give it as --gan$"),
    ],
)
def test_unfit_model_folders_are_refused(gan, spoil, name, says):
    spoil(gan)
    with pytest.raises(UserError, match=says):
        read_settings(str(gan), name, SHAPE)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "[" * 100_000,
        '{"model": "gan"}',
        '{"model": ["gan"], "image_shape": [8, 8, 3]}',
        '{"model": "gan", "image_shape": 3}',
        '{"model": "gan", "image_shape": {"a": [8], "b": 8, "c": 3}}',
        '{"model": "gan", "image_shape": [8, 8, NaN]}',
        '{"model": "gan", "image_shape": [8, 8, 3], "beta_1": NaN}',
        '{"model": "gan", "image_shape": [8, 8, 3], "beta_1": 1e999}',
        '{"model": "gan", "image_shape": [8, 8, 3], "steps": %s}' % ("1" * 5000),
        '{"model": "gan", "image_shape": [8, 8, 3], "x": %s}' % ("[" * 900 + "]" * 900),
    ],
)
def test_nonsensical_settings_are_one_sentence_or_harmless(gan, content):
    (gan / "config.json").write_text(content)
    try:
        settings = read_settings(str(gan), "gan", SHAPE)
    except UserError as error:
        assert "config.json' does not say which model it is" in str(error)
    else:
        assert "[[[" in content and settings["model"] == "gan"


def test_a_models_name_cannot_command_the_terminal(gan):
    (gan / "config.json").write_text('{"model": "\\u001b[31m", "image_shape": [8, 8, 3]}')
    with pytest.raises(UserError, match="holds a") as caught:
        read_settings(str(gan), "gan", SHAPE)
    assert str(caught.value).isprintable()


def test_a_missing_network_is_told(gan):
    (gan / "generator.keras").unlink()
    with pytest.raises(UserError, match="has no generator.keras: give one of a finished training run"):
        load(gan)


def test_another_image_shape_is_refused_naming_both(gan):
    with pytest.raises(UserError, match="8x8x3.*28x28x1"):
        read_settings(str(gan), "gan", (28, 28, 1))


def test_networks_of_other_shapes_are_refused(gan):
    for takes, gives in (((None,), (28, 28, 1)), ((5,), SHAPE), (SHAPE, (4,))):
        with pytest.raises(UserError, match="generator.keras' .*takes|gives .*is needed"):
            load(gan, takes, gives)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(gan, value):
    def spoil(file):
        file["layers/dense/vars/0"][0, 7] = value

    rewrite(gan / "generator.keras", weights=spoil)
    with pytest.raises(UserError, match="generator.keras' gives values that are not finite"):
        load(gan)


def test_values_that_become_infinite_on_the_way_are_refused(gan):
    def spoil(file):
        file["layers/dense/vars/0"][:] = 1e38

    rewrite(gan / "generator.keras", lambda text: text.replace("sigmoid", "linear"), spoil)
    with pytest.raises(UserError, match="generator.keras' gives values that are not finite"):
        load(gan)(np.full((1, 4), 9, np.float32))


def packed(file):
    del file["layers/dense/vars/0"]
    file["layers/dense/vars"].create_dataset("0", (4, 10**9), np.float32, chunks=True, compression="gzip")


def texts(file):
    del file["layers/dense/vars/0"]
    file["layers/dense/vars"].create_dataset("0", data=["x" * 1000] * 192)


def layer(name, **config):
    """Puts another layer in the place of `Reshape`."""

    def change(text):
        network = json.loads(text)
        reshape = network["config"]["layers"][2]
        reshape.update(class_name=name, config=config, build_config=None)
        return json.dumps(network)

    return change


@pytest.mark.parametrize(
    ("config", "weights", "says"),
    [
        (lambda text: text.replace('"units": 192', '"units": 19200000'), None, ""),
        (lambda text: text.replace('"units": 192', '"units": NaN'), None, ""),
        (lambda text: text.replace('"units": 192', '"units": %s' % ("1" * 400)), None, ""),
        (lambda text: text.replace('"units": 192', '"units": -192'), None, ""),
        (lambda text: "[" * 100_000, None, "recursion"),
        (lambda text: "[]", None, ""),
        (lambda text: text + " " * (1 << 20), None, "longer than 1,048,576 bytes"),
        (lambda text: text.replace('"registered_name": "Functional"', '"registered_name": 1'), None, ""),
        (lambda text: text.replace("Functional", "Sequential"), None, "not a functional model"),
        (lambda text: text.replace('"keras.layers"', '"os"'), None, "os.InputLayer is not a layer"),
        (
            lambda text: text.replace('"module": "keras.initializers"', '"module": "keras.utils"'),
            None,
            "utils",
        ),
        (
            lambda text: text.replace('"registered_name": null', '"registered_name": "a>b"'),
            None,
            "not a layer",
        ),
        (layer("TFSMLayer", filepath="/etc/passwd"), None, "TFSMLayer is not a layer"),
        (layer("StringLookup", vocabulary="/etc/passwd"), None, "StringLookup is not a layer"),
        (layer("TimeDistributed", layer=None), None, "TimeDistributed is not a layer"),
        (layer("\x1b[31m"), None, ""),
        (layer("RepeatVector", n=10**6), None, "takes|gives"),
        (None, packed, "packed"),
        (None, texts, "its weights are not numbers"),
        (None, lambda file: file.pop("layers/dense"), ""),
    ],
)
def test_networks_that_ask_for_what_they_must_not_are_one_sentence(gan, config, weights, says):
    rewrite(gan / "generator.keras", config, weights)
    with pytest.raises(UserError, match=f"generator.keras' can't be loaded as a safe.*{says}") as caught:
        load(gan)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def test_a_layer_that_is_used_twice_is_refused(tmp_path):
    """Its second use may be of any size, which nothing tells."""
    latents, larger = keras.Input((192,)), keras.layers.Reshape(SHAPE)
    larger(keras.layers.Reshape((64, 3))(latents))
    keras.Model(latents, larger(larger(latents))).save(tmp_path / "generator.keras")
    with pytest.raises(UserError, match="uses a layer twice"):
        load(tmp_path)


@pytest.mark.parametrize("length", [0, 500, -100])
def test_models_that_carry_code_or_are_damaged_are_refused(tmp_path, length):
    inputs = keras.Input((192,))
    path = tmp_path / "generator.keras"
    keras.Model(inputs, keras.layers.Reshape(SHAPE)(keras.layers.Lambda(lambda x: x + 1)(inputs))).save(path)
    path.write_bytes(path.read_bytes()[: length or None])
    with pytest.raises(UserError, match="generator.keras' can't be loaded"):
        load(tmp_path)


def save_prior(folder, make=lambda x: keras.layers.Dense(4)(x), dimensions=4):
    noise = keras.Input((dimensions,))
    keras.Model(noise, make(noise)).save(folder / "prior.keras")


@pytest.mark.parametrize(
    ("make", "dimensions", "says"),
    [
        (lambda x: keras.layers.Dense(4)(x), 5, "takes 5, and 4 is needed"),
        (lambda x: keras.layers.Dense(5)(x), 4, "gives 5, and 4 is needed"),
        (lambda x: keras.layers.Reshape((2, 2))(x), 4, "gives 2x2, and 4 is needed"),
        (lambda x: keras.layers.Lambda(lambda y: y + 1)(x), 4, "can't be loaded as a safe Keras model"),
        (lambda x: keras.layers.Dense(4, bias_initializer=keras.initializers.Constant(np.nan))(x), 4,
         "gives values that are not finite"),
    ],
)  # fmt: skip
def test_a_strangers_prior_is_checked(tmp_path, make, dimensions, says):
    save_prior(tmp_path, make, dimensions)
    with pytest.raises(UserError, match=f"prior.keras'.*{says}"):
        load_prior(str(tmp_path), {"model": "vae", "learned_prior": True}, 4)


def test_a_prior_is_read_where_the_settings_say_that_there_is_one(tmp_path):
    for settings in ({"model": "vae"}, {"model": "vae", "learned_prior": False}, {"model": "gan"}):
        assert load_prior(str(tmp_path), settings, 4) is None
    with pytest.raises(UserError, match="has no prior.keras"):
        load_prior(str(tmp_path), {"model": "vae", "learned_prior": True}, 4)
    save_prior(tmp_path)
    prior = load_prior(str(tmp_path), {"model": "vae", "learned_prior": True}, 4)
    assert prior(np.zeros((3, 4), np.float32)).shape == (3, 4)
    (tmp_path / "prior.keras").write_bytes((tmp_path / "prior.keras").read_bytes()[:-100])
    with pytest.raises(UserError, match="prior.keras' can't be loaded"):
        load_prior(str(tmp_path), {"model": "vae", "learned_prior": True}, 4)


def description(*layers):
    """The text of a network that begins with these, (name, options), made without its weights."""
    with keras.StatelessScope(initialize_variables=False):
        x = latents = keras.Input((4,))
        for name, options in (*layers, ("Dense", {"units": 192}), ("Reshape", {"target_shape": SHAPE})):
            x = getattr(keras.layers, name)(**options)(x)
        return keras.Model(latents, x).to_json()


HEAVY = [("Dense", {"units": 10**7})]
LARGE = [
    ("RepeatVector", {"n": 180_000}),
    ("Reshape", {"target_shape": (1, 180_000, 4)}),
    ("UpSampling2D", {"size": (180_000, 1)}),
    ("GlobalMaxPooling2D", {}),
]
MEMORY = """
import sys
from conftest import resident
from latentfaces.common.errors import UserError
from latentfaces.components.evaluate.models import load_network
for folder in sys.argv[1:]:  # the first is loaded, the others are refused
    before = resident() / (1 << 20)
    try:
        load_network(folder, "generator.keras", (None,), (8, 8, 3))
        print("loaded")
    except UserError as error:
        print(round(resident() / (1 << 20) - before), error)
"""


def test_what_is_refused_takes_little_memory(gan, tmp_path):
    """Weights of 7.8 GB, an array of 518 GB, and weights that are 16 GB when they are unpacked."""
    bombs = {
        "heavy": (lambda _: description(*HEAVY), None, "fewer weights than its layers need"),
        "large": (lambda _: description(*LARGE), None, "numbers of one image"),
        "packed": (None, packed, "its weights are packed"),
    }
    for name, (config, weights, _) in bombs.items():
        shutil.copytree(gan, tmp_path / name)
        with ThreadPoolExecutor(1) as other:  # with which Keras' variables without values are gone
            other.submit(rewrite, tmp_path / name / "generator.keras", config, weights).result()
    command = [sys.executable, "-c", MEMORY, gan, *(tmp_path / name for name in bombs)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[0] == "loaded" and len(lines) == 4
    for line, (_, _, says) in zip(lines[1:], bombs.values(), strict=True):
        assert says in line and int(line.split()[0]) < 50, line
