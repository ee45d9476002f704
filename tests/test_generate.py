import io
import json
import tracemalloc
import zipfile
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from conftest import invoke
from google.api_core.exceptions import Forbidden
from PIL import Image

from latentfaces.common import storage
from latentfaces.components.evaluate import latents
from latentfaces.components.generate import generate as generating
from latentfaces.components.generate.trained import Trained


def generate(*arguments):
    return invoke("generate", *arguments)


def pixels(png):
    return np.asarray(Image.open(png))


def test_an_image_follows_from_its_own_seed(trained_root, run_folder, tmp_path):
    for output, seed, count in (("many", 3, 80), ("one", 37, 1), ("few", 20, 18)):
        place = ["--root", trained_root, "--model", "gan", "--output", tmp_path / output]
        done = generate(*place, "--count", count, "--seed", seed)
        assert done.exit_code == 0, done.output
        names = sorted(path.name for path in (tmp_path / output).iterdir())
        assert names == [f"{number:06d}.png" for number in range(seed, seed + count)]
    many, one, few = (tmp_path / name / "000037.png" for name in ("many", "one", "few"))
    assert many.read_bytes() == one.read_bytes() == few.read_bytes()
    assert many.read_bytes() != (tmp_path / "many" / "000036.png").read_bytes()
    network = keras.saving.load_model(run_folder / "gan" / "generator.keras")
    made = np.asarray(network(latents.sample(1, 64, 37)))[0]
    np.testing.assert_allclose(pixels(many), 255 * made, atol=0.51)


def test_a_folder_a_zip_and_arrays_hold_the_same_images_and_the_files_are_the_same_each_time(
    run_folder, tmp_path
):
    contents = {}
    for name in ("folder", "a.zip", "b.zip", "a.npz", "b.npz"):
        model = ["--model", run_folder / "gan", "--count", 70, "--seed", 5, "--truncation", 1]
        assert generate(*model, "--output", tmp_path / name).exit_code == 0
        if (tmp_path / name).is_file():
            contents[name] = (tmp_path / name).read_bytes()
    assert contents["a.zip"] == contents["b.zip"] and contents["a.npz"] == contents["b.npz"]
    with np.load(tmp_path / "a.npz") as arrays:
        images, seeds = arrays["images"], arrays["seeds"]
    assert images.dtype == np.uint8 and images.shape == (70, 16, 16, 3)
    assert seeds.tolist() == list(range(5, 75))
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == [f"{seed:06d}.png" for seed in seeds]
        for seed, image in zip(seeds, images, strict=True):
            packed = archive.read(f"{seed:06d}.png")
            assert packed == (tmp_path / "folder" / f"{seed:06d}.png").read_bytes()
            assert np.array_equal(pixels(io.BytesIO(packed)), image)


@pytest.mark.parametrize("name", ["a.zip", "a.npz"])
def test_a_file_is_written_whole_or_not_at_all(name, run_folder, tmp_path, monkeypatch):
    sample = Trained.sample

    def fail_later(self, count, seed, truncation):
        if seed:
            raise OSError(28, "No space left on device", "disk")
        return sample(self, count, seed, truncation)

    monkeypatch.setattr(Trained, "sample", fail_later)
    (tmp_path / name).write_bytes(b"earlier")
    done = generate("--model", run_folder / "gan", "--count", 70, "--output", tmp_path / name)
    assert done.exit_code == 1 and "No space left" in done.output
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"earlier"


@pytest.mark.parametrize("name", ["a.zip", "a.npz"])
def test_memory_does_not_grow_with_the_count(name, tmp_path, monkeypatch):
    shape = (64, 64, 3)

    def sample(count, seed, truncation):
        return np.full((count, *shape), seed % 251, np.uint8)

    monkeypatch.setattr(generating, "load", lambda folder: SimpleNamespace(sample=sample, image_shape=shape))
    peaks = []
    for count in (200, 2000):
        tracemalloc.start()
        generating.generate("none", count, 0, None, str(tmp_path / name))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # A zip's directory takes a kilobyte for each file; all images would be 25 MB.
    assert peaks[1] - peaks[0] < 4e6 and peaks[1] < 8e6


