"""Jobs to one output, interleaved at random, killed at any storage operation: a data set is always whole."""

import faulthandler
import fcntl
import os
import random
import threading
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
import requests
from conftest import photograph
from rich.console import Console
from test_job import files

from latentfaces.common import examples, lease, storage
from latentfaces.common.dataset import SPLITS, read_dataset
from latentfaces.common.errors import RunError, UserError
from latentfaces.common.examples import ReplacedError, open_split
from latentfaces.preprocessing import engine
from latentfaces.preprocessing.job import run
from latentfaces.preprocessing.sources.split import hash_split

LOCAL_OPERATIONS = ("open", "replace", "rename", "unlink", "mkdir", "rmdir", "scandir", "fsync", "ftruncate")


NAMES = [f"{number}.png" for number in range(100)]


class Killed(BaseException):
    """The process that a thread stands for is killed: it does nothing any more."""


class Actor(threading.Thread):
    """A thread that stands for a process; it takes turns with the others, one storage operation a turn."""

    def __init__(self, stage, work, kill_at=None):
        super().__init__(daemon=True)
        self.stage, self.work, self.kill_at = stage, work, kill_at
        self.operations, self.waiting, self.killed, self.error = 0, False, False, None

    def run(self):
        try:
            self.work()
        except Killed:
            pass
        except BaseException as error:
            self.error = error
        finally:
            self.stage.leave(self)


class Stage:
    """Has actors take turns at random: now one operation each, now many before it is another one's turn."""

    def __init__(self, seed):
        self.random, self.turn, self.actors = random.Random(seed), None, []
        self.patience = self.random.choice([0.0, 0.5, 0.9, 0.97])
        self.changed = threading.Condition()

    def play(self, *actors):
        self.actors = list(actors)
        for actor in actors:
            actor.start()
        for actor in actors:
            actor.join(60)
            if actor.is_alive():
                faulthandler.dump_traceback()
                raise AssertionError("an actor is stuck")

    def step(self):
        """Called before every storage operation of any thread."""
        actor = threading.current_thread()
        if not isinstance(actor, Actor) or actor.stage is not self:
            return
        if not actor.killed:
            with self.changed:
                actor.waiting = True
                if self.turn in (actor, None):
                    self._choose()
                while self.turn is not actor:
                    self.changed.wait()
                actor.waiting = False
            actor.operations += 1
        if actor.killed or actor.operations == actor.kill_at:
            actor.killed = True
            raise Killed

    def leave(self, actor):
        with self.changed:
            self.actors.remove(actor)
            if self.turn in (actor, None):
                self._choose()

    def _choose(self):
        waiting = [actor for actor in self.actors if actor.waiting]
        if self.turn not in waiting or self.random.random() >= self.patience:
            self.turn = self.random.choice(waiting) if waiting else None
        self.changed.notify_all()


class Pause(Stage):
    """Has the first actor stop before one of its operations until the second has ended."""

    def __init__(self, operation):
        super().__init__(0)
        self.operation = operation

    def _choose(self):
        if all(actor.waiting for actor in self.actors):
            first = self.actors[0] if self.actors else None
            stopped = len(self.actors) == 2 and first.operations == self.operation
            self.turn = self.actors[1] if stopped else first
        self.changed.notify_all()


class Inline:
    """In place of a thread pool: everything happens in the actor's own thread."""

    def __init__(self, *_):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def map(self, function, *items):
        return map(function, *items)

    def shutdown(self, **_):
        pass


