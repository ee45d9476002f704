import logging
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import scipy.stats
from conftest import VECTORS, invoke, save_concepts

import latentfaces
from latentfaces.common import storage
from latentfaces.common.errors import UserError
from latentfaces.components.evaluate import latents
from latentfaces.components.generate.trained import truncated
from latentfaces.preprocessing.resize import decode, smart_resize


@pytest.fixture
def gan(run_folder):
    return latentfaces.load(str(run_folder / "gan"))


@pytest.fixture
def vae(run_folder):
    return latentfaces.load(str(run_folder / "vae"))


def test_samples_of_a_vae_come_from_the_prior_that_it_learned(vae, run_folder):
    prior = keras.saving.load_model(run_folder / "vae" / "prior.keras")
    drawn = vae.sample_latents(40, seed=3)
    numbers = np.concatenate([latents.sample(1, vae.latent_dim, seed) for seed in range(3, 43)])
    np.testing.assert_allclose(drawn, prior(numbers), atol=1e-5)
    assert np.abs(drawn - numbers).max() > 1e-4
    assert np.array_equal(vae.sample_latents(1, seed=20), drawn[17:18])
    assert np.array_equal(vae.decode(drawn), vae.sample(40, seed=3))


@pytest.fixture
def networks(run_folder):
    """The VAE's encoder, images to latents, and its decoder, as Keras has them."""
    encoder, decoder = (
        keras.saving.load_model(run_folder / "vae" / f"{name}.keras") for name in ("encoder", "decoder")
    )
    return lambda images: np.asarray(encoder(images / np.float32(255))[0]), lambda z: np.asarray(decoder(z))


def faces(count, side=8):
    return np.random.default_rng(count).integers(0, 256, (count, side, side, 3), np.uint8)


def test_a_sample_follows_from_its_seed(gan):
    images = gan.sample(40, seed=3)
    assert images.dtype == np.uint8 and images.shape == (40, 16, 16, 3)
    assert np.array_equal(gan.sample(1, seed=20), images[17:18])
    assert np.array_equal(gan.decode(gan.sample_latents(40, seed=3)), images)
    assert np.array_equal(gan.sample_latents(40, seed=3)[17:18], latents.sample(1, 64, 20))
    assert gan.sample(0).shape == (0, 16, 16, 3)


@pytest.mark.parametrize(("most", "size"), [(256, 16), (5, 5)])
def test_networks_run_in_batches_of_one_size_which_may_change_the_last_bit(gan, most, size):
    sizes, network = set(), gan._generator

    class Recorder:
        batch = most

        def __call__(self, batch):
            sizes.add(len(batch))
            return network(batch)

    gan._generator = Recorder()
    assert len(gan.sample(1)) == 1 and len(gan.sample(17)) == 17 and sizes == {size}


@pytest.mark.parametrize("threshold", [0.3, 1.0, 2.5])
def test_truncated_latents_are_of_the_truncated_normal_distribution(threshold):
    places = np.linspace(0.001, 0.999, 999)
    points = scipy.stats.norm.ppf(places)[:, None]
    expected = scipy.stats.truncnorm(-threshold, threshold).ppf(places)[:, None]
    np.testing.assert_allclose(truncated(points, threshold), expected, atol=1e-6)


def test_truncation_has_its_limits(gan):
    points = gan.sample_latents(50, seed=1)
    assert np.array_equal(gan.sample_latents(50, seed=1, truncation=np.inf), points)
    np.testing.assert_allclose(truncated(points, 30), points, atol=1e-5)
    assert not truncated(points, 0).any()
    assert np.abs(gan.sample_latents(50, seed=1, truncation=0.5)).max() <= 0.5
    for wrong in (-1, np.nan):
        with pytest.raises(UserError, match="truncation"):
            gan.sample(1, truncation=wrong)


