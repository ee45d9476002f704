import base64
import dataclasses
import hashlib
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from html.parser import HTMLParser
from types import SimpleNamespace
from unittest import mock

import keras
import numpy as np
import pytest
from conftest import make_dataset
from PIL import Image

from latentfaces.common import storage
from latentfaces.common.config import EvaluateOptions
from latentfaces.common.dataset import ShardWriter, encode_example, make_splits, read_dataset, write_dataset
from latentfaces.common.errors import RunError, UserError
from latentfaces.common.lease import hold
from latentfaces.common.models import MODELS
from latentfaces.common.pictures import grid
from latentfaces.components.evaluate import classifier, inputs
from latentfaces.components.evaluate import folder as evaluations
from latentfaces.components.evaluate.concepts import ESTIMATORS, concepts
from latentfaces.components.evaluate.evaluate import evaluate
from latentfaces.components.evaluate.feature_sets import feature_sets
from latentfaces.components.evaluate.figures.manifold import manifold
from latentfaces.components.evaluate.figures.samples import samples
from latentfaces.components.evaluate.inputs import Autoencoder, Inputs, TrainedModel
from latentfaces.components.evaluate.metrics.memorisation import memorisation
from latentfaces.components.evaluate.registry import (
    FIGURES,
    METRICS,
    Fact,
    Picture,
    Result,
    Table,
    import_modules,
)

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


def save_model(folder, name, shape, latent_dim, **networks):
    folder.mkdir()
    for file, network in networks.items():
        network.save(folder / f"{file}.keras")
    config = {"model": name, "preset": "<script>x</script>", "image_shape": shape, "latent_dim": latent_dim}
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


def random_encoder(shape, latent_dim):
    images = keras.Input(shape)
    start = keras.initializers.GlorotNormal(seed=2)
    mean = keras.layers.Dense(latent_dim, kernel_initializer=start)(keras.layers.Flatten()(images))
    return keras.Model(images, [mean, 0 * mean])


def random_generator(shape, latent_dim):
    latents = keras.Input((latent_dim,))
    start = keras.initializers.GlorotNormal(seed=1)
    pixels = keras.layers.Dense(int(np.prod(shape)), activation="sigmoid", kernel_initializer=start)(latents)
    return keras.Model(latents, keras.layers.Reshape(shape)(pixels))


@pytest.fixture(scope="module", autouse=True)
def remembered():
    """In this process networks are trained once on the same images, and briefly on few, to save minutes."""
    train, known = classifier.train_classifier, {}

    def remember(images, attributes, seed):
        key = (images.tobytes(), attributes.tobytes(), seed)
        if key not in known:
            known[key] = train(images, attributes, seed, **({} if len(images) > 50 else {"steps": 20}))
        return known[key]

    with mock.patch.object(classifier, "train_classifier", remember):
        yield


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """A folder with a data set, a VAE that loses nothing, and a GAN."""
    root = tmp_path_factory.mktemp("faces")
    splits = {split: draw(count, seed) for seed, (split, count) in enumerate(SIZES.items())}
    make_dataset(root / "data", ATTRIBUTES, "drawn <b>here</b>", **splits)
    networks = {"encoder": perfect_encoder(SHAPE), "decoder": perfect_decoder(SHAPE)}
    save_model(root / "vae", "vae", SHAPE, 768, **networks)
    save_model(root / "gan", "gan", SHAPE, 5, generator=random_generator(SHAPE, 5))
    return root


def run(root, output):
    return evaluate(f"{root}/data", str(output), {name: f"{root}/{name}" for name in ("vae", "gan")})


@pytest.fixture(scope="module")
def result(faces):
    return run(faces, faces / "out")


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_everything_is_written_and_the_metrics_returned(faces, result):
    names = [
        "real", "reconstructions", "reconstructions_extremes", "plane", "encoded", "concepts",
        "concept_smiling", "concept_eyeglasses", "concept_effects", "spectra",
        *(f"{model}_{name}" for model in MODELS for name in ("samples", "nearest", "interpolations")),
    ]  # fmt: skip
    expected = {"metrics.json", "report.html", "concepts.npz", *(f"grids/{name}.png" for name in names)}
    expected |= {f"grids/{model}_walk.{kind}" for model in MODELS for kind in ("webp", "gif")}
    assert contents(faces / "out").keys() == expected
    assert json.loads((faces / "out" / "metrics.json").read_text()) == result
    assert result["held_out"] == {"split": "test", "examples": 60} and result["notes"] == []
    listed = expected - {"metrics.json", "report.html"}
    assert result["files"] == {
        name: hashlib.sha256((faces / "out" / name).read_bytes()).hexdigest() for name in listed
    }


