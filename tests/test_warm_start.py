"""Warm start: from the promoted model's weights, the same for every worker and every retry."""

import csv
import dataclasses
import io
import json
import logging
import re
import shutil
import zipfile

import h5py
import keras
import numpy as np
import pytest

from latentfaces.common.config import RunOptions
from latentfaces.common.errors import UserError
from latentfaces.common.model_folder import read_config
from latentfaces.common.models import MODELS, find_model
from latentfaces.common.promoted import PROMOTED, Decision, update
from latentfaces.components.train import loop
from latentfaces.components.train.run import _claim, configure, train

RUN = RunOptions(log_steps=1, checkpoint_minutes=0)


def promote(root, run, *models):
    made = [Decision(run=run, model=model, decision=PROMOTED, why="for a test") for model in models or MODELS]
    update(str(root), lambda present: present.decide(*made))


def weights(folder, model):
    names = find_model(model).network_names
    return [w for name in names for w in keras.saving.load_model(folder / f"{name}.keras").get_weights()]


def settle(dataset, folder, model, init="", **options):
    """What `train` does before it starts workers; returns what they are told."""
    options = {"preset": "small", "steps": 1, "batch_size": 8, "warm_start": True, **options}
    folder.mkdir(parents=True, exist_ok=True)
    _claim(folder, configure(model, str(dataset), **options), init)
    return read_config(folder)


@pytest.fixture(scope="module")
def trained(tiny_dataset, tmp_path_factory):
    """A root with two runs of both models; tests must not change it."""
    root = tmp_path_factory.mktemp("trained")
    for number, run in enumerate(("r1", "r2")):
        for model in MODELS:
            folder = root / "runs" / run / model
            config = settle(tiny_dataset, folder, model, warm_start=False, seed=number)
            loop.train(config, RUN, folder)
    return root


@pytest.fixture
def root(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "root")
    promote(tmp_path / "root", "r1")
    return tmp_path / "root"


