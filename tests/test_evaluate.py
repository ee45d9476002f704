import base64
import io
import json
import shutil
import socket
from html.parser import HTMLParser

import keras
import numpy as np
import pytest
from gcp_storage_emulator.server import create_server
from PIL import Image

from components.evaluate import gallery
from components.evaluate.evaluate import evaluate
from components.evaluate.models import Network, Vae
from preprocessing import storage
from preprocessing.dataset import (
    Dataset,
    ShardWriter,
    encode_example,
    make_splits,
    shard_name,
    write_dataset,
)
from preprocessing.errors import UserError

SHAPE = (16, 16, 3)
ATTRIBUTES = ("Smiling", "Eyeglasses", "Male")
SIZES = {"train": 300, "valid": 40, "test": 60}


def draw(count, seed):
    """Noise; a smile is a bright bar below, glasses a dark one above, and nobody is labelled Male."""
    rng = np.random.default_rng(seed)
    images = rng.integers(60, 190, (count, *SHAPE), np.uint8)
    attributes = rng.integers(0, 2, (count, 3), np.uint8) * np.array([1, 1, 0], np.uint8)
    images[attributes[:, 0] == 1, 11:14] = 255
    images[attributes[:, 1] == 1, 2:5] = 0
    return images, attributes


def write_split(folder, split, images, attributes):
    folder.mkdir(exist_ok=True)
    name = shard_name(split, 0, 1)
    with ShardWriter((folder / name).open("wb")) as writer:
        for index, image in enumerate(images):
            labels = None if attributes is None else attributes[index].tobytes()
            writer.write(encode_example(image.tobytes(), f"{split}{index}.png", labels))
    return split, writer.shard(name)


def save_model(folder, kind, shape, latent_dim, **networks):
    folder.mkdir()
    for name, network in networks.items():
        network.save(folder / f"{name}.keras")
    config = {"model": kind, "preset": "<script>x</script>", "image_shape": shape, "latent_dim": latent_dim}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "history.csv").write_text("step,epoch,seconds,total_loss\n10,0,1.5,9.0\n20,1,3.0,7.0\n")


def perfect_encoder(shape):
    """Its latents are the pixels themselves."""
    images = keras.Input(shape)
    mean = keras.layers.Flatten()(images)
    return keras.Model(images, [mean, 0 * mean])


def perfect_decoder(shape):
    latents = keras.Input((int(np.prod(shape)),))
    return keras.Model(latents, keras.layers.Reshape(shape)(latents))


def random_generator(shape, latent_dim):
    latents = keras.Input((latent_dim,))
    start = keras.initializers.GlorotNormal(seed=1)
    pixels = keras.layers.Dense(int(np.prod(shape)), activation="sigmoid", kernel_initializer=start)(latents)
    return keras.Model(latents, keras.layers.Reshape(shape)(pixels))


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """A folder with a data set, a VAE that loses nothing, and a GAN."""
    root = tmp_path_factory.mktemp("faces")
    data = root / "data"
    splits = [
        write_split(data, split, *draw(count, seed)) for seed, (split, count) in enumerate(SIZES.items())
    ]
    write_dataset(data, Dataset(SHAPE, ATTRIBUTES, make_splits(splits), 0, "drawn <b>here</b>"))
    networks = {"encoder": perfect_encoder(SHAPE), "decoder": perfect_decoder(SHAPE)}
    save_model(root / "vae", "vae", SHAPE, 768, **networks)
    save_model(root / "gan", "gan", SHAPE, 5, generator=random_generator(SHAPE, 5))
    return root


def run(root, output):
    return evaluate(str(root / "data"), str(output), vae=str(root / "vae"), gan=str(root / "gan"))


