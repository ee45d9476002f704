"""Training with real worker processes; each process starts TensorFlow, so tests share their runs."""

import dataclasses
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import free_ports, history

from latentfaces.common import storage
from latentfaces.common.config import RunOptions
from latentfaces.common.dataset import read_dataset
from latentfaces.common.errors import RunError, UserError
from latentfaces.common.model_folder import copy_model, read_config
from latentfaces.common.models import find_model
from latentfaces.common.pods import PodOptions
from latentfaces.components.train import loop, run
from latentfaces.components.train.launch.local import launch
from latentfaces.components.train.run import configure

STEPS = 50
BATCH = 36  # does not divide the 96 examples: batches run on across the ends of epochs
OPTIONS = {"preset": "small", "steps": STEPS, "batch_size": BATCH, "log_steps": 1, "checkpoint_steps": 10}
COMMAND = str(Path(sys.executable).parent / "latentfaces")


@pytest.mark.parametrize(
    ("step", "pace", "end"),
    [
        (0, 5, 5),  # as many as the pace allows
        (0, 99, 8),  # to the end of the epoch
        (8, 99, 10),  # to the next row of the history
        (13, 99, 15),  # to the next checkpoint
        (16, 99, 17),  # to the end of the run
    ],
)
def test_a_round_ends_where_something_is_due(step, pace, end):
    epoch_end = loop.next_epoch_end(step, batch_size=4, examples=30)
    assert loop.round_end(step, pace, 17, epoch_end, log_steps=10, checkpoint_steps=15) == end


def test_epochs_end_with_the_batch_that_completes_them():
    ends = [0]
    while ends[-1] < 40:
        ends.append(loop.next_epoch_end(ends[-1], batch_size=36, examples=96))
    assert ends[1:6] == [3, 6, 8, 11, 14]  # 96, 192, 288, 384 and 480 images


@pytest.fixture(scope="module")
def trained(tiny_dataset, tmp_path_factory):
    """A function that trains in worker processes and returns the model folder; the same run only once."""

    @functools.cache
    def train(model, workers, precision="float32", **options):
        folder = tmp_path_factory.mktemp(f"{model}-{workers}")
        options = OPTIONS | {"workers": workers, "precision": precision} | options
        run.train(model, str(tiny_dataset), str(folder), **options)
        return folder

    return train


def losses(folder):
    """Every loss of every step, [steps, losses]."""
    config = read_config(folder)
    names = find_model(config.model, config.preset).loss_names
    return np.array([[row[name] for name in names] for row in history(folder)])


def weights(folder):
    return weights_of(folder, read_config(folder))


def weights_of(folder, config):
    names = find_model(config.model, config.preset).network_names
    networks = [keras.saving.load_model(folder / f"{name}.keras") for name in names]
    return [array for network in networks for array in network.get_weights()]


def assert_same(folder, other):
    """History and weights are the same to the bit."""
    assert history(folder) == history(other)
    for one, another in zip(weights(folder), weights(other), strict=True):
        np.testing.assert_array_equal(one, another)


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize("workers", [2, slow(3), slow(4)])
@pytest.mark.parametrize("model", ["vae", slow("gan")])  # by default, a GAN's workers below, with TF_CONFIG
def test_what_is_trained_does_not_depend_on_the_workers(trained, model, workers):
    # Three and four workers are more than the data set has shards. A GAN amplifies rounding, the small one
    # with its larger steps beyond this bound from some seeds; in float64, below, it has to agree.
    options = {"preset": "book"} if model == "gan" else {}
    one, many = (losses(trained(model, count, steps=20, **options)) for count in (1, workers))
    assert one.shape == many.shape == (20, {"vae": 3, "gan": 2}[model])
    assert np.ptp(one, axis=0).min() > 0.01  # something is learned, or all would agree
    np.testing.assert_allclose(many, one, rtol=1e-3)


@pytest.mark.slow  # by default, the workers of the test with TF_CONFIG are held to the same
@pytest.mark.parametrize(("model", "workers"), [("gan", 2), ("vae", 2), ("vae", 3), ("gan", 3), ("gan", 4)])
def test_in_float64_fifty_steps_agree_to_a_millionth(trained, model, workers):
    one, many = losses(trained(model, 1, "float64")), losses(trained(model, workers, "float64"))
    np.testing.assert_allclose(many, one, rtol=1e-6)
    assert {array.dtype for array in weights(trained(model, workers, "float64"))} == {np.dtype("float64")}