def test_a_perfect_vae_scores_perfectly(result):
    assert result["vae"]["reconstruction_mse"] == 0 and result["vae"]["reconstruction_psnr_db"] == 100
    assert set(result["sharpness"]["vae_reconstructions"].values()) == {1.0}
    assert result["checkerboard"]["vae_reconstructions"] == result["checkerboard"]["real"]
    assert result["vae"]["active_units"] == result["vae"]["latents"] == 768
    assert result["attributes"].keys() == {"Smiling", "Eyeglasses"}
    _, attributes = draw(60, seed=2)
    for index, row in enumerate(result["attributes"].values()):
        assert row["real_accuracy"] > 0.95
        assert row["reconstruction_accuracy"] == row["real_accuracy"]
        assert row["real_share"] == pytest.approx(attributes[:, index].mean())
        assert row["guessing"] == max(row["real_share"], 1 - row["real_share"])
        assert 0 <= row["gan_share"] <= 1 and 0 <= row["vae_share"] <= 1
        missed = abs(row["held_out_share"] - row["real_share"])
        assert missed <= 1 - row["real_accuracy"] and abs(row["train_share"] - 0.5) < 0.1


def test_distances_tell_real_images_from_noise(result):
    found = result["distances"]
    assert (found["features"], found["count"]) == ("attributes", 60)
    perfect, train, noise = (found[name] for name in ("vae_reconstructions", "train", "gan_samples"))
    assert perfect["frechet_distance"] == pytest.approx(0, abs=1e-6) and perfect["precision"] == 1
    assert abs(perfect["kernel_distance"]) < 4 * perfect["kernel_distance_error"]
    assert train["frechet_distance"] < noise["frechet_distance"] / 3
    assert train["coverage"] > 0.8 > 0.2 > noise["coverage"]
    assert train["kernel_distance"] < noise["kernel_distance"]


def test_principal_components_are_the_line_to_beat(faces, result, tmp_path):
    # as many as there are values in an image lose nothing, and are no compression
    assert "principal_components_psnr_db" not in result["vae"]
    folder = tmp_path / "vae"
    encoder, decoder = random_encoder(SHAPE, 20), random_generator(SHAPE, 20)
    save_model(folder, "vae", SHAPE, 20, encoder=encoder, decoder=decoder)
    metrics = evaluate(str(faces / "data"), str(tmp_path / "out"), {"vae": str(folder)})
    train, held_out = (draw(SIZES[split], seed)[0] / 255 for seed, split in ((0, "train"), (2, "test")))
    mean = train.reshape(len(train), -1).mean(axis=0)
    _, _, axes = np.linalg.svd(train.reshape(len(train), -1) - mean, full_matrices=False)
    centred = held_out.reshape(len(held_out), -1) - mean
    made = np.clip(centred @ axes[:20].T @ axes[:20] + mean, 0, 1)
    expected = -10 * np.log10(np.mean(np.square(made - held_out.reshape(len(held_out), -1))))
    assert metrics["vae"]["principal_components_psnr_db"] == pytest.approx(expected, abs=0.1)
    # samples from the mixture are from where its latents are, which is not N(0, I)
    names = ("vae_samples", "vae_mixture_samples", "vae_reconstructions")
    prior, mixture, own = (metrics["distances"][name]["frechet_distance"] for name in names)
    assert abs(mixture - own) < abs(prior - own) / 10


def test_a_model_that_copies_is_found_out(faces, tmp_path):
    class Copies:
        inputs = Inputs(str(faces / "data"), {}, EvaluateOptions())
        title = "VAE"

    inputs = Copies.inputs
    inputs.__dict__["held_out_features"] = np.random.default_rng(0).normal(size=(400, 8))
    inputs.__dict__["train_features"] = np.random.default_rng(1).normal(size=(500, 8))
    Copies.sample_features = inputs.train_features[:200] + 1e-3
    assert memorisation(Copies).numbers["memorised_share"] == 1
    Copies.sample_features = np.random.default_rng(2).normal(size=(1000, 8))
    assert memorisation(Copies).numbers["memorised_share"] == pytest.approx(0.01, abs=0.02)
    inputs.real.split = "train"  # nothing is held out
    assert memorisation(Copies) is None
    rows, apart = inputs.nearest_train(inputs.train_features[[7, 3]])
    assert rows.tolist() == [7, 3] and apart.max() < 1e-9