@pytest.fixture(scope="module")
def result(faces):
    return run(faces, faces / "out")


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_everything_is_written_and_the_metrics_returned(faces, result):
    names = [
        "real", "gan_samples", "reconstructions", "vae_samples", "interpolations", "concept_smiling",
    ]  # fmt: skip
    expected = {"metrics.json", "report.html", *(f"grids/{name}.png" for name in names)}
    assert contents(faces / "out").keys() == expected
    assert json.loads((faces / "out" / "metrics.json").read_text()) == result
    assert result["held_out"] == {"split": "test", "examples": 60} and result["notes"] == []


def test_a_perfect_vae_scores_perfectly(result):
    assert result["vae"]["reconstruction_mse"] == 0 and result["vae"]["reconstruction_psnr_db"] == 100
    assert result["attributes"].keys() == {"Smiling", "Eyeglasses"}
    _, attributes = draw(60, seed=2)
    for index, row in enumerate(result["attributes"].values()):
        assert row["real_accuracy"] > 0.95
        assert row["reconstruction_accuracy"] == row["real_accuracy"]
        assert row["real_share"] == pytest.approx(attributes[:, index].mean())
        assert row["guessing"] == max(row["real_share"], 1 - row["real_share"])
        assert 0 <= row["gan_share"] <= 1 and 0 <= row["vae_share"] <= 1


def test_the_smile_comes_and_goes_along_its_vector(result):
    shares = dict(zip(result["concept"]["steps"], result["concept"]["shares"], strict=True))
    assert shares[-1.5] < 0.05 and shares[1.5] > 0.95
    assert shares[0] == pytest.approx(result["attributes"]["Smiling"]["real_share"], abs=0.05)


def test_originals_stand_above_their_equals(faces, result):
    images, _ = draw(60, seed=2)
    picture = gallery.reconstructions(images, images / np.float32(255), "test")
    assert picture.png == (faces / "out" / "grids" / "reconstructions.png").read_bytes()
    rows = np.asarray(Image.open(io.BytesIO(picture.png)))
    np.testing.assert_array_equal(rows[:96], rows[100:196])


class Resources(HTMLParser):
    def __init__(self):
        super().__init__()
        self.links, self.tags = [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]


def test_the_report_holds_its_pictures_and_escapes_what_it_is_told(faces, result):
    page = (faces / "out" / "report.html").read_text()
    parsed = Resources()
    parsed.feed(page)
    embedded = [base64.b64decode(link.removeprefix("data:image/png;base64,")) for link in parsed.links]
    assert sorted(embedded) == sorted(path.read_bytes() for path in (faces / "out" / "grids").iterdir())
    assert not parsed.tags & {"script", "b", "link"}
    assert "&lt;script&gt;" in page and "drawn &lt;b&gt;here&lt;/b&gt;" in page
    assert page.count("<polyline") == 2 and "train 300, valid 40, test 60" in page


