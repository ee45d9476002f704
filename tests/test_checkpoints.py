import contextlib
import os
import shutil
import subprocess

import keras
import numpy as np
import pytest

from latentfaces.common.errors import RunError, UserError
from latentfaces.components.train.checkpoints import Checkpoints

FILES = ("state.index", "state.data-00000-of-00001", "losses.npy")
LOSSES = np.arange(6.0).reshape(3, 2)


class Run:
    """A network and an optimizer that learn something at each step."""

    def __init__(self, folder, seed=0):
        keras.utils.set_random_seed(seed)
        self.network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(50), keras.layers.Dense(2)])
        self.optimizer = keras.optimizers.Adam(0.1)
        self.optimizer.build(self.network.trainable_variables)
        self.checkpoints = Checkpoints(
            folder, {"network": self.network, "optimizer": self.optimizer}, losses=2
        )

    def step(self):
        gradients = [variable + 0.1 for variable in self.network.trainable_variables]
        self.optimizer.apply(gradients, self.network.trainable_variables)

    def restore(self):
        """Restores the newest checkpoint, checks the losses that came with it, and returns its step."""
        step, losses = self.checkpoints.restore()
        np.testing.assert_array_equal(losses, LOSSES * step if step else np.empty((0, 0)))
        return step

    def weights(self):
        return [variable.numpy() for variable in self.network.variables + self.optimizer.variables]


def trained(folder, steps):
    """Trains with a checkpoint after each step; returns the weights after each."""
    run, history = Run(folder), []
    for step in range(1, steps + 1):
        run.step()
        run.checkpoints.save(step, LOSSES * step)
        history.append(run.weights())
    return history


def assert_same(weights, expected):
    for one, other in zip(weights, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture(params=["local", "bucket"])
def folder(request, tmp_path):
    return tmp_path / "c" if request.param == "local" else request.getfixturevalue("bucket") / "c"


def test_the_newest_is_restored_to_the_bit_and_three_are_kept(folder):
    history = trained(folder, 5)
    assert sorted(path.name for path in folder.iterdir()) == ["00000003", "00000004", "00000005"]
    run = Run(folder, seed=1)
    assert run.restore() == 5
    assert_same(run.weights(), history[-1])


def test_without_a_checkpoint_a_run_begins_at_step_0(folder):
    run = Run(folder)
    weights = run.weights()
    assert run.restore() == 0
    assert_same(run.weights(), weights)


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(data)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "damage", [cut, flip, lambda file: file.write_bytes(b""), lambda file: file.unlink()]
)
def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(tmp_path, caplog, name, damage):
    history = trained(tmp_path / "c", 2)
    damage(tmp_path / "c" / "00000002" / name)
    run = Run(tmp_path / "c", seed=1)
    assert run.restore() == 1
    assert_same(run.weights(), history[0])
    [record] = caplog.records
    assert record.levelname == "WARNING" and "\n" not in record.getMessage()
    assert "the checkpoint of step 2 can't be read" in record.getMessage()


def test_a_bucket_damaged_newest_checkpoint_is_passed_over(bucket, caplog):
    history = trained(bucket / "c", 2)
    file = bucket / "c" / "00000002" / FILES[1]
    file.write_bytes(file.read_bytes()[:99])
    run = Run(bucket / "c", seed=1)
    assert run.restore() == 1
    assert_same(run.weights(), history[0])
    assert "the checkpoint of step 2 can't be read" in caplog.text


@pytest.mark.parametrize("damage", [cut, flip])
def test_where_no_checkpoint_can_be_read_the_run_does_not_silently_start_again(tmp_path, damage):
    trained(tmp_path / "c", 1)
    damage(tmp_path / "c" / "00000001" / FILES[1])
    with pytest.raises(UserError, match=f"no checkpoint in {tmp_path}/c can be read: remove that folder"):
        Run(tmp_path / "c", seed=1).restore()


def test_another_models_checkpoint_is_not_taken(tmp_path):
    trained(tmp_path / "c", 1)
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(60), keras.layers.Dense(2)])
    with pytest.raises(UserError, match="no checkpoint in .* can be read"):
        Checkpoints(tmp_path / "c", {"network": other}, losses=2).restore()


def test_what_a_killed_writer_left_is_not_a_checkpoint(tmp_path):
    folder = tmp_path / "c"
    history = trained(folder, 1)
    # killed while copying, and while a bucket's files were uploaded
    shutil.copytree(folder / "00000001", folder / ".00000002.part")
    shutil.copytree(folder / "00000001", folder / "00000003")
    (folder / "00000003" / "done").unlink()
    run = Run(folder, seed=1)
    assert run.restore() == 1
    assert_same(run.weights(), history[0])
    for step in (2, 3):  # the run comes there again
        run.step()
        run.checkpoints.save(step, LOSSES * step)
    assert sorted(path.name for path in folder.iterdir()) == ["00000001", "00000002", "00000003"]
    again = Run(folder)
    assert again.restore() == 3
    assert_same(again.weights(), run.weights())


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
def test_a_full_disk_is_told_and_the_checkpoint_before_is_whole(tmp_path):
    (tmp_path / "disk").mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", tmp_path / "disk"]).returncode:
        pytest.skip("this machine does not let us mount")
    try:
        folder = tmp_path / "disk" / "c"
        history = trained(folder, 1)
        run = Run(folder, seed=1)
        with contextlib.suppress(OSError), open(tmp_path / "disk" / "filler", "wb", 0) as filler:
            while True:
                filler.write(bytes(4096))
        with pytest.raises(RunError, match="step 2 can't be written to .*No space left on device"):
            run.checkpoints.save(2, LOSSES)
        assert run.restore() == 1
        assert_same(run.weights(), history[0])
    finally:
        subprocess.run(["umount", tmp_path / "disk"], check=True)