def test_the_smile_comes_and_goes_along_its_vector(result):
    smile = result["concepts"]["Smiling"]
    shares = dict(zip(smile["steps"], smile["shares"], strict=True))
    assert shares[-1.5] < 0.05 and shares[1.5] > 0.95 and shares[0] == pytest.approx(0.5, abs=0.1)
    for number, name in enumerate(("Smiling", "Eyeglasses")):
        row = result["concepts"][name]
        assert row["works"] and row["success"] > 0.95 and row["leakage"] < 0.05 and row["identity"] < 0.5
        assert row["effects"][number] == row["success"] and row["effects"][1 - number] == row["leakage"]


def test_concepts_are_left_for_others_in_a_file_of_numpys(faces, result):
    with np.load(faces / "out" / "concepts.npz", allow_pickle=False) as file:
        assert file["names"].tolist() == ["Smiling", "Eyeglasses"] and file["works"].tolist() == [True, True]
        assert file["strengths"].tolist() == [row["strength"] for row in result["concepts"].values()]
        smile, glasses = file["vectors"].reshape(2, *SHAPE)
        decoder = (faces / "vae" / "decoder.keras").read_bytes()
        assert file["decoder_sha256"] == hashlib.sha256(decoder).hexdigest()
    assert smile.dtype == np.float32 and smile[11:14].mean() > 0.4 and abs(smile[:11].mean()) < 0.05
    assert glasses[2:5].mean() < -0.4


@pytest.mark.parametrize("estimator", ["means", "logistic"])
def test_concept_vectors_are_found_as_is_asked_for(faces, estimator):
    inputs = Inputs(str(faces / "data"), {"vae": str(faces / "vae")}, EvaluateOptions(concepts=estimator))
    images, attributes = draw(SIZES["train"], seed=0)
    expected = ESTIMATORS[estimator](images.reshape(len(images), -1) / 255, attributes[:, :2])
    for concept, vector in zip(concepts(inputs.models[0]), expected, strict=True):
        np.testing.assert_allclose(concept.vector, vector, atol=1e-3)


def test_originals_stand_above_their_equals(faces, result):
    grids = faces / "out" / "grids"
    pairs, real = (np.asarray(Image.open(grids / f"{name}.png")) for name in ("reconstructions", "real"))
    np.testing.assert_array_equal(pairs[:96], real[:96])
    np.testing.assert_array_equal(pairs[:96], pairs[100:196])


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
    embedded = [
        Image.open(io.BytesIO(base64.b64decode(link.removeprefix("data:image/webp;base64,"))))
        for link in parsed.links
        if not link.startswith("#")
    ]
    files = [Image.open(path) for path in (faces / "out" / "grids").iterdir() if path.suffix != ".gif"]
    assert sorted(image.size for image in embedded) == sorted(image.size for image in files)
    assert not parsed.tags & {"b", "link", "iframe"}
    assert "&lt;script&gt;" in page and "drawn &lt;b&gt;here&lt;/b&gt;" in page
    assert page.count("<polyline") == 2 and "train 300, valid 40, test 60" in page


def test_the_same_seed_gives_the_same_bytes_on_a_bucket_too(faces, result, bucket):
    for folder in ("data", "vae", "gan"):
        for name, content in contents(faces / folder).items():
            storage.write(bucket / folder / name, content)
    assert run("gs://bucket", "gs://bucket/out") == result
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
    data = make_dataset(tmp_path / "unlabelled", **{split: draw(10, seed=2)[0] for split in SIZES})
    metrics = evaluate(str(data), str(output), {"gan": str(faces / "gan")}, seed=1)
    names = ("real", "gan_samples", "gan_nearest", "gan_interpolations", "spectra", "mine")
    grids = {f"grids/{name}.png" for name in names} | {"grids/gan_walk.webp", "grids/gan_walk.gif"}
    assert contents(output).keys() == grids | {"metrics.json", "report.html"}
    keys = {"seed", "dataset", "held_out", "real", "gan", "notes", "judgement", "files"}
    assert metrics.keys() == keys | {"sharpness", "checkerboard"}
    samples = "grids/gan_samples.png"
    assert contents(output)[samples] != contents(faces / "out")[samples]