def test_the_model_folder_holds_what_the_design_says(trained, tiny_dataset):
    folder = trained("gan", 1)
    config = read_config(folder)
    assert config == configure("gan", str(tiny_dataset), preset="small", steps=STEPS, batch_size=BATCH)
    assert config.image_shape == (16, 16, 3) and config.dataset_digest == read_dataset(tiny_dataset).digest
    rows = history(folder)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    np.testing.assert_allclose(
        [row["epoch"] for row in rows], np.arange(1, STEPS + 1) * BATCH / 96, atol=1e-4
    )
    epochs = STEPS * BATCH // 96
    pictures = sorted(path.name for path in (folder / "samples").iterdir())
    assert pictures == [f"epoch-{epoch:04d}.png" for epoch in range(1, epochs + 1)]
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [
        f"{step:08d}" for step in (30, 40, 50)
    ]
    assert list((folder / "logs").glob("events.out.tfevents.*"))
    for network in ("generator", "discriminator"):
        keras.saving.load_model(folder / f"{network}.keras")


def test_a_finished_run_is_not_run_again_and_another_is_refused(trained, tiny_dataset):
    folder = trained("gan", 1)
    before = (folder / "generator.keras").stat().st_mtime_ns
    run.train("gan", str(tiny_dataset), str(folder), **OPTIONS)
    assert (folder / "generator.keras").stat().st_mtime_ns == before
    for change, message in (
        ({"precision": "float64"}, "whose precision is float32, and float64 is asked for"),
        ({"seed": 4}, "whose seed is 0, and 4 is asked for"),
        ({"batch_size": 12}, "whose batch_size is 36, and 12 is asked for"),
        ({"steps": 49}, "holds a run of 50 steps, and fewer are asked for, 49 steps: ask for as many"),
    ):
        with pytest.raises(UserError, match=message):
            run.train("gan", str(tiny_dataset), str(folder), **OPTIONS | change)


def test_the_other_workers_wait_until_the_chief_has_made_the_run_longer(tiny_dataset, tmp_path):
    shorter, longer = (
        configure("gan", str(tiny_dataset), preset="small", steps=steps, batch_size=BATCH) for steps in (4, 8)
    )
    run._claim(tmp_path, shorter)
    run._await_chief(tmp_path, shorter, 0.1)
    with pytest.raises(RunError, match="the chief wrote no such config.json to .* within 0 s"):
        run._await_chief(tmp_path, longer, 0.1)
    run._claim(tmp_path, longer)
    run._await_chief(tmp_path, longer, 0.1)
    run._await_chief(tmp_path, dataclasses.replace(longer, epochs=3), 0.1)  # which are as many steps


def test_a_run_that_was_killed_while_it_claimed_its_folder_begins_again(tiny_dataset, tmp_path):
    config = configure("gan", str(tiny_dataset), preset="small", steps=1, batch_size=BATCH)
    (tmp_path / ".lease").touch()
    (tmp_path / ".config.json-4c2rzrod").write_text("{")  # as `storage.write` leaves it
    run._claim(tmp_path, config)
    assert read_config(tmp_path) == config


class Killed(BaseException):
    """Not caught by anything, as little as SIGKILL."""