@pytest.mark.parametrize("model", MODELS)
def test_training_begins_from_the_promoted_weights(tiny_dataset, root, model, caplog):
    caplog.set_level(logging.INFO)
    folder = root / "runs" / "r3" / model
    config = settle(tiny_dataset, folder, model, seed=7)
    assert config.initial_run == "r1" and "begins from the weights of run r1" in caplog.text
    # With a learning rate of nothing, what is saved is what it began with, a GAN's averaged weights as well.
    loop.train(dataclasses.replace(config, learning_rate=0.0), RUN, folder)
    promoted = weights(root / "runs" / "r1" / model, model)
    for ours, theirs in zip(weights(folder, model), promoted, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_retry_keeps_to_what_the_first_start_began_from(tiny_dataset, root):
    folder = root / "runs" / "r3" / "vae"
    first = settle(tiny_dataset, folder, "vae")
    promote(root, "r2")
    assert settle(tiny_dataset, folder, "vae") == first and first.initial_run == "r1"
    other = settle(tiny_dataset, root / "runs" / "r4" / "vae", "vae")
    assert other.initial_run == "r2" and other.initial_digest != first.initial_digest
    with pytest.raises(UserError, match="holds a run whose warm_start is True, and False is asked for"):
        settle(tiny_dataset, folder, "vae", warm_start=False)


def test_a_run_that_found_nothing_stays_with_nothing(tiny_dataset, trained, tmp_path, caplog):
    shutil.copytree(trained, tmp_path / "root")
    folder = tmp_path / "root" / "runs" / "r3" / "gan"
    assert settle(tiny_dataset, folder, "gan").initial_run == ""
    assert (
        "the GAN can't begin from promoted weights, and starts from scratch: none is promoted" in caplog.text
    )
    promote(tmp_path / "root", "r1")
    assert settle(tiny_dataset, folder, "gan").initial_run == ""


def truncate(folder):
    file = folder / "encoder.keras"
    file.write_bytes(file.read_bytes()[:-10])


def stop(folder):
    (folder / "encoder.keras").unlink()


def pack(folder):
    """As many zeros in a small file as one likes."""
    with zipfile.ZipFile(folder / "encoder.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    held = io.BytesIO(members["model.weights.h5"])
    with h5py.File(held, "a") as file:
        file.create_dataset("zeros", (1 << 26,), "f4", compression="gzip", chunks=(1 << 20,))
    with zipfile.ZipFile(folder / "encoder.keras", "w") as archive:
        for name, content in {**members, "model.weights.h5": held.getvalue()}.items():
            archive.writestr(name, content)


@pytest.mark.parametrize(
    ("options", "change", "why"),
    [
        ({"preset": "book"}, None, "the preset there is small, and here book"),
        ({}, truncate, "File is not a zip file"),
        ({}, pack, "its weights are packed"),
        ({}, shutil.rmtree, "does not describe a run of this version"),
    ],
    ids=["preset", "truncated", "packed", "gone"],
)
def test_what_does_not_fit_or_load_is_told_and_not_used(tiny_dataset, root, caplog, options, change, why):
    if change:
        change(root / "runs" / "r1" / "vae")
    config = settle(tiny_dataset, root / "runs" / "r3" / "vae", "vae", **options)
    assert config.initial_run == "" and config.warm_start
    assert "starts from scratch" in caplog.text and why in caplog.text


def test_weights_that_changed_since_are_refused_but_checkpoints_go_on(tiny_dataset, root):
    folder = root / "runs" / "r3" / "vae"
    config = settle(tiny_dataset, folder, "vae", steps=2)
    shutil.copytree(root / "runs" / "r2" / "vae", root / "runs" / "r1" / "vae", dirs_exist_ok=True)
    told = "can't be read .they are others than those that it began from.: remove .*/runs/r3/vae, and start"
    with pytest.raises(UserError, match=told):
        loop.train(config, RUN, folder)
    config = dataclasses.replace(config, initial_digest="", initial_run="")
    loop.train(config, RUN, folder)
    began = dataclasses.replace(config, initial_run="r1", steps=3)
    loop.train(began, RUN, folder)  # from the checkpoint of step 2, which needs them no more
    assert [row["step"] for row in csv.DictReader((folder / "history.csv").open())] == ["1", "2", "3"]


def test_weights_of_another_network_are_told_and_none_is_used(tiny_dataset, root, tmp_path, caplog):
    shutil.copy(root / "runs/r1/vae/encoder.keras", root / "runs/r1/gan/discriminator.keras")
    folders = [root / "runs" / run / "gan" for run in ("r3", "r4")]
    for folder, warm in zip(folders, (True, False), strict=True):
        loop.train(settle(tiny_dataset, folder, "gan", warm_start=warm), RUN, folder)
    assert "the GAN starts from scratch" in caplog.text and "fits another discriminator" in caplog.text
    for ours, cold in zip(*(weights(folder, "gan") for folder in folders), strict=True):
        np.testing.assert_array_equal(ours, cold)


def test_an_output_below_a_link_or_beside_another_lies_in_the_root(tiny_dataset, root, tmp_path):
    (root / "runs" / "r3").mkdir()
    (tmp_path / "link").symlink_to(root / "runs" / "r3")
    for folder in (tmp_path / "link" / "vae", root / "runs" / "r3" / "gan" / ".." / "vae2"):
        assert settle(tiny_dataset, folder, "vae").initial_run == "r1"


def test_an_output_outside_a_root_and_a_damaged_pointer_are_told(tiny_dataset, root, tmp_path):
    with pytest.raises(UserError, match="lies in none: give an output such as ROOT/runs/RUN/MODEL"):
        settle(tiny_dataset, tmp_path / "elsewhere", "vae")
    assert not (tmp_path / "elsewhere" / "config.json").exists()
    (root / "promoted.json").write_text("{}")
    with pytest.raises(UserError, match="promoted.json does not say"):
        settle(tiny_dataset, root / "runs" / "r3" / "vae", "vae")


def test_two_workers_begin_from_the_same_weights_as_one(tiny_dataset, root):
    options = {"preset": "small", "steps": 1, "batch_size": 8, "warm_start": True}
    one, two = (root / "runs" / run / "vae" for run in ("of1", "of2"))
    loop.train(settle(tiny_dataset, one, "vae", **options), RUN, one)
    train("vae", str(tiny_dataset), str(two), workers=2, log_steps=1, **options)
    assert read_config(one).initial_run == read_config(two).initial_run == "r1"
    cold = root / "runs" / "r1" / "vae"
    loss, same, other = (
        float(next(csv.DictReader((folder / "history.csv").open()))["loss"]) for folder in (one, two, cold)
    )
    assert loss == pytest.approx(same, rel=1e-5)
    assert loss != pytest.approx(other, rel=1e-2)


def test_init_names_whose_weights_training_begins_from(tiny_dataset, trained, bucket, tmp_path, monkeypatch):
    source, folder = trained / "runs" / "r1" / "gan", tmp_path / "gan"
    monkeypatch.chdir(source.parent)
    options = {"preset": "small", "steps": 1, "batch_size": 8, "log_steps": 1}
    train("gan", str(tiny_dataset), str(folder), init="gan", workers=2, seed=7, **options)
    config = read_config(folder)
    assert config.initial_run == str(source) and config.initial_digest and not config.warm_start
    alone = tmp_path / "alone"
    loop.train(settle(tiny_dataset, alone, "gan", str(source), warm_start=False, seed=7), RUN, alone)
    for ours, others in zip(weights(folder, "gan"), weights(alone, "gan"), strict=True):
        np.testing.assert_allclose(ours, others, atol=1e-5)
    # With a learning rate of nothing, what is saved is what it began with.
    for file in source.glob("*.*"):
        (bucket / "gan" / file.name).write_bytes(file.read_bytes())
    still = tmp_path / "still"
    config = settle(tiny_dataset, still, "gan", "gs://bucket/gan", warm_start=False, seed=7)
    assert config.initial_run == "gs://bucket/gan"
    loop.train(dataclasses.replace(config, learning_rate=0.0), RUN, still)
    for ours, theirs in zip(weights(still, "gan"), weights(source, "gan"), strict=True):
        np.testing.assert_array_equal(ours, theirs)

    (tmp_path / "link").symlink_to(source)
    for place in (source, source.parent / "vae" / ".." / "gan", tmp_path / "link"):
        train("gan", str(tiny_dataset), str(folder), init=str(place), seed=7, **options)  # trained already
    for init in (trained / "runs" / "r2" / "gan", tmp_path / "none"):
        with pytest.raises(UserError, match="holds a run that did not begin from .*: choose another folder"):
            train("gan", str(tiny_dataset), str(folder), init=str(init), seed=7, **options)


@pytest.mark.parametrize(
    ("options", "change", "why"),
    [
        ({"preset": "book"}, None, "the preset there is small, and here book"),
        ({}, {"image_shape": [32, 32, 3]}, "the image shape there is (32, 32, 3), and here (16, 16, 3)"),
        ({}, {"latent_dim": 7}, "the latent dim there is 7, and here 128"),
        ({}, {"model": "gan"}, "config.json does not describe a run of this version"),
        ({}, truncate, "File is not a zip file"),
        ({}, pack, "its weights are packed"),
        ({}, stop, "encoder.keras, the end of its training, is not there"),
        ({}, shutil.rmtree, "is no model folder, for it holds no config.json: correct the name"),
        ({"warm_start": True}, None, "--init and --warm-start exclude each other"),
    ],
    ids=["preset", "image size", "latents", "family", "truncated", "packed", "unfinished", "gone", "both"],
)
def test_what_init_can_not_begin_from_is_refused(tiny_dataset, trained, tmp_path, options, change, why):
    source = shutil.copytree(trained / "runs" / "r1" / "vae", tmp_path / "source")
    if isinstance(change, dict):
        config = json.loads((source / "config.json").read_text())
        (source / "config.json").write_text(json.dumps(config | change))
    elif change:
        change(source)
    options = {"preset": "small", "steps": 1, "batch_size": 8} | options
    with pytest.raises(UserError, match=re.escape(why)):
        train("vae", str(tiny_dataset), str(tmp_path / "vae"), init=str(source), **options)
    assert not (tmp_path / "vae" / "config.json").exists()


def test_init_with_the_weights_of_another_network_is_refused(tiny_dataset, trained, tmp_path):
    source = shutil.copytree(trained / "runs" / "r1" / "gan", tmp_path / "source")
    shutil.copy(trained / "runs/r1/vae/encoder.keras", source / "discriminator.keras")
    config = settle(tiny_dataset, tmp_path / "gan", "gan", str(source), warm_start=False)
    with pytest.raises(UserError, match="source fits another discriminator .*: remove .*gan, and start"):
        loop.train(config, RUN, tmp_path / "gan")
    assert not list((tmp_path / "gan").glob("*.keras"))