def test_grey_digits_without_attributes_or_a_test_split(tmp_path):
    shape = (28, 28, 1)
    images = np.random.default_rng(0).integers(0, 256, (9, *shape), np.uint8)
    for train, valid, split, note in (
        (6, 3, "valid", "no test split"),
        (9, 0, "train", "only a train split"),
    ):
        parts = {"train": images[:train], "valid": images[train:]}
        data = make_dataset(tmp_path / "data", **{name: part for name, part in parts.items() if len(part)})
        folder = tmp_path / split
        flat = perfect_encoder(shape)
        mean = keras.layers.Dense(2, kernel_initializer=keras.initializers.GlorotNormal(seed=1))(
            flat.outputs[0]
        )
        encoder = keras.Model(flat.inputs, [mean, 0 * mean])
        save_model(folder, "vae", shape, 2, encoder=encoder, decoder=random_generator(shape, 2))
        metrics = evaluate(str(data), str(folder / "out"), {"vae": str(folder)})
        assert metrics["held_out"] == {"split": split, "examples": valid or train}
        assert note in metrics["notes"][0] and "no attributes" in metrics["notes"][1]
        assert "attributes" not in metrics and "concepts" not in metrics
        names = {path.stem for path in (folder / "out" / "grids").iterdir()}
        assert names == {
            "real",
            "reconstructions",
            "reconstructions_extremes",
            "vae_samples",
            "vae_mixture_samples",
            "vae_nearest",
            "vae_walk",
            "vae_interpolations",
            "manifold",
            "spectra",
            "manifold_book",
            "encoded",
        }


def test_the_manifold_grows_to_the_right_and_upwards_by_the_quantiles_of_the_data():
    means = np.stack([np.linspace(-1, 1, 201), np.linspace(0, 2, 201) ** 2], axis=1).astype(np.float32)
    inputs = SimpleNamespace(fitting=lambda count: count)
    for dimension, low, reach in ((0, -1, 2), (1, 0, 4)):

        def generate(points, dimension=dimension, low=low, reach=reach):
            return (points[..., dimension, None, None, None] - low) / reach

        picture = manifold(SimpleNamespace(latent_dim=2, means=means, generate=generate, inputs=inputs))
        shares = np.linspace(0.025, 0.975, 30)
        expected = [255 * shares] if dimension == 0 else 255 * shares[::-1, None] ** 2
        sheet = np.asarray(picture.image)[..., 0]
        np.testing.assert_allclose(sheet, np.broadcast_to(expected, (30, 30)), atol=1)


def test_what_is_registered_appears_in_page_and_metrics(faces, tmp_path, monkeypatch):
    """A metric and a figure of each kind, by themselves: nothing else knows of them."""
    for registry in (METRICS, FIGURES):
        monkeypatch.setattr(registry, "entries", [])

    @METRICS.register("{model}", about=TrainedModel)
    def loudness(model):
        assert model.samples is model.samples  # made once
        return Result({"loudness": 11}, facts=[Fact(f"Loudness of the <{model.title}>", "11")])

    @METRICS.register("comparison", about=Inputs)
    def comparison(inputs):
        table = Table("Of & all", "Its <caption>", ["", "models,\nin all"], [["<row>", "2"]])
        return Result({"models": len(inputs.models)}, tables=[table])

    @METRICS.register("nothing", about=Autoencoder)
    def nothing(model):
        return None

    @FIGURES.register("first", about=TrainedModel)
    def first(model):
        shown = grid(model.samples[None, :1])
        return Picture(f"<One> of the {model.title}", "Its caption", "Its <sight>", shown)

    monkeypatch.setattr(
        "latentfaces.components.evaluate.classifier.train_classifier", lambda *_: pytest.fail("not asked for")
    )
    monkeypatch.setattr("latentfaces.components.evaluate.interactive.working", lambda _: [])
    metrics = run(faces, tmp_path)
    names = ["seed", "dataset", "held_out", "gan", "vae", "comparison", "notes", "judgement", "files"]
    assert list(metrics) == names and metrics["judgement"].startswith(
        "Nothing was measured by which to judge"
    )
    assert metrics["gan"] == metrics["vae"] == {"loudness": 11} and metrics["comparison"] == {"models": 2}
    assert {path.stem for path in (tmp_path / "grids").iterdir()} == {"first", "gan_first"}
    page = (tmp_path / "report.html").read_text()
    assert page.index("<dt>Loudness of the &lt;VAE&gt;</dt><dd>11</dd>") < page.index("the &lt;GAN&gt;</dt>")
    assert page.index("<h3>&lt;One&gt; of the GAN</h3>") < page.index("<h3>&lt;One&gt; of the VAE</h3>")
    assert 'alt="Its &lt;sight&gt;"' in page
    assert "<h2>Of &amp; all</h2>" in page and "Its &lt;caption&gt;" in page
    assert "<th>models,<br>in all</th>" in page and '<th scope="row">&lt;row&gt;</th><td>2</td>' in page
    assert "Reconstruction" not in page and "Attributes" not in page