def test_a_trained_model_is_trained_for_longer_and_stays_whole_meanwhile(
    trained, tiny_dataset, tmp_path, caplog
):
    whole = trained("vae", 1, preset="book", steps=0, epochs=4)
    folder, often = tmp_path / "vae", RunOptions(log_steps=1, checkpoint_steps=1)
    options = {key: OPTIONS[key] for key in ("batch_size", "log_steps")} | {"preset": "book"}

    def train(epochs, rounds=99):
        """Trains in this process, which is killed after so many rounds of steps."""
        left = iter([None] * (rounds + 1))

        def be_killed():
            if next(left, Killed) is Killed:
                raise Killed

        config = configure("vae", str(tiny_dataset), preset="book", epochs=epochs, batch_size=BATCH)
        run._claim(folder, config)
        loop.train(read_config(folder), often, folder, on_progress=be_killed)

    folder.mkdir()
    train(2)
    networks = {path: path.read_bytes() for path in folder.glob("*.keras")}
    assert len(networks) == 2 and len(history(folder)) == 6 and not (folder / "longer.txt").exists()
    caplog.set_level("INFO")
    with pytest.raises(Killed):
        train(4, rounds=3)
    assert "the VAE goes on: its run of 2 epochs is now one of 4 epochs\n" in caplog.text
    assert {path: path.read_bytes() for path in folder.glob("*.keras")} == networks
    rows = len(history(folder))
    assert 6 <= rows < 11 and (folder / "samples" / "epoch-0002.png").exists()
    with pytest.raises(UserError, match="a run of 4 epochs, and fewer are asked for, 3 epochs"):
        train(3)

    run.train("vae", str(tiny_dataset), str(folder), epochs=4, **options)  # the same once more
    assert_same(folder, whole)
    assert not (folder / "longer.txt").exists() and read_config(folder).steps == 11
    pictures = [sorted(path.name for path in each.glob("samples/*")) for each in (folder, whole)]
    assert pictures[0] == pictures[1]


@pytest.fixture(scope="module")
def vae_of_100_steps(tiny_dataset, tmp_path_factory):
    config = configure("vae", str(tiny_dataset), preset="small", steps=100, batch_size=4)
    folder = tmp_path_factory.mktemp("vae")
    loop.train(config, RunOptions(), folder)
    return config, weights_of(folder, config)


@pytest.mark.parametrize("end", [Killed, signal.SIGTERM])
def test_a_vae_that_is_stopped_while_it_learns_its_prior_ends_the_same(vae_of_100_steps, tmp_path, end):
    config, whole = vae_of_100_steps
    calls = []

    def be_stopped():
        if (tmp_path / "checkpoints" / "00000100" / "done").exists():
            calls.append(1)
        if len(calls) == 26:  # the 96 images come in 24 batches
            if end is Killed:
                raise Killed
            os.kill(os.getpid(), end)

    with pytest.raises(Killed if end is Killed else SystemExit) as caught:
        loop.train(config, RunOptions(), tmp_path, on_progress=be_stopped)
    assert end is Killed or caught.value.code == 143
    assert not list(tmp_path.glob("*.keras"))
    loop.train(config, RunOptions(), tmp_path)
    names = sorted(path.stem for path in tmp_path.glob("*.keras"))
    assert names == sorted(find_model("vae", "small").network_names)
    for one, another in zip(weights_of(tmp_path, config), whole, strict=True):
        np.testing.assert_array_equal(one, another)


def test_a_model_without_checkpoints_is_not_trained_anew_for_longer(trained, tiny_dataset, tmp_path):
    folder = shutil.copytree(trained("gan", 1), tmp_path / "gan")
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(UserError, match="holds a trained model, and no checkpoint from which"):
        run.train("gan", str(tiny_dataset), str(folder), **OPTIONS | {"steps": 60})
    run.train("gan", str(tiny_dataset), str(folder), **OPTIONS)  # as it was


@pytest.mark.usefixtures("float32_after")
def test_the_learning_rate_of_a_longer_run_is_what_that_has_there(tiny_dataset, tmp_path, caplog):
    caplog.set_level("INFO")
    rates = []
    for steps in (4, 8):
        config = configure("vae", str(tiny_dataset), preset="small", steps=steps, batch_size=BATCH)
        run._claim(tmp_path, config)
        rates.append(float(find_model("vae", "small")(config).optimizer._learning_rate(4)))
    assert rates[0] == 0 and rates[1] == pytest.approx(config.learning_rate / 2)
    assert "one of 8 steps; its learning rate, which falls along a run, jumps" in caplog.text


