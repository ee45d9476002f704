import os
import threading
from pathlib import Path

import pytest
import requests
from cloudpathlib import GSPath
from google.cloud.storage import Client

from latentfaces.common import storage
from latentfaces.common.errors import UserError


@pytest.fixture(params=["local", "gs"])
def folder(request, tmp_path):
    return tmp_path / "a" if request.param == "local" else request.getfixturevalue("bucket") / "a"


def test_resolve_gives_paths(tmp_path, bucket, monkeypatch):
    assert storage.resolve(str(tmp_path)) == storage.resolve(tmp_path) == tmp_path
    assert storage.resolve(f"file://{tmp_path}") == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    assert storage.resolve("~/faces") == storage.resolve(Path("~/faces")) == tmp_path / "faces"
    path = storage.resolve("gs://bucket/set/x")
    assert isinstance(path, GSPath) and storage.resolve(path) == path == bucket / "set" / "x"


@pytest.mark.parametrize(
    "uri, words",
    [
        ("gs://no-such-bucket/x", "no bucket gs://no-such-bucket"),
        ("gs://", "names no bucket"),
        ("s3://b/x", "cannot be read"),
        ("~nobody-of-this-name/x", "names no one's home folder"),
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


def test_entries_are_what_lies_in_a_folder_itself(folder):
    assert storage.entries(folder) == []
    for name in ("x.bin", "deeper/y.bin", "deeper/still/z.bin", "deeper2/y.bin"):
        storage.write(folder / name, b"")
    found = sorted(storage.entries(folder))
    assert [(name, is_folder) for name, is_folder, _ in found] == [
        ("deeper", True),
        ("deeper2", True),
        ("x.bin", False),
    ]
    assert (found[2].generation is None) == isinstance(folder, Path)
    assert storage.entries(folder / "x.bin") == []


def test_move_gives_a_file_its_place(folder):
    storage.write(folder / "draft", b"new")
    storage.write(folder / "target", b"old")
    storage.move(folder / "draft", folder / "target")
    assert storage.read(folder / "target") == b"new"
    assert storage.is_file(folder / "draft") != isinstance(folder, Path)
    with pytest.raises(FileNotFoundError):
        storage.move(folder / "nothing", folder / "target")


def test_every_object_that_is_listed_can_be_read(bucket):
    client = storage.resolve("gs://bucket").client.client
    names = ["a//x", "a/b//c//y", "a/x y", "a/ä?#%2F"]
    for number, name in enumerate(names):
        client.bucket("bucket").blob(name).upload_from_string(bytes([number]))
    listed = list(storage.list_files(bucket / "a"))
    assert sorted(f"a/{name}" for name in listed) == sorted(names)
    for name in listed:
        assert storage.read(storage.join(bucket / "a", name)) == bytes([names.index(f"a/{name}")])
    assert storage.join(Path("a"), "b/x") == Path("a/b/x")


SHARD = "test-0123456789abcdef-00000-of-00001.tfrecord"
OLDER_SHARD = "test-00000-of-00001-0123456789abcdef.tfrecord"
BYTES, ASKED = "application/octet-stream", "no-cache"
DESCRIPTIONS = {
    "report.html": ("text/html; charset=utf-8", ASKED),
    "dataset.json": ("application/json", ASKED),
    "history.csv": ("text/csv; charset=utf-8", ASKED),
    "rejected.jsonl": ("application/jsonl", ASKED),
    "a.PNG": ("image/png", ASKED),
    "a.jpg": ("image/jpeg", ASKED),
    "a.webp": ("image/webp", ASKED),
    "a.gif": ("image/gif", ASKED),
    "a.zip": ("application/zip", ASKED),
    "a.npz": (BYTES, ASKED),
    "decoder.keras": (BYTES, ASKED),
    ".lease": (BYTES, ASKED),
    SHARD: (BYTES, "private, max-age=31536000, immutable"),
    OLDER_SHARD: (BYTES, "private, max-age=31536000, immutable"),
    SHARD.replace("-0123456789abcdef", ""): (BYTES, ASKED),
}


@pytest.mark.parametrize("way", ["write", "publish", "replace", "move"])
def test_browsers_and_caches_are_told_what_an_object_is(bucket, tmp_path, way):
    client = storage.resolve("gs://bucket").client.client
    for name, expected in DESCRIPTIONS.items():
        target = bucket / way / name
        if way == "write":
            storage.write(target, b"1")
        elif way == "publish":
            (tmp_path / "draft").write_bytes(b"1")
            storage.publish(tmp_path / "draft", target)
        elif way == "replace":
            storage.replace(target, b"1", 0, "me")
        else:
            storage.write(bucket / "job" / name, b"1")
            storage.move(bucket / "job" / name, target)
        blob = client.bucket("bucket").get_blob(target.blob)
        assert (blob.content_type, blob.cache_control) == expected, name


def test_a_moved_object_s_description_is_sent_since_the_service_keeps_nothing_of_the_old_one_s(
    bucket, monkeypatch
):
    post, sent = Client._post_resource, {}

    def tell(self, path, data, **options):
        sent.update(data)
        return post(self, path, data, **options)

    storage.write(bucket / "job" / SHARD, b"1")
    monkeypatch.setattr(Client, "_post_resource", tell)
    storage.move(bucket / "job" / SHARD, bucket / SHARD)
    assert (sent["contentType"], sent["cacheControl"]) == DESCRIPTIONS[SHARD]


def test_for_all_calls_for_each_and_tells_what_went_wrong(folder):
    done = []
    storage.for_all(folder, done.append, map(str, range(100)))
    assert sorted(done, key=int) == [str(number) for number in range(100)]
    with pytest.raises(ValueError, match="x"):
        storage.for_all(folder, int, ["1", "x", "2"])


def test_an_object_is_replaced_or_deleted_only_if_it_is_the_one_that_was_seen(bucket):
    path = bucket / "a.json"
    assert storage.version(path) is None
    first = storage.replace(path, b"1", 0, "me")
    assert storage.version(path) == first and first.writer == "me"
    with pytest.raises(storage.ChangedError):
        storage.replace(path, b"2", 0, "you")
    second = storage.replace(path, b"2", first.generation, "you")
    assert second.updated >= first.updated
    for generation in (first.generation, 0):
        with pytest.raises(storage.ChangedError):
            storage.replace(path, b"3", generation, "me")
    storage.delete(path, first.generation)
    assert storage.read(path) == b"2"
    third = storage.replace(path, b"3", None, "me")
    storage.delete(path, third.generation)
    storage.delete(path, third.generation)
    assert storage.version(path) is None


@pytest.fixture
def losing(monkeypatch):
    """Loses the answer to the first request whose method and URL hold a word; returns its URL in a list."""
    send, lost = requests.Session.request, []

    def lose(word):
        def forgetful(self, method, url, **kwargs):
            answer = send(self, method, url, **kwargs)
            if word in f"{method} {url}" and not lost:
                lost.append(url)
                raise requests.ConnectionError("the answer was lost")
            return answer

        monkeypatch.setattr(requests.Session, "request", forgetful)
        return lost

    return lose


def test_a_lost_answer_to_a_replacement_is_made_good(bucket, losing):
    first = storage.replace(bucket / "a", b"1", 0, "me")
    lost = losing("ifGenerationMatch")
    second = storage.replace(bucket / "a", b"2", first.generation, "also me")
    assert lost and storage.version(bucket / "a") == second and storage.read(bucket / "a") == b"2"


def test_a_long_upload_that_the_service_has_lost_track_of_is_begun_anew(bucket, losing):
    lost = losing("PUT")
    content = os.urandom(9 << 20)
    storage.write(bucket / "a", content)
    assert lost and storage.read(bucket / "a") == content


@pytest.mark.parametrize("lasting", [True, False])
def test_what_is_published_lasts_through_a_power_cut(tmp_path, monkeypatch, lasting):
    events, fsync, replace = [], os.fsync, os.replace

    def tell_fsync(descriptor):
        fsync(descriptor)
        events.append(os.readlink(f"/proc/self/fd/{descriptor}"))

    def tell_replace(source, target):
        replace(source, target)
        events.append("replaced")

    monkeypatch.setattr(os, "fsync", tell_fsync)
    monkeypatch.setattr(os, "replace", tell_replace)
    draft = tmp_path / "draft"
    draft.write_bytes(b"x")
    storage.publish(draft, tmp_path / "x", lasting=lasting)
    assert events == ([str(draft), "replaced", str(tmp_path)] if lasting else ["replaced"])
    events.clear()
    storage.write(tmp_path / "y", b"y")
    assert events[1:] == ["replaced", str(tmp_path)] and Path(events[0]).name.startswith(".y-")


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