def test_a_module_in_the_folder_is_registered_after_those_that_are_named(tmp_path, monkeypatch):
    (tmp_path / "findings").mkdir()
    for name in ("__init__", "a", "b", "c"):
        (tmp_path / "findings" / f"{name}.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    import_modules("findings", first=("c",))
    assert [name for name in sys.modules if name.startswith("findings.")] == [f"findings.{x}" for x in "cab"]


def test_samples_are_of_the_prior_that_was_learned(faces, tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "SAMPLES", 8)
    folder = shutil.copytree(faces / "vae", tmp_path / "vae")
    settings = json.loads((folder / "config.json").read_text())
    noise = keras.Input((768,))
    always = keras.layers.Dense(768, kernel_initializer="zeros", bias_initializer="ones")(noise)
    keras.Model(noise, always).save(folder / "prior.keras")

    def read():
        asked = EvaluateOptions(features="random")
        return Inputs(str(faces / "data"), {"vae": str(folder)}, asked)

    assert read().models[0].prior is None  # of a version that learned none
    (folder / "config.json").write_text(json.dumps(settings | {"learned_prior": True}))
    (model,) = read().models
    assert len(model.samples) == 8 and np.ptp(model.samples, axis=0).max() == 0
    features = np.concatenate([*feature_sets(model.inputs, 40)["vae_samples"][1]])  # most are not held
    assert len(features) >= 40 and np.ptp(features, axis=0).max() < 1e-6
    assert "the prior that was learned" in samples(model).caption
    (folder / "prior.keras").unlink()
    with pytest.raises(UserError, match="has no prior.keras"):
        read()


class Other:
    """A second family with an encoder."""

    title, encoder, generator, prior = "AE", "encoder", "decoder", None


def test_what_a_second_autoencoder_gives_has_its_name_in_front(faces, tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "ae", (f"{__name__}:Other",))
    shutil.copytree(faces / "vae", tmp_path / "ae")
    config = tmp_path / "ae" / "config.json"
    config.write_text(config.read_text().replace('"vae"', '"ae"'))
    output = tmp_path / "out"
    models = {"vae": str(faces / "vae"), "ae": str(tmp_path / "ae")}
    metrics = evaluate(str(faces / "data"), str(output), models)
    assert metrics["concepts"] == metrics["ae_concepts"] and metrics["ae"] == metrics["vae"]
    row = metrics["attributes"]["Smiling"]
    assert row["ae_reconstruction_accuracy"] == row["reconstruction_accuracy"]
    names = ["reconstructions", "reconstructions_extremes", "plane", "encoded", "concepts"]
    names += ["concept_smiling", "concept_eyeglasses", "concept_effects"]
    own = ("samples", "nearest", "walk", "interpolations")
    expected = {"real", "spectra", *(f"{model}_{name}" for model in ("vae", "ae") for name in own)}
    expected |= {*names, *(f"ae_{name}" for name in names)}
    assert {path.stem for path in (output / "grids").iterdir()} == expected
    page = (output / "report.html").read_text()
    assert "<h3>AE: Reconstructions</h3>" in page and "<dt>AE: Reconstruction of " in page
    evaluate(str(faces / "data"), str(output), {"vae": str(faces / "vae")})
    assert {path.stem for path in (output / "grids").iterdir()} == {
        "real",
        *(f"vae_{name}" for name in own),
        "spectra",
        *names,
    }


def test_mistakes_are_told_before_anything_is_made(faces, tmp_path):
    data, vae, gan = (str(faces / name) for name in ("data", "vae", "gan"))
    file = tmp_path / "file"
    file.touch()
    output = tmp_path / "out"
    digits = tmp_path / "digits"
    save_model(digits, "gan", (28, 28, 1), 2, generator=random_generator((28, 28, 1), 2))
    cases = [
        ({"models": {}}, "there is no model to evaluate: give --vae or --gan$"),
        ({"dataset": str(tmp_path), "models": {"gan": gan}}, "dataset.json"),
        ({"models": {"vae": str(tmp_path / "none")}}, "config.json"),
        ({"models": {"vae": vae, "gan": str(digits)}}, "28x28x1.*16x16x3"),
        ({"models": {"diffusion": gan}}, "model diffusion is unknown"),
        ({"models": {"gan": gan}, "seed": -1}, "--seed -1 is out of bounds"),
        ({"models": {"gan": gan}, "output": str(file / "out")}, "cannot be written"),
    ]
    for arguments, says in cases:
        with pytest.raises(UserError, match=says):
            evaluate(**{"dataset": data, "output": str(output), **arguments})
        assert not output.exists()


def evaluation(seed, *names):
    """What an evaluation might write."""
    pictures = {f"grids/{name}": f"{name} {seed}".encode() for name in names}
    files = evaluations.checksums({**pictures, **FOREIGN, "grids/mine.png": b"not mine"})
    return {
        **pictures,
        "report.html": "<title>Evaluation – latentfaces</title>".encode(),
        "metrics.json": json.dumps({"held_out": {"seed": seed}, "files": files}).encode(),
    }


def unlisted(files):
    """The same by an earlier version: what is its own was told by the report."""
    shown = [base64.b64encode(content) for name, content in files.items() if name.startswith("grids/")]
    report = files["report.html"] + b"".join(b'"data:image/png;base64,%s"' % each for each in shown)
    return {**files, "report.html": report, "metrics.json": b'{"held_out": {"seed": 1}}'}


# Whoever wrote the list: these stay.
FOREIGN = {"grids/mine.png": b"mine", "grids/deep/a.png": b"deep", "notes.txt": b"note"}
OLD = evaluation(1, "real.png", "renamed.png", "walk.webp", "walk.gif")
NEW = evaluation(2, "real.png", "manifold.png", "walk.webp")


class KilledError(BaseException):
    """In the place of a process's end."""


def present(folder):
    names = storage.list_files(folder)
    return {name: storage.read(folder / name) for name in names if not name.startswith(".lease")}


@pytest.mark.parametrize(
    "place, old",
    [("local", OLD), ("local", unlisted(OLD)), ("bucket", OLD)],
    ids=["local", "unlisted", "bucket"],
)
@pytest.mark.parametrize("is_done", [False, True])
def test_killed_at_any_moment_it_leaves_a_whole_evaluation(
    request, tmp_path, monkeypatch, place, old, is_done
):
    """Foreign files stay; files of ours go that the new one has not, whatever they were called."""
    root = tmp_path if place == "local" else request.getfixturevalue("bucket")
    write, delete, lock = storage.write, storage.delete, threading.Lock()
    for last in itertools.count():
        folder = root / f"{last}"
        for name, content in {**FOREIGN, **old}.items():
            write(folder / name, content)
        operations = itertools.count()

        def stopping(operation, folder=folder, last=last, operations=operations):
            def stopped(path, *arguments):
                if path.name.startswith(".lease"):
                    return operation(path, *arguments)
                with lock:
                    if storage.is_file(folder / "metrics.json"):  # a reader may come at any moment
                        here = present(folder)
                        whole = old if here["metrics.json"] == old["metrics.json"] else NEW
                        assert here.items() >= whole.items()
                    number = next(operations)
                    if number < last or number == last and is_done:
                        operation(path, *arguments)
                    if number >= last:
                        raise KilledError

            return stopped

        monkeypatch.setattr(storage, "write", stopping(write))
        monkeypatch.setattr(storage, "delete", stopping(delete))
        killed = True
        try:
            with hold(folder) as lease:
                evaluations.replace(folder, NEW, lease)
                killed = False
        except KilledError:
            pass
        monkeypatch.setattr(storage, "write", write)
        monkeypatch.setattr(storage, "delete", delete)
        with hold(folder) as lease:
            evaluations.claim(folder, lease)
        begun = last > 0 or is_done
        assert present(folder) == {**FOREIGN, **(NEW if begun else old)}
        if not killed:
            break
    assert last > 6


def test_what_an_earlier_version_was_stopped_at_is_finished(tmp_path):
    for name, content in {**FOREIGN, **unlisted(OLD)}.items():
        storage.write(tmp_path / name, content)
    (tmp_path / "metrics.json").unlink()
    with zipfile.ZipFile(tmp_path / ".new.zip", "w") as archive:
        for name, content in unlisted(NEW).items():
            archive.writestr(name, content)
    with hold(tmp_path) as lease:
        evaluations.claim(tmp_path, lease)
    assert present(tmp_path) == {**FOREIGN, **unlisted(NEW)}


@pytest.mark.parametrize("files", [None, 1, ["grids/real.png"], {"grids/real.png": 1, "": None}])
def test_a_list_that_is_none_takes_nothing_away(tmp_path, files):
    strange = {**OLD, "metrics.json": json.dumps({"held_out": {"a": 1}, "files": files}).encode()}
    for name, content in strange.items():
        storage.write(tmp_path / name, content)
    with hold(tmp_path) as lease:
        evaluations.claim(tmp_path, lease)
        evaluations.replace(tmp_path, NEW, lease)
    assert present(tmp_path) == {**strange, **NEW}


def test_an_evaluation_whose_folder_was_taken_over_stops(tmp_path, monkeypatch):
    write, written = storage.write, []

    def write_and_lose(path, content):
        write(path, content)
        written.append(path.relative_to(tmp_path).as_posix())
        if len(written) == 3:
            lease.lost.set()

    monkeypatch.setattr(storage, "write", write_and_lose)
    with hold(tmp_path) as lease, pytest.raises(RunError, match="taken over by another process"):
        evaluations.replace(tmp_path, NEW, lease)
    assert len(written) == 3 and written[0] == ".new.zip" and "metrics.json" not in written


def test_another_evaluation_into_the_folder_is_refused_meanwhile(faces, tmp_path):
    with hold(tmp_path / "out"), pytest.raises(UserError, match="in use by another process"):
        evaluate(str(faces / "data"), str(tmp_path / "out"), {"gan": str(faces / "gan")})
    assert not contents(tmp_path / "out")


def test_a_zip_that_grows_when_it_is_unpacked_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / ".new.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metrics.json", b'{"held_out": {}}' + bytes(1 << 20))
    with hold(tmp_path) as lease, pytest.raises(UserError, match=".new.zip is not an evaluation's"):
        evaluations.claim(tmp_path, lease)