class World:
    """An output, and jobs to it on a stage.

    Attributes:
        committed: the content of each dataset.json that was written, in order.
    """

    def __init__(self, output, sources, patch, caches):
        self.output, self.sources, self.patch = output, sources, patch
        self.caches, self.read = caches, 0
        self.stage, self.committed = Stage(0), []
        patch.setattr(os, "fsync", lambda descriptor: None)  # it takes long, and no power is cut here
        if isinstance(output, Path):
            for name in LOCAL_OPERATIONS:
                self._watch(os, name)
            self._watch(fcntl, "flock")
        else:
            self._watch(requests.Session, "request")
        replace, replace_object = os.replace, storage.replace

        def replace_and_tell(source, target, **options):
            replace(source, target, **options)
            if os.fspath(target) == str(self.output / "dataset.json"):
                self.committed.append((self.output / "dataset.json").read_bytes())

        def replace_object_and_tell(path, data, *rest):
            version = replace_object(path, data, *rest)
            if path == self.output / "dataset.json":
                self.committed.append(data)
            return version

        patch.setattr(os, "replace", replace_and_tell)
        patch.setattr(storage, "replace", replace_object_and_tell)
        patch.setattr(storage, "ThreadPoolExecutor", Inline)
        patch.setattr(examples, "ThreadPoolExecutor", Inline)
        patch.setattr(engine, "run_pipeline", self._run_pipeline)
        patch.setattr(engine, "parse_options", lambda options: None)

    def _watch(self, owner, name):
        operation = getattr(owner, name)

        def watched(*args, **kwargs):
            self.stage.step()
            return operation(*args, **kwargs)

        self.patch.setattr(owner, name, watched)

    @staticmethod
    def _run_pipeline(options, units, write_shard, console):
        for unit in units:
            write_shard.process(unit)

    def run(self, number):
        console = Console(file=open(os.devnull, "w"))
        return run(
            self.sources[number], str(self.output), image_size=4, examples_per_shard=1, console=console
        )

    def run_later(self, number):
        """Runs a job when the leases of all who are dead have run out."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lease, "EXPIRY", 0)
            patch.setattr(lease.Lease, "check", lambda self: None)
            self.run(number)

    def job(self, number, kill_at=None):
        return Actor(self.stage, lambda: self.run(number), kill_at)

    def records(self):
        """Reads the whole data set, and no copies of it: what is in its shards."""
        self.read += 1
        self.patch.setenv("LATENTFACES_CACHE", f"{self.caches}/{self.read}")
        dataset = read_dataset(self.output)
        return [
            record
            for name, split in dataset.splits.items()
            if split.examples
            for record in self._read(dataset, name)
        ]

    def _read(self, dataset, split):
        opened = open_split(str(self.output), dataset, split)
        return opened.read(np.arange(len(opened))).tolist()


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Three folders of five pictures, some splits of which are the same: their shards have the same names."""
    by_split = {split: [name for name in NAMES if hash_split(name) == split] for split in SPLITS}
    names = [*by_split["train"][:3], by_split["valid"][0], by_split["test"][0]]
    folders = []
    for pictures in [(1, 2, 3, 4, 5), (1, 2, 6, 4, 5), (7, 8, 9, 4, 3)]:
        folder = tmp_path_factory.mktemp("source")
        for name, picture in zip(names, pictures, strict=True):
            cv2.imwrite(str(folder / name), photograph(picture, 8, 8))
        folders.append(str(folder))
    return folders


@contextmanager
def world(place, request, tmp_path, sources):
    output = tmp_path / "set" if place == "local" else request.getfixturevalue("bucket") / "set"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lease, "POLL", (0.001, 0.01))
        patch.setattr(lease, "EXPIRY", 1.5)
        patch.setattr(lease, "RENEWAL", 0.3)
        yield World(output, sources, patch, tmp_path / "caches")


@pytest.fixture(scope="module")
def expected(sources, tmp_path_factory):
    """For each source, {name: content} of a data set's folder and the records in it."""
    result = []
    for number in range(len(sources)):
        output = tmp_path_factory.mktemp("expected")
        with pytest.MonkeyPatch.context() as patch:
            made = World(output, sources, patch, output)
            made.run(number)
            result.append((files(output), made.records()))
    shards = [{name for name in content if name.endswith(".tfrecord")} for content, _ in result]
    assert shards[0] & shards[1] and shards[0] - shards[1] and shards[0] & shards[2]
    return result


def whole(made, expected):
    """Checks that there is one whole data set, the newest committed; returns whose."""
    content = storage.read(made.output / "dataset.json")
    assert not made.committed or content == made.committed[-1]
    (number,) = (number for number, (each, _) in enumerate(expected) if each["dataset.json"] == content)
    assert made.records() == expected[number][1]
    return number


