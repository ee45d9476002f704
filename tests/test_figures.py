"""The figures that are about one model, of models whose images are known."""

import io

import numpy as np
import pytest
from PIL import Image

from latentfaces.common.images import to_uint8
from latentfaces.common.pictures import png
from latentfaces.components.evaluate import concepts
from latentfaces.components.evaluate.concepts import MeasuredConcept
from latentfaces.components.evaluate.figures import encoded, manifold, plane
from latentfaces.components.evaluate.figures.extremes import extremes
from latentfaces.components.evaluate.figures.interpolations import interpolations
from latentfaces.components.evaluate.figures.training import training
from latentfaces.components.evaluate.figures.walk import walk


class Inputs:
    def fitting(self, count):
        return count


class Model:
    """Its images, 8x8, are even: their three colours are the first latents."""

    title, landmark_name, inputs = "GAN", "random latent vector", Inputs()

    def __init__(self, landmarks):
        self.landmarks = self.means = landmarks.astype(np.float32)
        self.latent_dim = landmarks.shape[1]

    def generate(self, points):
        colours = np.pad(points, [(0, 0)] * (points.ndim - 1) + [(0, 3)])[..., :3]
        return np.broadcast_to(colours[..., None, None, :], (*points.shape[:-1], 8, 8, 3))


def cells(image, rows, columns, gap=4):
    """The colours in the middle of each image in a grid, [rows, columns, 3]."""
    pixels = np.asarray(image.convert("RGB"))
    height, width = (
        (side + gap) / count for side, count in zip(pixels.shape[:2], (rows, columns), strict=True)
    )
    return np.array(
        [
            [pixels[int((y + 0.4) * height), int((x + 0.4) * width)] for x in range(columns)]
            for y in range(rows)
        ]
    )


def test_interpolations_lead_from_the_first_landmarks_to_the_last():
    model = Model(np.random.default_rng(0).random((20, 5)))
    picture = interpolations(model)
    shown = cells(picture.image, 6, 9)
    np.testing.assert_array_equal(shown[:, 0], to_uint8(model.landmarks[:6, :3]))
    np.testing.assert_array_equal(shown[:, -1], to_uint8(model.landmarks[-6:, :3]))
    assert "random latent vector" in picture.caption and picture.title.startswith("GAN")


def test_a_walk_closes_on_itself_and_never_jumps():
    model = Model(np.random.default_rng(0).random((40, 5)))
    picture = walk(model)
    colours = np.stack([cells(frame, 2, 4) for frame in picture.frames]).astype(int)
    steps = np.abs(np.diff(colours, axis=0, append=colours[:1])).max(axis=(1, 2, 3))
    assert len(colours) == 48 and 0 < steps.min() and steps.max() < 35
    np.testing.assert_array_equal(
        colours[[0, 12, 24, 36], 0, 1], to_uint8(model.landmarks[4:8, :3])
    )  # the second image's stations
    assert len({frame.size for frame in picture.frames}) == 1 and max(picture.image.size) <= 400


@pytest.mark.parametrize("count", [1, 3, 9])
def test_few_landmarks_are_enough_for_ways(count):
    model = Model(np.random.default_rng(0).random((count, 2)))
    assert len(walk(model).frames) == 48
    assert interpolations(model).image.height > 0


def test_the_extremes_are_those_with_the_least_and_the_greatest_error():
    class Autoencoder(Model):
        class inputs:
            class real:
                held_out = np.zeros((30, 8, 8, 1), np.uint8)

    errors = np.random.default_rng(0).permutation(30) / 30
    model = Autoencoder(np.zeros((30, 2)))
    model.reconstructions = np.broadcast_to(np.sqrt(errors)[:, None, None, None], (30, 8, 8, 1))
    picture = extremes(model)
    low, high = np.arange(8) / 30, (29 - np.arange(8)) / 30
    tops = [48, 148, 256, 356]
    shown = np.asarray(picture.image)[tops, 48::100, 0]
    np.testing.assert_array_equal(shown[[1, 3]], to_uint8(np.sqrt([low, high])))
    assert not shown[[0, 2]].any()
    assert "0 to 0.2333 (above)" in picture.caption and "0.7333 to 0.9667 (below)" in picture.caption


