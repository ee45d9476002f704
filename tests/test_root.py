"""A pipeline's root: its runs, and how those that nothing points to are removed."""

import contextlib
import itertools
import json
import os
import shutil
import time

import pytest

from latentfaces.common import root as module
from latentfaces.common import storage
from latentfaces.common.dataset import (
    Dataset,
    Shard,
    find_dataset,
    make_splits,
    name_by_content,
    shard_name,
    write_dataset,
)
from latentfaces.common.errors import UserError
from latentfaces.common.lease import hold
from latentfaces.common.root import Run, dataset_folder, prune, run_folder, runs, start_run
from latentfaces.preprocessing import tfds

A, B, C = (letter * 32 for letter in "abc")
DAY = 24 * 3600.0  # seconds
WHOLE = {
    *("config.json", "longer.txt", "history.csv", "samples/epoch-0001.png", "logs/events.out.tfevents.1.v2"),
    *("checkpoints/00000002/state.index", "checkpoints/.00000004.part/losses.npy", ".lease"),
}
NETWORKS = {"vae": ("encoder", "decoder", "prior"), "gan": ("generator", "discriminator")}


@pytest.fixture(params=["local", "bucket"])
def root(request, tmp_path):
    """An empty root, in a folder and in a bucket."""
    return str(tmp_path / "root") if request.param == "local" else f"{request.getfixturevalue('bucket')}/root"


def make_run(root, run_id, dataset, started, finished=True):
    """All files that a run leaves, and what one leaves that was killed."""
    folder = storage.resolve(run_folder(root, run_id))
    for model, networks in NETWORKS.items():
        for name in (*WHOLE, *(f"{network}.keras" for network in networks)):
            storage.write(folder / model / name, b"of a run")
    if finished:
        storage.write(folder / "promotion.json", b"of a run")
    for name in ("metrics.json", "report.html", "concepts.npz", ".new.zip", ".report.html-k3_9xyz0"):
        storage.write(folder / "evaluation" / name, b"of a run")
    for name in ("gan_samples.png", "walk.webp", "walk.gif"):
        storage.write(folder / "evaluation" / "grids" / name, b"of a run")
    start_run(root, run_id, dataset)
    storage.write(folder / "run.json", json.dumps({"started": started, "dataset": dataset}).encode())
    return folder


def make_dataset(root, fingerprint):
    """All files that preprocessing leaves, even one that was killed."""
    folder = storage.resolve(dataset_folder(root, fingerprint))
    sha256 = "0123456789abcdef" * 4
    splits = make_splits([("train", Shard(shard_name("train", 0, 1), 1, 100, sha256))])
    splits["train"] = name_by_content("train", splits["train"])
    shard = splits["train"].shards[0].name
    others = ("rejected.jsonl", "duplicates.jsonl", "grids/crops.png", *tfds.FILES)
    for name in (shard, *others, ".lease", f".job-{A}/plan.json"):
        storage.write(folder / name, b"of a data set")
    write_dataset(folder, Dataset((2, 3, 1), (), splits, 0, "faces"))
    return folder


def present(root):
    """Names of the runs and data sets that anything is left of."""
    names = [name.split("/") for name in storage.list_files(storage.resolve(root))]
    return {name[1] for name in names if len(name) > 2}


def day(number):
    return f"2026-11-{number:02d}T03:00:00Z"


def test_a_run_says_when_it_was_started_and_from_which_data_set(root):
    start_run(root, "first", A)
    start_run(root, "second", B)
    (first,) = [each for each in runs(root) if each.id == "first"]
    assert first.dataset == A and first.started[:4].isdigit()
    storage.write(
        storage.resolve(run_folder(root, "first")) / "run.json",
        json.dumps({"started": day(1), "dataset": A}).encode(),
    )
    start_run(root, "first", C)  # again: it stays as old as it is
    assert [each.id for each in runs(root)] == ["second", "first"] and runs(root)[1] == Run(
        day(1), "first", C
    )


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "{}", "null", "[" * 999, '{"started": 1, "dataset": 2}', "\udcff"),
        json.dumps({"started": day(1), "dataset": "../../home"}),
        json.dumps({"started": "x" * 2000, "dataset": A}),
    ],
)
def test_a_record_that_we_would_not_write_is_no_run(tmp_path, content):
    folder = tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(content, errors="surrogateescape")
    assert runs(str(tmp_path)) == []
    prune(str(tmp_path), 1, tuple, "other")
    assert folder.exists()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-x", "a b", "x" * 200, "{{$.pipeline_job_uuid}}"])