def test_images_are_encoded_and_decoded_as_keras_does_it(vae, networks):
    encode, reconstruct = networks
    images = faces(20)
    points = vae.encode(images)
    assert points.dtype == np.float32
    np.testing.assert_allclose(points, encode(images), atol=1e-5)
    np.testing.assert_array_equal(points, vae.encode(images / np.float32(255)))
    np.testing.assert_array_equal(points[7:8], vae.encode(images[7:8]))
    np.testing.assert_allclose(vae.decode(points), 255 * reconstruct(points), atol=0.51)
    assert vae.encode(images[:0]).shape == (0, 4)


def test_images_are_moved_by_so_many_times_the_concepts_vectors(vae, networks, caplog):
    encode, reconstruct = networks
    images = faces(5)
    with caplog.at_level(logging.WARNING):
        assert [concept.works for concept in vae.concepts.values()] == [True, False]
        edited = vae.edit(images, {"Smiling": 2})
        assert not caplog.text
        both = vae.edit(images, {"Smiling": 2, "Eyeglasses": -1.5})
    assert "the concept Eyeglasses does not work" in caplog.text
    points = encode(images)
    np.testing.assert_allclose(edited, 255 * reconstruct(points + 2 * VECTORS[0]), atol=0.51)
    moved = points + 2 * VECTORS[0] - 1.5 * VECTORS[1]
    np.testing.assert_allclose(both, 255 * reconstruct(moved), atol=0.51)


def test_interpolations_begin_and_end_at_their_latents(gan):
    a, b = gan.sample_latents(2, seed=0), gan.sample_latents(2, seed=2)
    ways = gan.interpolate(a, b, 5)
    assert ways.shape == (2, 5, 16, 16, 3)
    np.testing.assert_allclose(
        ways[:, [0, -1]].astype(int), np.stack([gan.decode(a), gan.decode(b)], 1), atol=1
    )
    middle = gan.decode(latents.slerp(a, b, 3)[:, 1])
    np.testing.assert_allclose(ways[:, 2].astype(int), middle, atol=1)


def test_photographs_are_read_as_the_training_data_were(vae, photographs):
    for path in photographs:
        expected = smart_resize(decode(path.read_bytes(), 3), 8)
        assert np.array_equal(vae.read(str(path)), expected)
    path.write_bytes(path.read_bytes()[:1000])
    for wrong, says in (
        (path, "truncated"),
        (path.parent, "not a regular file"),
        ("none.jpg", "No such file"),
    ):
        with pytest.raises(UserError, match=f"photograph .*{wrong}.* can't be used: .*{says}"):
            vae.read(str(wrong))


def test_a_models_folder_and_photographs_may_be_in_a_bucket(run_folder, photographs, vae, bucket):
    for file in (*(run_folder / "vae").iterdir(), run_folder / "evaluation" / "concepts.npz"):
        storage.write(bucket / "run" / file.parent.name / file.name, file.read_bytes())
    storage.write(bucket / "ann.jpg", photographs[0].read_bytes())
    there = latentfaces.load("gs://bucket/run/vae")
    face = there.read("gs://bucket/ann.jpg")[None]
    assert np.array_equal(there.edit(face, {"Smiling": 1}), vae.edit(face, {"Smiling": 1}))