def test_the_books_manifold_is_even_from_minus_one_to_one_with_its_axes():
    class Halved(Model):
        def generate(self, points):
            return super().generate((points + 1) / 2)

    sheet = np.asarray(manifold.book(Halved(np.zeros((2, 2)))).image)
    rows, columns = np.nonzero(sheet[..., 2] == 0)  # of the picture: paper and text have blue in them
    top, left = rows.min(), columns.min()
    tiles = sheet[top : top + 240 : 8, left : left + 240 : 8]
    z = to_uint8(np.linspace(0, 1, 30))
    np.testing.assert_array_equal(tiles[..., 0], np.broadcast_to(z, (30, 30)))
    np.testing.assert_array_equal(tiles[..., 1], np.broadcast_to(z[::-1, None], (30, 30)))
    assert manifold.book(Model(np.zeros((2, 3)))) is None


def concept(name, vector, works=True):
    none = np.zeros(0)
    return MeasuredConcept(name, np.array(vector, np.float32), 2.0, works, 8, 1.0, 0.0, 1.0, none, none)


FOUND = [
    concept("Hat", [0, 0, 0.1, 0]),
    concept("Male", [0, 0.25, 0, 0]),
    concept("Blurry", [1, 1, 1, 1], works=False),
    concept("Smiling", [0.2, 0, 0, 0]),
]


def test_the_plane_grows_to_the_right_with_one_concept_and_upwards_with_the_other(monkeypatch):
    monkeypatch.setattr(concepts, "concepts", lambda model: FOUND)
    model = Model(np.array([[0.5, 0.5, 0.5, 0], [0, 0, 0, 0]]))
    picture = plane.plane(model)
    assert picture.title.endswith("Smiling and Male")
    sheet = np.asarray(picture.image)
    top, left = (nonzero.min() for nonzero in np.nonzero((sheet == (25, 255, 128)).all(axis=-1)))
    shown = sheet[top : top + 700 : 100, left : left + 700 : 100]
    np.testing.assert_allclose(shown[3, :, 0], 255 * (0.5 + 0.2 * np.linspace(-2, 2, 7)), atol=1)
    np.testing.assert_allclose(shown[:, 3, 1], 255 * (0.5 - 0.25 * np.linspace(-2, 2, 7)), atol=1)
    assert (shown[..., 2] == 128).all()


def test_without_two_concepts_that_work_there_is_no_plane(monkeypatch):
    monkeypatch.setattr(concepts, "concepts", lambda model: FOUND[2:])
    assert plane.plane(Model(np.zeros((2, 4)))) is None


