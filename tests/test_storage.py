import os
import threading

import pytest
from cloudpathlib import GSPath

from latentfaces.common import storage
from latentfaces.common.errors import UserError


@pytest.fixture(params=["local", "gs"])
def folder(request, tmp_path):
    return tmp_path / "a" if request.param == "local" else request.getfixturevalue("bucket") / "a"


def test_resolve_gives_paths(tmp_path, bucket, monkeypatch):
    assert storage.resolve(str(tmp_path)) == storage.resolve(tmp_path) == tmp_path
    assert storage.resolve(f"file://{tmp_path}") == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    assert storage.resolve("~/faces") == tmp_path / "faces"
    path = storage.resolve("gs://bucket/set/x")
    assert isinstance(path, GSPath) and storage.resolve(path) == path == bucket / "set" / "x"


@pytest.mark.parametrize(
    "uri, words",
    [
        ("gs://no-such-bucket/x", "no bucket gs://no-such-bucket"),
        ("gs://", "names no bucket"),
        ("s3://b/x", "cannot be read"),
    ],
)
def test_a_wrong_place_is_told_in_a_sentence(bucket, uri, words):
    with pytest.raises(UserError, match=words):
        storage.resolve(uri)


def test_a_storage_service_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
    monkeypatch.setattr(storage, "RETRY", storage.RETRY.with_timeout(1))
    storage.forget_connections()
    with pytest.raises(UserError, match="cannot be reached"):
        storage.resolve("gs://bucket/x")
    storage.forget_connections()


def test_write_read_list_delete(folder):
    storage.write(folder / "x.bin", b"0123456789")
    storage.write(folder / "x.bin", b"abcdefghij")
    storage.write(folder / "deeper" / "y z%ä.bin", b"")
    assert storage.read(folder / "x.bin") == b"abcdefghij"
    assert storage.read(folder / "x.bin", 3, 4) == b"defg"
    assert storage.read(folder / "x.bin", 8, 100) == b"ij"
    assert storage.read(folder / "x.bin", 3, 0) == b""
    assert storage.read(folder / "deeper" / "y z%ä.bin", 0, 100) == b""
    assert sorted(storage.list_files(folder)) == ["deeper/y z%ä.bin", "x.bin"]
    assert storage.is_file(folder / "x.bin") and not storage.is_folder(folder / "x.bin")
    assert storage.is_folder(folder / "deeper") and not storage.is_file(folder / "deeper")
    storage.delete(folder / "x.bin")
    storage.delete(folder / "x.bin")
    assert not storage.is_file(folder / "x.bin")
    with pytest.raises(FileNotFoundError):
        storage.read(folder / "x.bin")


def test_open_for_reading_seeks_and_reads_on(folder, monkeypatch):
    monkeypatch.setattr(storage, "SEQUENTIAL_READ", 1000)
    content = os.urandom(5555)
    storage.write(folder / "x.bin", content)
    with storage.open_for_reading(folder / "x.bin") as file:
        for start, length in ((0, 10), (10, 2500), (2510, 1), (900, 200), (5000, 555), (0, 5555)):
            file.seek(start)
            assert file.read(length) == content[start : start + length]


def test_publish_moves_a_whole_file(folder, tmp_path):
    storage.write(folder / "target", b"old")
    draft = tmp_path / "draft"
    draft.write_bytes(b"new" * 4_000_000)  # more than one request to a bucket
    storage.publish(draft, folder / "target")
    assert storage.read(folder / "target") == b"new" * 4_000_000
    assert not draft.exists()


def test_a_failed_local_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    storage.write(tmp_path / "x", b"old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        storage.write(tmp_path / "x", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"old"


def test_a_written_file_has_the_usual_mode(tmp_path):
    storage.write(tmp_path / "x", b"")
    (tmp_path / "y").write_bytes(b"")
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "y").stat().st_mode


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    results = []

    def read():
        try:
            storage.read(tmp_path / "pipe")
        except OSError as error:
            results.append(str(error))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(5)
    assert results and "not a regular file" in results[0]


def test_contains(tmp_path, bucket):
    assert storage.contains(tmp_path, tmp_path) and storage.contains(tmp_path, tmp_path / "a" / ".." / "b")
    assert not storage.contains(tmp_path / "a", tmp_path / "ab")
    assert storage.contains(bucket / "a", bucket / "a" / "b") and not storage.contains(
        bucket / "a", bucket / "ab"
    )
    assert not storage.contains(bucket, tmp_path)