def test_mistakes_are_told_in_a_sentence(gan, vae):
    grey, points = np.zeros((1, 8, 8, 1), np.uint8), np.zeros((2, 4), np.float32)
    for attempt, says in (
        (lambda: gan.encode(faces(1, 16)), "is a GAN, which has no encoder"),
        (lambda: gan.edit(faces(1, 16), {"Smiling": 1}), "is a GAN, which has no encoder"),
        (lambda: gan.direction({"Smiling": 1}), "is a GAN, which has no encoder"),
        (
            lambda: vae.encode(grey),
            r"reads images of shape \[N, 8, 8, 3\].*these are uint8 of shape \[1, 8, 8, 1\]",
        ),
        (lambda: vae.encode(faces(1)[0]), r"of shape \[8, 8, 3\]"),
        (lambda: vae.encode(faces(1).astype(np.int64)), "these are int64"),
        (lambda: vae.encode(faces(1).astype(np.float32)), r"floats in \[0, 1\], and these are float32"),
        (lambda: vae.encode(np.full((1, 8, 8, 3), np.nan)), r"floats in \[0, 1\]"),
        (lambda: vae.decode(points[:, :3]), r"latents of shape \[N, 4\], and these are of shape \[2, 3\]"),
        (lambda: vae.decode(points + np.inf), "decodes finite latents"),
        (lambda: vae.decode(points.astype(object)), "decodes finite latents"),
        (lambda: vae.interpolate(points, points[:1], 3), "2 latents can't be paired with 1"),
        (lambda: vae.edit(faces(1), {"Hat": 1}), "concept Hat is unknown: choose among Smiling, Eyeglasses"),
        (lambda: vae.edit(faces(1), {"Smiling": 1e9}), "strength .* out of bounds"),
        (lambda: vae.edit(faces(1), {"Smiling": np.nan}), "strength nan of Smiling is out of bounds"),
    ):
        with pytest.raises(UserError, match=says):
            attempt()


def test_photographs_are_not_for_models_of_oblong_images(vae, photographs):
    vae.image_shape = (8, 4, 3)
    with pytest.raises(UserError, match="not for square images"):
        vae.read(str(photographs[0]))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"decoder_sha256": np.array("0" * 64)}, "belongs to another model"),
        ({"vectors": VECTORS[:, :3]}, "no 2 vectors of 4 dimensions"),
        ({"vectors": VECTORS * np.nan}, "numbers that are not finite"),
        ({"vectors": VECTORS.astype(np.float64) * 1e300}, "numbers that are not finite, or too large"),
        ({"works": np.array([1.0, 0.0])}, "of other types"),
        ({"names": np.array(["Smiling", "Smiling"])}, "the same name"),
        ({"names": np.array(["Smiling", "a\n"])}, "printable"),
        ({"names": np.array(["Smiling", None], object)}, "allow_pickle=False"),
        ({"more": np.zeros(1 << 27, bool)}, "larger than"),
    ],
)
def test_concepts_are_anyones_and_checked(changed, says, run_folder, tmp_path):
    file = tmp_path / "concepts.npz"
    if "more" in changed:
        np.savez_compressed(file, **changed)
    else:
        save_concepts(file, run_folder / "vae", **changed)
    model = latentfaces.load(str(run_folder / "vae"), concepts=str(file))
    with pytest.raises(UserError, match=f"concepts.npz .*{says}"):
        _ = model.concepts


def test_concepts_that_are_missing_or_no_arrays_are_told_of(run_folder, tmp_path):
    for content in (None, b"", b"PK\x05\x06" + bytes(18), b"no zip"):
        if content is not None:
            (tmp_path / "concepts.npz").write_bytes(content)
        model = latentfaces.load(str(run_folder / "vae"), concepts=str(tmp_path / "concepts.npz"))
        with pytest.raises(UserError, match="no concept vectors"):
            _ = model.concepts


def test_all_that_the_documentation_shows_works(run_folder, photographs, tmp_path, monkeypatch, capsys):
    for name in ("gan", "vae", "evaluation"):
        shutil.copytree(run_folder / name, tmp_path / name)
    for path in photographs:
        shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[1] / "docs" / "using.md").read_text()
    commands = re.findall(r"^    latentfaces (.*)$", text, re.MULTILINE)
    for command in commands:
        done = invoke(*command.split())
        assert done.exit_code == 0, done.output
    assert {"samples", "samples.npz", "strip.png", "smiling", "walk.webp", "walk.gif"} <= {
        path.name for path in tmp_path.iterdir()
    }
    (example,) = re.findall(
        r"(?:^    .*\n|^\n)+", text[text.index("    import latentfaces") :], re.MULTILINE
    )[:1]
    names = {}
    exec(re.sub("^    ", "", example, flags=re.MULTILINE), names)
    assert capsys.readouterr().out == "['Smiling']\n"
    assert names["smiling"].shape == (2, 8, 8, 3) and names["way"].shape == (1, 9, 8, 8, 3)