def test_a_bucket_and_grey_images(bucket, tmp_path):
    points = keras.Input((2,))
    grey = keras.layers.Reshape((8, 8, 1))(keras.layers.Dense(64, activation="sigmoid")(points))
    keras.Model(points, grey).save(tmp_path / "decoder.keras")
    storage.write(bucket / "vae" / "decoder.keras", (tmp_path / "decoder.keras").read_bytes())
    config = json.dumps({"model": "vae", "image_shape": [8, 8, 1]})
    storage.write(bucket / "vae" / "config.json", config.encode())
    for name in ("made", "made.zip", "made.npz"):
        done = generate("--model", "gs://bucket/vae", "--count", 2, "--output", f"gs://bucket/{name}")
        assert done.exit_code == 0, done.output
    assert set(storage.list_files(bucket / "made")) == {"000000.png", "000001.png"}
    image = Image.open(io.BytesIO(storage.read(bucket / "made" / "000000.png")))
    assert (image.size, image.mode) == ((8, 8), "L")
    with np.load(io.BytesIO(storage.read(bucket / "made.npz"))) as arrays:
        assert np.array_equal(arrays["images"][0, ..., 0], np.asarray(image))
    assert zipfile.ZipFile(io.BytesIO(storage.read(bucket / "made.zip"))).namelist() == [
        "000000.png",
        "000001.png",
    ]


def test_a_bucket_that_may_not_be_written_is_told_in_a_sentence(run_folder, bucket, monkeypatch):
    def refuse(target, data):
        raise Forbidden("storage.objects.create is denied")

    monkeypatch.setattr(storage, "write", refuse)
    done = generate("--model", run_folder / "gan", "--count", 1, "--output", "gs://bucket/made")
    assert done.exit_code == 1 and isinstance(done.exception, SystemExit)
    assert "storage.objects.create is denied" in done.output and "your rights" in done.output


def test_other_files_in_the_folder_are_told_of(run_folder, tmp_path):
    model = ["--model", run_folder / "gan", "--count", 2, "--output", tmp_path]
    assert "also holds" not in generate(*model).output
    assert "also holds" not in generate(*model).output
    assert "also holds 1 files that are not of these images" in generate(*model, "--seed", 1).output


def stranger(folder, channels=1, **config):
    """A network that would run a program."""
    points = keras.Input((2,))
    network = keras.Model(points, keras.layers.Lambda(lambda x: x[:, :, None, None])(points))
    folder.mkdir()
    network.save(folder / "generator.keras")
    config = {"model": "gan", "preset": "small", "image_shape": [2, 1, channels]} | config
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_mistakes_are_told_in_a_sentence_and_nothing_is_made(trained_root, run_folder, tmp_path):
    (tmp_path / "a_file").write_text("no folder")
    (tmp_path / "a.zip").mkdir()
    output = tmp_path / "out"
    for arguments, says in (
        ([], "Missing option '--model'"),
        (["--root", trained_root, "--model", "vae"], "no vae is promoted"),
        (["--root", trained_root, "--model", "diffusion"], "model diffusion is unknown"),
        (["--root", tmp_path / "none", "--model", "gan"], "no gan is promoted"),
        (["--model", tmp_path / "none"], "has no config.json: give one of a finished training run"),
        (["--model", stranger(tmp_path / "1")], "is not a layer that is known to be safe"),
        (["--model", stranger(tmp_path / "2", channels=2)], "makes images of 2 channels"),
        (
            ["--model", stranger(tmp_path / "3", model="x\n")],
            "holds a x\\n: give one that holds a vae or a gan",
        ),
        (["--model", run_folder / "gan", "--truncation", "nan"], "the truncation nan can't be"),
        (["--model", run_folder / "gan", "--output", tmp_path / "a_file"], "can't be made in"),
        (["--model", run_folder / "gan", "--output", tmp_path / "a_file" / "x.zip"], "can't be made in"),
        (["--model", run_folder / "gan", "--output", tmp_path / "a.zip"], "a.zip is a folder: name a file"),
        (["--model", run_folder / "gan", "--output", tmp_path / "a.png"], "a.png is an image's name: give a"),
    ):
        done = generate("--output", output, *arguments)
        assert done.exit_code == 2 and says in " ".join(done.output.split()), done.output
        assert not output.exists()