@pytest.mark.parametrize("name", ["metrics.json", "report.html", ".new.zip"])
def test_a_folder_with_files_of_others_in_the_places_of_ours_is_left_alone(faces, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"{name} is not an evaluation's"):
        evaluate(str(faces / "data"), str(tmp_path), {"gan": str(faces / "gan")})
    assert contents(tmp_path) == {name: b"mine"}


def test_an_earlier_evaluation_stays_when_there_is_no_room(tmp_path, monkeypatch):
    for name, content in OLD.items():
        storage.write(tmp_path / name, content)

    def write(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "write", write)
    with hold(tmp_path) as lease, pytest.raises(RunError, match="No space left on device.*make room"):
        evaluations.replace(tmp_path, NEW, lease)
    assert contents(tmp_path) == OLD


def test_large_images_are_fewer_in_a_bounded_amount_of_memory(faces, monkeypatch):
    arguments = str(faces / "data"), {name: str(faces / name) for name in ("vae", "gan")}, EvaluateOptions()
    whole = Inputs(*arguments)
    assert whole.share == 1 and whole.notes == []
    monkeypatch.setattr(inputs, "AT_ONCE", 3_000_000)
    monkeypatch.setattr(inputs, "LEAST_HELD_OUT", 1)
    some = Inputs(*arguments)
    vae, gan = some.models
    images = [some.real.train, vae.train_means], [some.real.held_out, vae.means, vae.reconstructions]
    bytes_of_train, bytes_of_held_out = (sum(array.nbytes for array in arrays) for arrays in images)
    made = vae.samples.nbytes + gan.samples.nbytes
    made += vae.generate(vae.means[:1]).nbytes * some.fitting(inputs.CONCEPT_LIMIT)
    assert 700_000 < bytes_of_train <= 750_000
    assert 800_000 < bytes_of_held_out + made <= 2_250_000
    (note,) = some.notes
    assert f"{len(some.real.train)} train and {len(some.real.held_out)} held-out images" in note
    assert f"{len(gan.samples)} samples" in note and len(gan.samples) < 1000
    np.testing.assert_array_equal(gan.samples, whole.models[1].samples[: len(gan.samples)])