class Encoded(Model):
    """An autoencoder of labelled images."""

    def __init__(self, means, names, attributes):
        super().__init__(means)
        self.inputs = type("Inputs", (), {"real": type("Real", (), {})()})()
        self.inputs.real.attribute_names = names
        self.inputs.real.held_out_attributes = np.array(attributes).reshape(len(means), -1)


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn: points, kinds, legend and names of the axes of each call."""
    calls = []
    monkeypatch.setattr(
        encoded, "scatter", lambda *arguments: calls.append(arguments) or Image.new("RGB", (1, 1))
    )
    return calls


def test_two_latents_are_drawn_as_they_are_in_the_colours_of_classes(monkeypatch, drawn):
    monkeypatch.setattr(concepts, "concepts", lambda model: [])
    means = np.random.default_rng(0).random((6, 2))
    classes = np.array([2, 0, 1, 1, 3, 0])  # of three that can be learned
    picture = encoded.encoded(Encoded(means, ["cat", "dog", "eel"], np.eye(4, 3, dtype=int)[classes]))
    ((points, kinds, legend, names),) = drawn
    np.testing.assert_allclose(points, means, rtol=1e-6)
    assert [legend[kind] for kind in kinds] == [["cat", "dog", "eel", "others"][label] for label in classes]
    assert names == ("z[0]", "z[1]") and "cat, dog, eel, others" in picture.alt


def test_more_latents_are_drawn_by_their_concepts(monkeypatch, drawn):
    monkeypatch.setattr(concepts, "concepts", lambda model: FOUND)
    rng = np.random.default_rng(0)
    wanted = rng.normal(size=(50, 2))
    wanted -= wanted.mean(axis=0)
    elsewhere = rng.normal(size=(50, 1)) * [[0, 0, 3, -1]]
    attributes = [[1, 1, 0], [0, 0, 1], [1, 0, 1], [0, 1, 0]] * 12 + [[1, 1, 1]] * 2
    means = wanted @ [[0.2, 0, 0, 0], [0, 0.25, 0, 0]] + elsewhere + 7
    encoded.encoded(Encoded(means, ["Smiling", "Male", "Hat"], attributes))
    ((points, kinds, legend, names),) = drawn
    np.testing.assert_allclose(points, wanted, atol=1e-4)
    assert names == ("Smiling", "Male")
    assert [legend[kind] for kind in kinds[:4]] == ["Smiling and Male", "others", "Smiling", "Male"]


def test_without_concepts_latents_are_drawn_by_their_principal_components(monkeypatch, drawn):
    monkeypatch.setattr(concepts, "concepts", lambda model: [])
    rng = np.random.default_rng(0)
    turned = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    means = rng.normal(size=(200, 4)) * [5, 3, 0.1, 0.1] @ turned
    encoded.encoded(Encoded(means, [], np.zeros((200, 0), int)))
    ((points, kinds, legend, names),) = drawn
    spread = points.std(axis=0)
    assert spread[0] > spread[1] > 2.5 and abs(np.corrcoef(points.T)[0, 1]) < 1e-4
    assert legend == ["others"] and not kinds.any() and names[0] == "first principal component"


def test_too_many_classes_are_drawn_as_others(monkeypatch, drawn):
    monkeypatch.setattr(concepts, "concepts", lambda model: [])
    names = [f"{label:02}" for label in range(20)]
    encoded.encoded(Encoded(np.random.default_rng(0).random((20, 2)), names, np.eye(20, dtype=int)))
    ((_, kinds, legend, _),) = drawn
    assert legend == [*names[:15], "others"] and kinds.tolist() == [*range(15), *[15] * 5]


def test_the_training_is_shown_by_its_pictures_and_the_last_stays(tmp_path):
    model = Model(np.zeros((1, 2)))
    model.folder = str(tmp_path)
    assert training(model) is None
    (tmp_path / "samples").mkdir()
    for epoch, level in ((1, 50), (2, 120), (30, 200)):
        picture = Image.new("RGBA", (100, 80))
        picture.paste((level, 0, 0, 255), (0, 0, 100, 40))
        (tmp_path / "samples" / f"epoch-{epoch:04d}.png").write_bytes(png(picture))
    (tmp_path / "samples" / "epoch-0003.png").write_bytes(b"damaged")
    picture = training(model)
    assert [frame.getpixel((50, 50))[0] for frame in picture.frames] == [50, 120, *[200] * 10]
    assert {frame.size for frame in picture.frames} == {(100, 72)} and picture.image is picture.frames[-1]
    assert "3 of the epochs from 1 to 30" in picture.caption and "1 more could not be read" in picture.caption
    opened = Image.open(io.BytesIO(picture.files[".webp"]))
    durations = []
    for place in range(opened.n_frames):
        opened.seek(place)
        opened.load()
        durations.append(opened.info["duration"])
    assert sum(durations) == 200 * 12
