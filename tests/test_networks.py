import dataclasses

import keras
import numpy as np
import pytest

from latentfaces.common.errors import UserError
from latentfaces.common.models import MODELS, find_model, presets, settle
from latentfaces.components.train.convolution import portable
from latentfaces.components.train.models import dcgan

NETWORKS = [(model, preset) for model in MODELS for preset in presets(model)]


def build(model, preset, image_shape, latent_dim):
    config = settle(model, {"preset": preset, "steps": 100}, image_shape)
    return find_model(model, preset)(dataclasses.replace(config, latent_dim=latent_dim)).networks


def summary(network):
    """What the book's listings say of each layer: units or filters, kernel, strides, activation."""
    rows = []
    for layer in network.layers:
        config = layer.get_config()
        names = ("units", "filters", "kernel_size", "strides", "padding", "negative_slope", "rate")
        row = {name: config[name] for name in names if name in config}
        if config.get("activation", "linear") != "linear":
            row["activation"] = config["activation"]
        rows.append((type(layer).__name__, row))
    return [row for row in rows if row[0] != "InputLayer"]


def convolution(kind, filters, kernel, strides=2, **more):
    row = {"filters": filters, "kernel_size": (kernel, kernel), "strides": (strides, strides)}
    return kind, row | {"padding": "same"} | more


def test_the_books_vae_is_the_books():
    networks = build("vae", "book", (28, 28, 1), 2)
    assert networks["encoder"].count_params() == 69_076
    assert networks["decoder"].count_params() == 65_089
    assert summary(networks["encoder"]) == [
        convolution("Conv2D", 32, 3, activation="relu"),
        convolution("Conv2D", 64, 3, activation="relu"),
        ("Flatten", {}),
        ("Dense", {"units": 16, "activation": "relu"}),
        ("Dense", {"units": 2}),
        ("Dense", {"units": 2}),
    ]
    assert summary(networks["decoder"]) == [
        ("Dense", {"units": 7 * 7 * 64, "activation": "relu"}),
        ("Reshape", {}),
        convolution("Conv2DTranspose", 64, 3, activation="relu"),
        convolution("Conv2DTranspose", 32, 3, activation="relu"),
        convolution("Conv2D", 1, 3, strides=1),
        ("Activation", {"activation": "sigmoid"}),
    ]


def test_the_books_gan_is_the_books():
    networks = build("gan", "book", (64, 64, 3), 128)
    assert networks["discriminator"].count_params() == 404_801
    assert networks["generator"].count_params() == 3_979_651
    leaky = ("LeakyReLU", {"negative_slope": 0.2})
    assert summary(networks["discriminator"]) == [
        convolution("Conv2D", 64, 4),
        leaky,
        convolution("Conv2D", 128, 4),
        leaky,
        convolution("Conv2D", 128, 4),
        leaky,
        ("Flatten", {}),
        ("Dropout", {"rate": 0.2}),
        ("Dense", {"units": 1, "activation": "sigmoid"}),
    ]
    assert summary(networks["generator"]) == [
        ("Dense", {"units": 8 * 8 * 128}),
        ("Reshape", {}),
        convolution("Conv2DTranspose", 128, 4),
        leaky,
        convolution("Conv2DTranspose", 256, 4),
        leaky,
        convolution("Conv2DTranspose", 512, 4),
        leaky,
        convolution("Conv2D", 3, 5, strides=1),
        ("Activation", {"activation": "sigmoid"}),
    ]


def test_the_books_presets_are_the_books():
    ours, gan = settle("vae", {"preset": "book"}, (28, 28, 1)), settle("gan", {"preset": "book"}, (64, 64, 3))
    assert (ours.latent_dim, ours.learning_rate, ours.batch_size, ours.epochs) == (2, 1e-3, 128, 30)
    assert (gan.latent_dim, gan.learning_rate, gan.batch_size, gan.epochs) == (128, 1e-4, 32, 100)
    for config in (ours, gan):  # Keras' Adam, the book's loss, nothing of ours
        assert (config.beta_1, config.learning_rate_decay) == (0.9, False)
    assert (ours.calibrated, gan.ema_decay) == (False, 0.0)


@pytest.mark.parametrize("preset", dcgan.DCGAN.presets)
def test_a_gan_has_no_checkerboards_and_the_books_slopes_and_dropout(preset):
    for name, network in build("gan", preset, (32, 32, 3), 8).items():
        for kind, row in summary(network):
            if kind.startswith("Conv2D") and row["strides"] != (1, 1):
                assert row["kernel_size"][0] % row["strides"][0] == 0, (name, row)
        slopes = {row["negative_slope"] for kind, row in summary(network) if kind == "LeakyReLU"}
        assert slopes == {0.2}
        rates = [row["rate"] for kind, row in summary(network) if kind == "Dropout"]
        assert rates == ([0.2] if name == "discriminator" else [])


@pytest.mark.parametrize("shape", [(32, 32, 3), (16, 48, 1)])
@pytest.mark.parametrize(("model", "preset"), NETWORKS)
def test_networks_take_each_image_by_itself_and_survive_saving(model, preset, shape, tmp_path):
    # Statistics over a batch would make two workers differ from one.
    rng = np.random.default_rng(0)
    for name, network in build(model, preset, shape, 6).items():
        takes_latents = name in ("decoder", "generator")
        inputs = rng.random((4, *((6,) if takes_latents else shape)), np.float32)
        inputs[1:] *= 50  # the others of the batch are unlike the first
        outputs = network(inputs)
        for array in outputs if isinstance(outputs, list) else [outputs]:
            expected = {"encoder": (4, 6), "discriminator": (4, 1)}.get(name, (4, *shape))
            assert array.shape == expected
            if takes_latents or name == "discriminator" and preset in dcgan.DCGAN.presets:
                assert 0 <= np.min(array) and np.max(array) <= 1
        portable(network).save(tmp_path / f"{name}.keras")
        loaded = keras.saving.load_model(tmp_path / f"{name}.keras", safe_mode=True)
        assert {type(layer).__module__.split(".")[0] for layer in loaded.layers} == {"keras"}
        alone = loaded(inputs[:1])
        for one, many in zip(alone, outputs, strict=True) if name == "encoder" else [(alone, outputs)]:
            np.testing.assert_allclose(one[0], many[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("model", "preset"), NETWORKS)
def test_sides_that_the_strides_do_not_divide_are_refused(model, preset):
    side = presets(model)[preset].side_multiple
    settle(model, {"preset": preset}, (2 * side, 3 * side, 3))
    networks = build(model, preset, (2 * side, 3 * side, 3), 4)
    for name in ("encoder", "discriminator"):
        assert name not in networks or networks[name].input_shape == (None, 2 * side, 3 * side, 3)
    for name in ("decoder", "generator"):
        assert name not in networks or networks[name].output_shape == (None, 2 * side, 3 * side, 3)
    with pytest.raises(UserError, match=f"multiples of {side}, and these are {2 * side}x{3 * side + 1}: "):
        settle(model, {"preset": preset}, (2 * side, 3 * side + 1, 3))


def test_unknown_presets_are_refused_with_the_known_ones():
    with pytest.raises(UserError, match="huge is unknown for the VAE: choose one of book, small, faces"):
        settle("vae", {"preset": "huge"}, (32, 32, 3))
    with pytest.raises(UserError, match="flow is unknown: choose one of vae, gan"):
        settle("flow", {"preset": "book"}, (32, 32, 3))