def clean(made, expected, leaks=False):
    """Checks that another job leaves its data set and nothing else."""
    made.run_later(2)
    left = files(made.output)
    if leaks:
        left = {name: left[name] for name in left.keys() & expected[2][0].keys()}
    assert left == expected[2][0]


PLACES = ["local", "gs"]


@pytest.mark.parametrize("place", PLACES)
def test_a_job_killed_at_each_operation_harms_nothing(request, tmp_path, sources, expected, place):
    with world(place, request, tmp_path, sources) as made:
        made.run(0)
        alone = made.job(1)
        made.stage.play(alone)
        assert alone.error is None and whole(made, expected) == 1
        last, outcomes = alone.operations, set()
        for kill_at in range(1, last + 2, 1 if place == "local" else 5):
            made.run_later(0)
            made.committed.clear()
            killed = made.job(1, kill_at)
            made.stage.play(killed)
            assert killed.killed == (kill_at <= last) and killed.error is None
            outcomes.add(whole(made, expected))
            clean(made, expected)
        assert outcomes == {0, 1}


@pytest.mark.parametrize("place", PLACES)
def test_any_interleaving_of_jobs_and_readers_with_kills_leaves_a_whole_data_set(
    request, tmp_path, sources, expected, place
):
    with world(place, request, tmp_path, sources) as made:
        made.run(0)
        alone = made.job(1)
        made.stage.play(alone)
        seen = 0
        for seed in range(40 if place == "local" else 6):
            made.committed.clear()
            made.stage = Stage(seed)
            chance = made.stage.random

            def reader():
                nonlocal seen
                for _ in range(3):
                    try:
                        records = made.records()
                    except ReplacedError:
                        continue
                    assert records in [each for _, each in expected]
                    seen += 1

            jobs = [
                made.job(number, chance.randint(1, alone.operations) if chance.random() < 0.5 else None)
                for number in range(chance.randint(2, 3))
            ]
            read = Actor(made.stage, reader)
            made.stage.play(*jobs, read)
            for actor in (*jobs, read):
                assert actor.error is None, (seed, actor.error)
            whole(made, expected)
            clean(made, expected)
        assert seen > 10


@contextmanager
def claims_that_run_out(seconds):
    """In a bucket, everyone's claim runs out while he is at work and believes in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lease, "EXPIRY", seconds)
        patch.setattr(lease, "RENEWAL", 60)
        patch.setattr(lease.Lease, "check", lambda self: None)
        yield


@pytest.mark.parametrize("stride", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_a_job_that_was_stopped_while_another_took_its_place_harms_nothing(
    request, tmp_path, sources, expected, stride
):
    with world("gs", request, tmp_path, sources) as made:
        made.run(0)
        alone = made.job(1)
        made.stage.play(alone)
        outcomes = set()
        # the commit and what is before
        for operation in range(alone.operations // 2, alone.operations, stride):
            made.run_later(0)
            made.committed.clear()
            made.stage = Pause(operation)
            stopped, other = made.job(1), made.job(0)
            with claims_that_run_out(0):
                made.stage.play(stopped, other)
            assert other.error is None
            assert isinstance(stopped.error, None | RunError | OSError | RuntimeError), stopped.error
            whole(made, expected)
            outcomes.add((len(made.committed), type(stopped.error)))
        assert {outcome[0] for outcome in outcomes} == {1, 2}


@pytest.mark.slow  # by default, the test above has one job lose its claim, at given operations
def test_jobs_that_lose_their_claims_leave_a_whole_data_set(request, tmp_path, sources, expected):
    with world("gs", request, tmp_path, sources) as made:
        made.run(0)
        succeeded = 0
        for seed in range(6):
            made.committed.clear()
            made.stage = Stage(seed)
            with claims_that_run_out(0.02):
                jobs = [made.job(made.stage.random.randrange(3)) for _ in range(3)]
                made.stage.play(*jobs)
            for job in jobs:
                assert job.error is None or isinstance(
                    job.error, RunError | UserError | RuntimeError | OSError
                )
            succeeded += sum(job.error is None for job in jobs)
            whole(made, expected)
            clean(made, expected, leaks=True)
        assert succeeded