ENVIRONMENT = """
import json, sys
import latentfaces
print(json.dumps(latentfaces.evaluate(*sys.argv[1:3], json.loads(sys.argv[3]))))
"""


def test_the_environment_and_keras_own_configuration_change_nothing(faces, result, tmp_path):
    (tmp_path / ".keras").mkdir()
    settings = {
        "backend": "torch",
        "floatx": "float16",
        "epsilon": 0.1,
        "image_data_format": "channels_first",
    }
    (tmp_path / ".keras" / "keras.json").write_text(json.dumps(settings))
    models = {name: str(faces / name) for name in ("vae", "gan")}
    arguments = [str(faces / "data"), str(tmp_path / "out"), json.dumps(models)]
    subprocess.run(
        [sys.executable, "-c", ENVIRONMENT, *arguments],
        env={**os.environ, "HOME": str(tmp_path), "KERAS_BACKEND": "torch"},
        check=True,
    )
    assert contents(tmp_path / "out") == contents(faces / "out")


def test_names_need_not_be_utf_8(faces, tmp_path):
    folder = tmp_path / "\udcff"
    folder.mkdir()
    images, _ = draw(12, seed=0)
    shards = []
    for split in SIZES:
        with ShardWriter((folder / f"{split}-00000-of-00001.tfrecord").open("wb")) as writer:
            for image in images:
                writer.write(encode_example(image.tobytes(), "\udcff\x1b[31m.png", None))
        shards.append((split, writer.shard(f"{split}-00000-of-00001.tfrecord")))
    dataset = dataclasses.replace(
        read_dataset(faces / "data"), attribute_names=(), splits=make_splits(shards)
    )
    write_dataset(folder, dataset)
    metrics = evaluate(str(folder), str(folder / "out"), {"gan": str(faces / "gan")})
    assert metrics["held_out"]["examples"] == 12
    assert "evaluated on" in (folder / "out" / "report.html").read_text()


