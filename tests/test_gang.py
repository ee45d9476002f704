import contextlib
import csv
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from preprocessing.dataset import VERSION, Dataset, ShardWriter, encode_example, make_splits, write_dataset

STEPS = 200
RUN = ["--preset", "book", "--batch-size", "24", "--steps", str(STEPS), "--seed", "7"]
OFTEN = ["--log-steps", "20", "--checkpoint-steps", "7"]


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """2,400 random pictures of 16x16: an epoch of 100 steps."""
    folder = tmp_path_factory.mktemp("dataset")
    pictures = np.random.default_rng(0).integers(0, 256, (2400, 16, 16, 3), np.uint8)
    name = "train-00000-of-00001.tfrecord"
    with ShardWriter((folder / name).open("wb")) as writer:
        for number, picture in enumerate(pictures):
            writer.write(encode_example(picture.tobytes(), f"{number}.png", None))
    splits = make_splits([("train", writer.shard(name))])
    write_dataset(folder, Dataset((16, 16, 3), (), splits, 0, "random", VERSION))
    return folder


@pytest.fixture
def start(faces):
    """Starts runs, and ends them when the test is over."""
    with contextlib.ExitStack() as stack:

        def start(*arguments, **options):
            run = Run(faces, *arguments, **options)
            stack.callback(run.process.wait)
            stack.callback(run.process.kill)
            return run

        yield start


class Run:
    """A run of `latentfaces train vae` in a process of its own."""

    def __init__(self, faces, output, *options, workers=2):
        self.output = output
        self._log = output.with_suffix(".log")
        command = ["train", "vae", "--dataset", faces, "--output", output, "--workers", str(workers)]
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", "from pipelines.cli import main; main()", *command, *RUN, *options],
                stdout=log,
                stderr=log,
            )

    def log(self):
        return self._log.read_text()

    def wait_until(self, condition, seconds=60):
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.002)

    def wait_for_step(self, step):
        self.wait_until(lambda: self.step() >= step)

    def step(self):
        folders = (self.output / "checkpoints").glob("0*") if (self.output / "checkpoints").exists() else []
        return max((int(folder.name) for folder in folders), default=0)

    def end(self, seconds=60):
        return self.process.wait(seconds)

    def member(self, index):
        return _find(self.process.pid, f"components.train.member {index} ")

    def worker(self, index):
        return _find(self.member(index), "components.train.worker")


def _find(parent, command):
    """The process id of the child of `parent` whose command line holds `command`; waits until there is one."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for line in subprocess.check_output(["ps", "-eo", "pid,ppid,args"], text=True).splitlines()[1:]:
            pid, ppid, args = line.split(None, 2)
            if int(ppid) == parent and command in args:
                return int(pid)
        time.sleep(0.05)
    raise AssertionError(f"{parent} has no child {command}")


def processes_of(folder):
    """The processes that a run in `folder` left behind, zombies aside."""
    lines = subprocess.check_output(["ps", "-eo", "stat,pid,args"], text=True).splitlines()
    return [line for line in lines if str(folder) in line and not line.startswith("Z")]


def history(output):
    rows = list(csv.DictReader((output / "history.csv").open()))
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def assert_same_bits(output, reference):
    ours, theirs = (
        tf.train.load_checkpoint(str(folder / "checkpoints" / f"{STEPS:08d}" / "state"))
        for folder in (output, reference)
    )
    names = set(theirs.get_variable_to_shape_map()) - {"_CHECKPOINTABLE_OBJECT_GRAPH"}
    assert len(names) > 40
    for name in names:
        np.testing.assert_array_equal(ours.get_tensor(name), theirs.get_tensor(name), err_msg=name)
    assert history(output) == history(reference)


@pytest.fixture(scope="module")
def uninterrupted(faces, tmp_path_factory):
    output = tmp_path_factory.mktemp("reference") / "run"
    run = Run(faces, output, "--log-steps", "20")
    try:
        assert run.end() == 0, run.log()
    finally:
        run.process.kill()
    assert len(history(output)) == STEPS // 20
    return output


def test_a_run_whose_processes_are_killed_ends_with_the_same_bits(start, uninterrupted, tmp_path):
    run = start(tmp_path / "run", *OFTEN, "--max-restarts", "3")
    run.wait_for_step(20)
    os.kill(run.worker(1), signal.SIGKILL)
    run.wait_for_step(60)
    os.kill(run.member(0), signal.SIGKILL)
    run.wait_for_step(100)
    chief = run.worker(0)
    while True:  # in the middle of a checkpoint
        run.wait_until(lambda: list(run.output.glob("checkpoints/.*.part")))
        os.kill(chief, signal.SIGSTOP)
        if list(run.output.glob("checkpoints/.*.part")):
            break
        os.kill(chief, signal.SIGCONT)
    os.kill(chief, signal.SIGKILL)
    assert run.end() == 0, run.log()
    assert_same_bits(run.output, uninterrupted)
    for restart, reason in enumerate(["Worker 1's process was killed by SIGKILL", "Worker 0 was lost"], 1):
        assert f"{reason}: all go on from the last checkpoint, restart {restart} of at most 3." in run.log()
    assert not processes_of(tmp_path)
