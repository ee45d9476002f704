import shutil

import numpy as np
import pytest
from conftest import invoke, save_concepts
from PIL import Image

import latentfaces
from latentfaces.common.pictures import grid


@pytest.fixture
def edit(run_folder):
    def edit(*arguments):
        return invoke("edit", "--vae", run_folder / "vae", *arguments)

    return edit


def test_a_folder_takes_the_changed_photographs(edit, run_folder, photographs, tmp_path):
    output = tmp_path / "made"
    done = edit(*photographs, "--concept", "Smiling=+2", "--concept", "Eyeglasses=-1", "--output", output)
    assert done.exit_code == 0, done.output
    assert "the concept Eyeglasses does not work" in done.output
    assert sorted(path.name for path in output.iterdir()) == ["ann.png", "bob.png"]
    model = latentfaces.load(str(run_folder / "vae"))
    images = np.stack([model.read(str(path)) for path in photographs])
    expected = model.edit(images, {"Smiling": 2, "Eyeglasses": -1})
    assert np.array_equal(np.asarray(Image.open(output / "ann.png")), expected[0])
    assert np.array_equal(np.asarray(Image.open(output / "bob.png")), expected[1])


def test_a_strip_shows_each_photograph_its_reconstruction_and_the_change(
    edit, run_folder, photographs, tmp_path
):
    output = tmp_path / "strip.png"
    done = edit(*photographs, "--concept", "Smiling=-1", "--output", output)
    assert done.exit_code == 0, done.output
    model = latentfaces.load(str(run_folder / "vae"))
    images = np.stack([model.read(str(path)) for path in photographs])
    kinds = [images, model.decode(model.encode(images)), model.edit(images, {"Smiling": -1})]
    expected = grid(np.stack(kinds, axis=1))
    assert np.array_equal(np.asarray(Image.open(output)), np.asarray(expected))


def test_photographs_that_cannot_be_read_are_named_and_the_others_go_on(edit, photographs, tmp_path):
    ann, bob = photographs
    bob.write_bytes(b"no picture")
    output = tmp_path / "made"
    done = edit(ann, bob, tmp_path / "none.jpg", "--concept", "Smiling=1", "--output", output)
    assert done.exit_code == 1, done.output
    assert f"{bob} can't be used: not an image" in done.output
    assert "none.jpg can't be used: No such file" in done.output
    assert "2 of 3 photographs could not be used" in done.output
    assert [path.name for path in output.iterdir()] == ["ann.png"]
    none = edit(bob, "--concept", "Smiling=1", "--output", tmp_path / "strip.png")
    assert none.exit_code == 1 and not (tmp_path / "strip.png").exists()


def test_concepts_may_lie_anywhere(edit, run_folder, photographs, tmp_path):
    save_concepts(tmp_path / "own.npz", run_folder / "vae", names=np.array(["a=b", "c"]))
    arguments = ["--concepts", tmp_path / "own.npz", "--concept", "a=b=1", "--output", tmp_path / "made"]
    assert edit(photographs[0], *arguments).exit_code == 0


def test_mistakes_are_told_in_a_sentence_and_nothing_is_made(edit, run_folder, photographs, tmp_path):
    ann, bob = photographs
    (tmp_path / "other").mkdir()
    shutil.copy(ann, tmp_path / "other" / "ann.jpeg")
    one = ["--concept", "Smiling=1"]
    before = sorted(tmp_path.rglob("*"))
    for arguments, says in (
        ([ann, "--concept", "Smiling"], "--concept Smiling can't be read: write it as Smiling=+2"),
        ([ann, "--concept", "Smiling=much"], "can't be read: write it as"),
        ([ann, *one, *one], "--concept Smiling is given twice"),
        ([ann, "--concept", "Smiling=nan"], "the strength nan of Smiling is out of bounds"),
        ([ann, "--concept", "Hat=1"], "the concept Hat is unknown: choose among Smiling, Eyeglasses"),
        ([ann, *one, "--vae", run_folder / "gan"], "is a GAN, which has no encoder: give a VAE"),
        ([ann, *one, "--concepts", tmp_path / "none.npz"], "there are no concept vectors in"),
        ([ann, tmp_path / "other" / "ann.jpeg", *one], "two photographs would become"),
        ([ann, bob, *one, "--output", bob.parent], "bob.png would be replaced: choose another output"),
        ([ann, bob, *one, "--output", bob], "bob.png would be replaced: choose another output"),
        ([ann, *one, "--output", ann], "can't be made in"),
        ([ann, *one, "--output", tmp_path / "strip.jpg"], "one picture of all is a .png"),
        ([*one], "Missing argument"),
        ([ann], "Missing option '--concept'"),
    ):
        done = edit("--output", tmp_path / "made", *arguments)
        assert done.exit_code == 2 and says in " ".join(done.output.split()), done.output
        assert sorted(tmp_path.rglob("*")) == before