def test_a_run_s_name_never_leaves_the_root(name):
    with pytest.raises(UserError, match="can't be a folder's name"):
        run_folder("gs://bucket/root", name)


@pytest.mark.parametrize("root", ["gs://bucket/a//b", "gs://bucket//a", "gs://bucket/a/../b"])
def test_a_root_whose_name_changes_when_it_is_joined_is_refused(root):
    with pytest.raises(UserError, match="can't be used: write it without //"):
        run_folder(root, "one")


def test_the_newest_the_promoted_and_the_current_run_stay_with_their_data_sets(root):
    for number, (name, dataset) in enumerate(
        {"promoted": A, "old": A, "older": B, "current": C, "x": A, "newest": A}.items(), 1
    ):
        make_run(root, name, dataset, day(number))
    for fingerprint in (A, B, C):
        make_dataset(root, fingerprint)
    storage.write(storage.resolve(root) / "promoted.json", b"whoever's")
    prune(root, 2, lambda: {"promoted", "gone"}, "current")
    assert present(root) == {"promoted", "current", "x", "newest", A, C}
    assert find_dataset(dataset_folder(root, A)) and (storage.resolve(root) / "promoted.json").exists()
    if root.startswith("/"):  # no empty folder is left either
        assert {each.name for each in storage.entries(storage.resolve(root) / "runs")} == present(root) - {
            A,
            C,
        }
    prune(root, 1, tuple, "current")
    assert present(root) == {"current", "newest", A, C}


def test_a_run_that_is_not_finished_stays_while_something_is_written(root, monkeypatch):
    make_run(root, "stopped", A, day(1), finished=False)
    make_run(root, "finished", B, day(2))
    make_run(root, "newest", C, day(3))
    make_dataset(root, A)
    prune(root, 1, tuple, "newest")
    assert present(root) == {"stopped", "newest", A}
    monkeypatch.setattr(module.time, "time", lambda now=time.time: now() + 7.01 * DAY)
    prune(root, 1, tuple, "newest")
    assert present(root) == {"newest"}


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        "vae/notes.txt",
        "vae/samples/me.jpg",
        "mine/encoder.keras",
        "evaluation/.gitignore",
        *(".x/y", ".diary-20260101", "vae/checkpoints/thesis.docx", "gan/logs/.my_notes-20260101"),
    ],
)
def test_what_holds_a_stranger_s_file_stays_and_is_told(root, caplog, name):
    folder = make_run(root, "old", A, day(1))
    make_run(root, "new", B, day(2))
    storage.write(folder / name, b"mine")
    before = set(storage.list_files(folder))
    prune(root, 1, tuple, "new")
    assert set(storage.list_files(folder)) == before
    assert f"{folder} stays, though nothing points to it: it holds {name}, which is not ours" in caplog.text

    storage.delete(folder / name)
    if root.startswith("/"):
        with contextlib.suppress(OSError):  # others of ours are in it
            (folder / name).parent.rmdir()
    data = make_dataset(root, A)
    storage.write(data / "mine.tfrecord", b"mine")
    storage.write(storage.resolve(root) / "datasets" / "my-own" / "dataset.json", b"mine")
    prune(root, 1, tuple, "new")
    assert present(root) == {"new", A, "my-own"} and find_dataset(data)


class Killed(BaseException):
    """In place of SIGKILL."""