@pytest.mark.parametrize("preset", [slow("small"), "modern"])
def test_a_process_with_tf_config_is_that_worker(trained, tiny_dataset, tmp_path, preset):
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    options = OPTIONS | {"precision": "float64", "preset": preset}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    processes = []
    for index in range(2):
        roles = {"chief": addresses[:1], "worker": addresses[1:]}  # as Vertex AI and Kubeflow's TFJob have it
        task = {"type": ("chief", "worker")[index], "index": 0}
        command = [COMMAND, "train", "gan", f"--dataset={tiny_dataset}", f"--output={tmp_path}", *options]
        environment = os.environ | {"TF_CONFIG": json.dumps({"cluster": roles, "task": task})}
        processes.append(
            subprocess.Popen(
                command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        )
    for process in processes:
        errors = process.communicate(timeout=180)[1]
        assert process.returncode == 0, errors
    np.testing.assert_allclose(
        losses(tmp_path), losses(trained("gan", 1, "float64", preset=preset)), rtol=1e-6
    )


@pytest.mark.parametrize("workers", [1, slow(2)])
def test_a_loss_that_is_not_finite_ends_the_run_and_names_the_step(tiny_dataset, tmp_path, workers, capfd):
    config = configure("vae", str(tiny_dataset), preset="small", steps=12, batch_size=BATCH)
    config = dataclasses.replace(config, learning_rate=1e30, learning_rate_decay=False)
    storage.write(tmp_path / "config.json", config.to_json().encode())
    with pytest.raises(
        RunError, match=f"worker . of {workers}: the loss became nan at step 2: training stopped"
    ):
        launch(str(tmp_path), RunOptions(workers=workers, log_steps=4), PodOptions())
    assert "Traceback" not in capfd.readouterr().err
    assert not list(tmp_path.glob("*.keras"))


@pytest.fixture
def float32_after():
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize(
    "change",
    [
        {"xla": True, "precision": "float64"},
        slow({"precision": "mixed_bfloat16"}),  # by default, float16, which has scaled losses besides
        {"precision": "mixed_float16"},
    ],
)
@pytest.mark.parametrize(("model", "preset"), [slow("gan", "small"), ("gan", "modern"), slow("vae", "small")])
@pytest.mark.usefixtures("float32_after")
def test_xla_and_low_precision_train_the_same(trained, tiny_dataset, tmp_path, model, preset, change):
    config = configure(model, str(tiny_dataset), preset=preset, steps=STEPS, batch_size=BATCH)
    config = dataclasses.replace(config, **change)
    storage.write(tmp_path / "config.json", config.to_json().encode())
    loop.train(config, RunOptions(log_steps=1, checkpoint_steps=STEPS), tmp_path)
    precision = "float64" if "xla" in change else "float32"
    ours, theirs = losses(tmp_path), losses(trained(model, 1, precision, preset=preset))
    if "xla" in change:
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    else:  # mixed_float16 leaves out the first steps, in which the scaled loss overflows
        np.testing.assert_allclose(ours[-10:, 0].mean(), theirs[-10:, 0].mean(), rtol=0.02)
    assert {array.dtype for array in weights(tmp_path)} == {np.dtype(precision)}


@pytest.mark.parametrize("preset", ["small", "modern"])
def test_a_bucket_can_hold_data_set_and_model(tiny_dataset, bucket, tmp_path, monkeypatch, preset, caplog):
    # In this process, without TF_CONFIG: the loop is the same, and TensorFlow is there already.
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in storage.list_files(tiny_dataset):
        (bucket / "dataset" / name).write_bytes((tiny_dataset / name).read_bytes())
    config = configure("gan", "gs://bucket/dataset", preset=preset, steps=6, batch_size=BATCH)
    (bucket / "gan" / "config.json").write_text(config.to_json())
    often = RunOptions(log_steps=1, checkpoint_steps=3)
    with caplog.at_level("INFO"):
        loop.train(config, often, bucket / "gan")
    assert "samples to look at come into gs://bucket/gan/samples" in caplog.text
    names = set(storage.list_files(bucket / "gan"))
    assert {"config.json", "history.csv", "generator.keras", "discriminator.keras"} <= names
    assert {"samples/epoch-0001.png", "checkpoints/00000003/done", "checkpoints/00000006/done"} <= names

    copy_model("gs://bucket/gan", str(tmp_path / "whole"))
    for name in names:  # as if it had been lost after the first checkpoint
        if name.endswith(".keras") or name.startswith("checkpoints/00000006"):
            (bucket / "gan" / name).unlink()
    loop.train(config, often, bucket / "gan")
    copy_model("gs://bucket/gan", str(tmp_path / "resumed"))
    assert_same(tmp_path / "resumed", tmp_path / "whole")