def test_a_data_set_that_is_replaced_meanwhile_is_not_mixed_with_the_new_one(faces, tmp_path):
    make_dataset(tmp_path / "data", train=draw(10, seed=0)[0], test=draw(10, seed=1)[0])
    loaded = Inputs(str(tmp_path / "data"), {"gan": str(faces / "gan")}, EvaluateOptions())
    make_dataset(tmp_path / "data", ("A", "B", "C"), train=draw(10, seed=2), test=draw(10, seed=3))
    with pytest.raises(UserError, match="was replaced while it was read"):
        _ = loaded.real


def test_wrong_networks_are_told_before_anything_is_made(faces, tmp_path):
    other = random_generator((28, 28, 1), 5)
    spoiled = random_generator(SHAPE, 5)
    spoiled.set_weights([np.full_like(weight, np.nan) for weight in spoiled.get_weights()])
    bad_encoder = {"encoder": perfect_decoder(SHAPE), "decoder": perfect_decoder(SHAPE)}
    for number, (name, networks, says) in enumerate(
        [
            ("gan", {"generator": other}, "generator.keras' .*it gives 28x28x1, and 16x16x3 is needed"),
            ("gan", {"generator": spoiled}, "generator.keras' gives values that are not finite"),
            ("vae", bad_encoder, "encoder.keras' .*it takes 768, and 16x16x3 is needed"),
        ]
    ):
        save_model(tmp_path / f"{number}", name, SHAPE, 5, **networks)
        with pytest.raises(UserError, match=says):
            evaluate(str(faces / "data"), str(tmp_path / "out"), {name: str(tmp_path / f"{number}")})
        assert not (tmp_path / "out").exists()


def test_a_damaged_history_is_told_before_anything_is_made(faces, tmp_path):
    shutil.copytree(faces / "gan", tmp_path / "gan")
    (tmp_path / "gan" / "history.csv").write_bytes(b"step,loss\n10,\xff\n")
    with pytest.raises(UserError, match="gan/history.csv is damaged"):
        evaluate(str(faces / "data"), str(tmp_path / "out"), {"gan": str(tmp_path / "gan")})
    assert not (tmp_path / "out").exists()
