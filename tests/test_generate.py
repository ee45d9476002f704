import json

import keras
import numpy as np
import pytest
import typer.testing
from PIL import Image

from latentfaces.common import storage
from latentfaces.common.promoted import PROMOTED, Decision, update
from latentfaces.components.evaluate import latents
from latentfaces.components.train.convolution import portable
from latentfaces.components.train.models.dcgan import small_generator
from latentfaces.components.train.models.vae import book_decoder
from latentfaces.pipelines.cli import app


def save_model(folder, family, name, network, shape):
    folder.mkdir(parents=True)
    portable(network).save(folder / f"{name}.keras")
    config = {"model": family, "preset": "small", "image_shape": shape}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A root with a promoted GAN, and a VAE of grey images that is not; their weights are random."""
    root = tmp_path_factory.mktemp("root")
    keras.utils.set_random_seed(0)
    save_model(
        root / "runs" / "r1" / "gan", "gan", "generator", small_generator((16, 16, 3), 64), (16, 16, 3)
    )
    save_model(root / "runs" / "r1" / "vae", "vae", "decoder", book_decoder((8, 8, 1), 2), (8, 8, 1))
    made = Decision(run="r1", model="gan", decision=PROMOTED, why="for a test")
    update(str(root), lambda present: present.decide(made))
    return root


def generate(*arguments):
    return typer.testing.CliRunner().invoke(app, ["generate", *map(str, arguments)])


def test_an_image_follows_from_its_own_seed(root, tmp_path):
    for output, seed, count in (("many", 3, 40), ("one", 37, 1), ("few", 20, 18)):
        done = generate("--root", root, "--count", count, "--seed", seed, "--output", tmp_path / output)
        assert done.exit_code == 0, done.output
        names = sorted(path.name for path in (tmp_path / output).iterdir())
        assert names == [f"{number:06d}.png" for number in range(seed, seed + count)]
    many, one, few = (tmp_path / name / "000037.png" for name in ("many", "one", "few"))
    assert many.read_bytes() == one.read_bytes() == few.read_bytes()
    assert many.read_bytes() != (tmp_path / "many" / "000036.png").read_bytes()
    network = keras.saving.load_model(root / "runs" / "r1" / "gan" / "generator.keras")
    pixels = np.asarray(network(latents.sample(1, 64, 37)))[0]
    np.testing.assert_allclose(np.asarray(Image.open(many)), 255 * pixels, atol=0.51)


def test_a_bucket_and_grey_images(root, bucket):
    folder = root / "runs" / "r1" / "vae"
    for file in folder.iterdir():
        storage.write(bucket / "vae" / file.name, file.read_bytes())
    arguments = ["--model", "vae", "--count", 2, "--output", "gs://bucket/made"]
    assert generate("--model-folder", "gs://bucket/vae", *arguments).exit_code == 0
    assert set(storage.list_files(bucket / "made")) == {"000000.png", "000001.png"}
    (storage.resolve("gs://bucket/made") / "000000.png").download_to(root / "grey.png")
    image = Image.open(root / "grey.png")
    assert (image.size, image.mode) == ((8, 8), "L")


def stranger(folder):
    """A network that would run a program."""
    latents = keras.Input((2,))
    network = keras.Model(latents, keras.layers.Lambda(lambda x: x[:, :, None, None])(latents))
    folder.mkdir()
    network.save(folder / "generator.keras")
    config = {"model": "gan", "preset": "small", "image_shape": [2, 1, 1]}
    (folder / "config.json").write_text(json.dumps(config))


def test_mistakes_are_told_in_a_sentence_and_nothing_is_made(root, tmp_path, caplog):
    stranger(tmp_path / "stranger")
    save_model(tmp_path / "odd", "gan", "generator", small_generator((8, 8, 2), 4), (8, 8, 2))
    output = tmp_path / "out"
    for arguments, says in (
        ([], "no model is named: give --root or --model-folder"),
        (["--root", root, "--model-folder", root], "two ways to name a model: give one of them"),
        (["--root", root, "--model", "vae"], "no vae is promoted"),
        (["--root", root, "--model", "diffusion"], "model diffusion is unknown"),
        (["--root", tmp_path / "none"], "no gan is promoted"),
        (["--model-folder", root / "runs" / "r1" / "vae"], "holds a vae, not a gan: give --model vae"),
        (["--model-folder", tmp_path / "stranger"], "is not a layer that is known to be safe"),
        (["--model-folder", tmp_path / "odd"], "makes images of 2 channels"),
    ):
        caplog.clear()
        done = generate(*arguments, "--output", output)
        assert done.exit_code == 2 and says in done.output + caplog.text, done.output
        assert not output.exists()