@pytest.fixture
def bucket(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    caches = (storage._client, storage._require_bucket)
    for cache in caches:
        cache.cache_clear()
    with create_server("127.0.0.1", port, in_memory=True, default_bucket="faces"):
        yield storage.resolve("gs://faces/run")
    for cache in caches:
        cache.cache_clear()


def test_the_same_seed_gives_the_same_bytes_on_a_bucket_too(faces, result, bucket):
    for folder in ("data", "vae", "gan"):
        for name, content in contents(faces / folder).items():
            storage.write(bucket / folder / name, content)
    models = {"vae": "gs://faces/run/vae", "gan": "gs://faces/run/gan"}
    assert evaluate("gs://faces/run/data", "gs://faces/run/out", **models) == result
    local = contents(faces / "out")
    assert set(storage.list_files(bucket / "out")) == local.keys()
    for name in local.keys() - {"report.html"}:  # it names the data set's place
        assert storage.read(bucket / "out" / name) == local[name]
    with pytest.raises(UserError, match="elsewhere"):
        run(faces, "gs://elsewhere/out")


def test_an_earlier_evaluation_is_replaced_and_another_seed_draws_other_samples(faces, result, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(faces / "out", output)
    (output / "grids" / "mine.png").touch()
    data = tmp_path / "unlabelled"
    splits = [write_split(data, split, draw(10, seed=2)[0], None) for split in SIZES]
    write_dataset(data, Dataset(SHAPE, (), make_splits(splits), 0, "drawn"))
    metrics = evaluate(str(data), str(output), gan=str(faces / "gan"), seed=1)
    grids = {"grids/real.png", "grids/gan_samples.png", "grids/mine.png"}
    assert contents(output).keys() == grids | {"metrics.json", "report.html"}
    assert metrics.keys() == {"seed", "held_out", "real", "gan", "notes"}
    samples = "grids/gan_samples.png"
    assert contents(output)[samples] != contents(faces / "out")[samples]


def test_grey_digits_without_attributes_or_a_test_split(tmp_path):
    shape = (28, 28, 1)
    images = np.random.default_rng(0).integers(0, 256, (9, *shape), np.uint8)
    data = tmp_path / "data"
    for train, valid, split, note in (
        (6, 3, "valid", "no test split"),
        (9, 0, "train", "only a train split"),
    ):
        parts = [write_split(data, "train", images[:train], None)]
        if valid:
            parts.append(write_split(data, "valid", images[train:], None))
        write_dataset(data, Dataset(shape, (), make_splits(parts), 0, "digits"))
        folder = tmp_path / split
        flat = perfect_encoder(shape)
        mean = keras.layers.Dense(2, kernel_initializer=keras.initializers.GlorotNormal(seed=1))(
            flat.outputs[0]
        )
        encoder = keras.Model(flat.inputs, [mean, 0 * mean])
        save_model(folder, "vae", shape, 2, encoder=encoder, decoder=random_generator(shape, 2))
        metrics = evaluate(str(data), str(folder / "out"), vae=str(folder))
        assert metrics["held_out"] == {"split": split, "examples": valid or train}
        assert note in metrics["notes"][0] and "no attributes" in metrics["notes"][1]
        assert "attributes" not in metrics and "concept" not in metrics
        names = {path.stem for path in (folder / "out" / "grids").iterdir()}
        assert names == {"real", "reconstructions", "vae_samples", "interpolations", "manifold"}


def test_the_manifold_grows_to_the_right_and_upwards_by_the_quantiles_of_the_data():
    latents = keras.Input((2,))
    means = np.stack([np.linspace(-1, 1, 201), np.linspace(0, 2, 201) ** 2], axis=1).astype(np.float32)
    for dimension, low, reach in ((0, -1, 2), (1, 0, 4)):
        pixel = keras.layers.Reshape((1, 1, 1))((latents[:, dimension : dimension + 1] - low) / reach)
        vae = Vae(encoder=None, decoder=Network(keras.Model(latents, pixel)))
        sheet = np.asarray(Image.open(io.BytesIO(gallery.manifold(vae, means).png)))[..., 0]
        shares = np.linspace(0.025, 0.975, 30)
        expected = [255 * shares] if dimension == 0 else 255 * shares[::-1, None] ** 2
        np.testing.assert_allclose(sheet, np.broadcast_to(expected, (30, 30)), atol=1)


def test_mistakes_are_told_before_anything_is_made(faces, tmp_path):
    data, vae, gan = (str(faces / name) for name in ("data", "vae", "gan"))
    file = tmp_path / "file"
    file.touch()
    output = tmp_path / "out"
    digits = tmp_path / "digits"
    save_model(digits, "gan", (28, 28, 1), 2, generator=random_generator((28, 28, 1), 2))
    cases = [
        ({"dataset": data}, "--vae, --gan or both"),
        ({"dataset": str(tmp_path), "gan": gan}, "dataset.json"),
        ({"dataset": data, "vae": str(tmp_path / "none")}, "config.json"),
        ({"dataset": data, "vae": vae, "gan": str(digits)}, "28x28x1.*16x16x3"),
        ({"dataset": data, "gan": gan, "output": str(file / "out")}, "can't be written"),
    ]
    for arguments, says in cases:
        with pytest.raises(UserError, match=says):
            evaluate(**{"output": str(output), **arguments})
        assert not output.exists()