def test_killed_at_any_moment_it_leaves_nothing_that_counts_as_whole(root, monkeypatch):
    delete, killed_after = storage.delete, 0

    def delete_some(path, generation=None):
        nonlocal left
        if not path.name.startswith(".lease"):
            left -= 1
            if left < 0:
                raise Killed
        delete(path, generation)

    def marks(names):
        return {name for name in names if name.endswith((".keras", "metrics.json"))}

    done = False
    while not done:
        run, data = make_run(root, "old", A, day(1)), make_dataset(root, A)
        make_run(root, "new", B, day(2))
        of_run, of_data, left = set(storage.list_files(run)), set(storage.list_files(data)), killed_after
        with monkeypatch.context() as patched, contextlib.suppress(Killed):
            patched.setattr(storage, "delete", delete_some)
            prune(root, 1, tuple, "new")
            done = True
        if remaining := set(storage.list_files(run)):
            assert "run.json" in remaining  # so that the next one knows it
            assert of_run - remaining <= marks(of_run) or not marks(remaining)
            assert set(storage.list_files(data)) == of_data
        assert set(storage.list_files(data)) == of_data or not find_dataset(data)
        with monkeypatch.context() as patched:
            if remaining == {"run.json"}:  # as of one that has just begun, which is given up later
                patched.setattr(module, "_QUIET", -DAY)
            prune(root, 1, tuple, "new")
        assert present(root) == {"new"}
        killed_after += 4
    assert killed_after > len(of_run) > 20


def test_a_stranger_s_link_stays_and_what_it_leads_to(tmp_path):
    root = tmp_path / "root"
    folder = make_run(str(root), "old", A, day(1))
    make_run(str(root), "new", B, day(2))
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "folder").mkdir()
    for name, target in itertools.product(
        ("link", "vae/samples/epoch-0009.png"), ("mine.txt", "folder", "no")
    ):
        (folder / name).symlink_to(tmp_path / target)
        before = sorted(root.rglob("*"))
        prune(str(root), 1, tuple, "new")
        assert sorted(root.rglob("*")) == before
        (folder / name).unlink()
    (folder / "vae" / "empty").mkdir()
    prune(str(root), 1, tuple, "new")
    assert (folder / "vae" / "encoder.keras").exists()
    (folder / "vae" / "empty").rmdir()
    # a link in the place of a run is none
    elsewhere = make_run(str(tmp_path / "elsewhere"), "run", A, day(1))
    (root / "runs" / "linked").symlink_to(elsewhere)
    files = set(storage.list_files(elsewhere))
    prune(str(root), 1, tuple, "new")
    assert present(str(root)) == {"new"} and set(storage.list_files(elsewhere)) == files


@pytest.mark.parametrize("fault", ["damaged", "linked", "unmounted"])
def test_no_data_set_is_removed_as_long_as_a_run_does_not_tell_its_own(tmp_path, caplog, fault):
    root = tmp_path / "root"
    folder, elsewhere = make_run(str(root), "old", A, day(1)), tmp_path / "elsewhere"
    make_run(str(root), "new", B, day(2))
    make_dataset(str(root), A)
    if fault == "damaged":
        (folder / "run.json").write_text("{")
    else:
        folder.rename(elsewhere)
        folder.symlink_to(elsewhere if fault == "linked" else tmp_path / "nowhere")
    prune(str(root), 1, tuple, "new")
    assert find_dataset(dataset_folder(str(root), A)) and "runs/old tells which one it uses" in caplog.text
    shutil.rmtree(folder) if fault == "damaged" else folder.unlink()
    prune(str(root), 1, tuple, "new")
    assert present(str(root)) == {"new"}


def test_what_cannot_be_removed_does_not_fail_a_run(tmp_path, monkeypatch, caplog):
    folder = make_run(str(tmp_path), "old", A, day(1))
    make_run(str(tmp_path), "new", B, day(2))

    def refuse(path, generation=None):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(storage, "delete", refuse)
        prune(str(tmp_path), 1, tuple, "new")
    assert f"{folder} could not be removed" in caplog.text
    prune(str(tmp_path), 1, tuple, "new")
    assert not os.path.exists(folder)


def test_a_run_that_starts_meanwhile_waits_and_keeps_its_data_set(tmp_path, monkeypatch, caplog):
    """Else it could find a data set whole that is about to be removed."""
    root = str(tmp_path)
    monkeypatch.setattr(module, "_WAIT", 0.0)
    with hold(tmp_path / "datasets"):
        with pytest.raises(UserError, match="in use"):
            start_run(root, "new", A)
        prune(root, 1, tuple, "new")
        assert "old runs in" in caplog.text and "in use" in caplog.text
    make_dataset(root, A)
    start_run(root, "new", A)
    prune(root, 1, tuple, "another")
    assert find_dataset(dataset_folder(root, A))
