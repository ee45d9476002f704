import dataclasses
import json
import os
import resource
import shutil
import stat
import struct
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from conftest import NUMBER_SHAPE, NUMBERS, make_dataset, number_example, resident

from latentfaces.common import storage
from latentfaces.common.dataset import (
    ShardWriter,
    add_checksum,
    encode_example,
    make_splits,
    masked_crc,
    read_dataset,
    shard_name,
    write_dataset,
)
from latentfaces.common.errors import UserError
from latentfaces.common.examples import Examples, ReplacedError, load_split, open_split, read_images


@pytest.fixture(params=["local", "gs"])
def folder(request, numbers, tmp_path):
    """A copy of `numbers`, to be changed."""
    folder = tmp_path / "set" if request.param == "local" else request.getfixturevalue("bucket") / "set"
    for file in numbers.iterdir():
        storage.write(folder / file.name, file.read_bytes())
    return folder


def shown(images):
    return images[:, 0, 0, 0].tolist()


def test_records_are_what_tensorflow_wrote(numbers):
    expected = [number_example(number) for number in range(NUMBERS)]
    examples = Examples(sorted(numbers.glob("train-*")))
    assert len(examples) == NUMBERS
    assert examples.read(np.arange(NUMBERS)).tolist() == expected
    assert examples.read(np.array([52, 0, 20])).tolist() == [expected[52], expected[0], expected[20]]
    read = tf.data.TFRecordDataset(sorted(map(str, numbers.glob("train-*")))).as_numpy_iterator()
    assert list(read) == expected


def test_load_split(folder):
    images, attributes, names = load_split(str(folder), "train")
    assert images.shape == (NUMBERS, *NUMBER_SHAPE) and images.dtype == np.uint8
    assert images[:, 1, 2, 0].tolist() == list(range(NUMBERS))
    assert attributes.dtype == np.int64 and attributes.tolist() == [[n % 2, 1] for n in range(NUMBERS)]
    assert names == [f"é{number}.png" for number in range(NUMBERS)]
    with pytest.raises(UserError, match="no examples in its split valid"):
        load_split(str(folder), "valid")


def test_images_are_read_a_batch_at_a_time(numbers):
    dataset = read_dataset(numbers)
    batches = list(read_images(str(numbers), dataset, "train", range(18, 43), 10))
    assert [len(batch) for batch in batches] == [10, 10, 5]
    np.testing.assert_array_equal(np.concatenate(batches), load_split(str(numbers), "train")[0][18:43])
    assert not list(read_images("nowhere", dataset, "train", range(9, 9), 10))


@pytest.mark.parametrize("attributes", [None, np.full((5, 2), 7)])
def test_whole_examples_that_are_not_as_described_are_told(attributes, tmp_path):
    images = np.zeros((5, *NUMBER_SHAPE), np.uint8)
    make_dataset(tmp_path, ("Odd", "Number"), train=(images, attributes))
    with pytest.raises(UserError, match="holds other examples than its dataset.json says: copy it again"):
        load_split(str(tmp_path), "train")


def test_a_limit_leaves_the_shards_beyond_alone(folder):
    storage.delete(folder / shard_name("train", 3, 4))
    images, attributes, names = load_split(str(folder), "train", limit=21)
    assert shown(images) == list(range(21)) and len(attributes) == len(names) == 21
    with pytest.raises(UserError, match="shard .*train-00003-of-00004.tfrecord cannot be read"):
        load_split(str(folder), "train", limit=22)


def test_a_name_that_is_not_utf8_is_read(tmp_path):
    name = shard_name("train", 0, 1)
    with ShardWriter((tmp_path / name).open("wb")) as writer:
        writer.write(encode_example(bytes(6), os.fsdecode(b"caf\xe9.png"), None))
    dataset = dataclasses.replace(
        read_dataset(make_dataset(tmp_path / "any", test=np.zeros((1, 2, 3, 1), np.uint8))),
        splits=make_splits([("train", writer.shard(name))]),
    )
    write_dataset(tmp_path, dataset)
    assert load_split(str(tmp_path), "train")[2] == ["caf\\xe9.png"]


def replace_byte(content, place, bits=1):
    return content[:place] + bytes([content[place] ^ bits]) + content[place + 1 :]


def header(length):
    return struct.pack("<Q", length) + masked_crc(struct.pack("<Q", length))


def ends(data):
    """Where the records of a shard end."""
    found = [0]
    while found[-1] < len(data):
        found.append(found[-1] + 16 + struct.unpack_from("<Q", data, found[-1])[0])
    return found


DAMAGES = {
    "one bit of the first length": lambda data: replace_byte(data, 0),
    "one bit of a length's checksum": lambda data: replace_byte(data, 9),
    "one bit of the data": lambda data: replace_byte(data, 40),
    "one bit of the last checksum": lambda data: replace_byte(data, len(data) - 1, 128),
    "cut": lambda data: data[:-1],
    "empty": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
    "longer": lambda data: data + bytes(8),
    "another record": lambda data: data + header(0) + masked_crc(b""),
    "a record fewer": lambda data: data[: ends(data)[-2]],
    "an absurd length": lambda data: header(1 << 62) + data[12:],
    "a length that wraps": lambda data: header((1 << 64) - 16) + data[12:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_of_a_shard_is_told_in_one_sentence(folder, damage):
    dataset = read_dataset(folder)
    path = folder / dataset.splits["train"].shards[0].name
    good = storage.read(path)
    storage.write(path, DAMAGES[damage](good))
    with pytest.raises(UserError) as error:
        load_split(str(folder), "train")
    assert str(error.value).startswith(f"the shard {path} is damaged (")
    assert str(error.value).endswith("): copy it again, or make the data set anew with preprocess")
    storage.write(path, good)
    assert shown(load_split(str(folder), "train")[0]) == list(range(NUMBERS))


def test_every_flipped_bit_and_every_cut_is_noticed(numbers, tmp_path):
    source = np.random.default_rng(0)
    good = (numbers / shard_name("train", 0, 4)).read_bytes()
    path = tmp_path / "shard"
    for place in source.choice(len(good), 300, replace=False):
        path.write_bytes(replace_byte(good, place, 1 << source.integers(8)))
        with pytest.raises(UserError, match="damaged"):
            Examples([path])
        path.write_bytes(good[:place])
        if place not in ends(good):
            with pytest.raises(UserError, match="damaged"):
                Examples([path])


def describe(folder, dataset, **changes):
    """Changes what dataset.json says of the first shard."""
    first, *others = dataset.splits["train"].shards
    first = dataclasses.replace(first, **changes)
    pairs = [("train", shard) for shard in (first, *others)]
    write_dataset(folder, dataclasses.replace(dataset, splits=make_splits(pairs)))


def test_a_description_that_counts_otherwise_is_told(numbers, tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(numbers, folder)
    dataset = read_dataset(folder)
    describe(folder, dataset, examples=19)
    with pytest.raises(UserError, match=r"train-00000-of-00004.tfrecord is damaged .it has 20 records"):
        load_split(str(folder), "train")


def test_what_is_no_file_is_told(numbers, tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(numbers, folder)
    path = folder / shard_name("train", 0, 4)
    path.unlink()
    with pytest.raises(UserError, match="00000-of-00004.tfrecord cannot be read .No such file"):
        load_split(str(folder), "train")
    os.mkfifo(path)
    with pytest.raises(UserError, match="00000-of-00004.tfrecord is damaged .it is no file of"):
        load_split(str(folder), "train")


def peak_of_loading(folder):
    """Prints the error of loading a data set, and by how many bytes the process grew meanwhile."""
    before = resident()
    try:
        load_split(folder, "train")
    except UserError as error:
        print(error)
    print(resident() - before)


@pytest.mark.parametrize("content", ["zeros", "one long record"])
def test_a_huge_sparse_file_is_refused_in_little_memory(numbers, tmp_path, content):
    folder, size = tmp_path / "set", 1 << 33
    shutil.copytree(numbers, folder)
    path = folder / shard_name("train", 0, 4)
    with path.open("wb") as file:
        if content == "one long record":
            file.write(header(size - 16))
        file.truncate(size)
    describe(folder, read_dataset(folder), bytes=size)
    script = "import sys, test_examples; test_examples.peak_of_loading(sys.argv[1])"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", script, folder], env=environment, capture_output=True, text=True, timeout=60
    )
    message, grown = done.stdout.splitlines()
    assert message.startswith(f"the shard {path} is damaged (")
    assert int(grown) < 64 << 20


def test_a_data_set_that_was_replaced_is_read_anew(folder, monkeypatch):
    old = read_dataset(folder)
    shard = old.splits["train"].shards[0]
    data = storage.read(folder / shard.name)
    named = dataclasses.replace(shard, name=add_checksum(shard_name("train", 0, 1), shard.sha256))
    storage.write(folder / named.name, data)
    for each in old.splits["train"].shards:
        storage.delete(folder / each.name)
    write_dataset(folder, dataclasses.replace(old, splits=make_splits([("train", named)])))
    with pytest.raises(ReplacedError, match=f"data set {folder} was replaced by another"):
        open_split(str(folder), old, "train")

    stale = [old, old]
    monkeypatch.setattr(
        "latentfaces.common.examples.read_dataset",
        # the reader, and what looks whether it was replaced
        lambda where: stale.pop() if len(stale) == 2 else read_dataset(where),
    )
    assert shown(load_split(str(folder), "train")[0]) == list(range(20))


def cached(cache):
    return sorted(path.name for path in (cache / "shards").iterdir())


@pytest.fixture
def cache(bucket, tmp_path, monkeypatch):
    """Where the copies lie; it does not exist yet."""
    monkeypatch.setenv("LATENTFACES_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def remote(numbers, bucket):
    for file in numbers.iterdir():
        storage.write(bucket / "set" / file.name, file.read_bytes())
    return bucket / "set"


def test_shards_of_a_bucket_are_checked_and_fetched_once(remote, cache):
    dataset = read_dataset(remote)
    damaged = remote / dataset.splits["train"].shards[0].name
    good = storage.read(damaged)
    storage.write(damaged, replace_byte(good, 50))
    with pytest.raises(UserError, match=f"shard {damaged} is damaged .its checksum is another one"):
        open_split(str(remote), dataset, "train")
    shards = dataset.splits["train"].shards
    assert f"{shards[0].sha256}.tfrecord" not in cached(cache)

    storage.write(damaged, good)
    assert shown(load_split(str(remote), "train")[0]) == list(range(NUMBERS))
    assert cached(cache) == sorted({f"{shard.sha256}.tfrecord" for shard in shards})
    storage.delete(damaged)  # a second worker on this machine reads the first one's copy
    assert len(open_split(str(remote), dataset, "train")) == NUMBERS

    (cache / "shards" / f"{shards[0].sha256}.tfrecord").write_bytes(replace_byte(good, 50))
    with pytest.raises(UserError, match=f"shard {damaged} cannot be read"):
        open_split(str(remote), dataset, "train")
    storage.write(damaged, good)
    assert len(open_split(str(remote), dataset, "train")) == NUMBERS


def test_the_cache_is_its_user_s_alone(remote, cache, tmp_path, monkeypatch):
    load_split(str(remote), "train")
    assert stat.S_IMODE((cache / "shards").stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in (cache / "shards").iterdir())

    (cache / "shards").chmod(0o755)
    with pytest.raises(UserError, match=f"{cache / 'shards'} is not this user's alone"):
        load_split(str(remote), "train")
    (cache / "shards").chmod(0o700)
    (cache / "shards").rename(tmp_path / "elsewhere")
    (cache / "shards").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"{cache / 'shards'} cannot be used"):
        load_split(str(remote), "train")
    (cache / "shards").unlink()
    (cache / "shards").mkdir(0o700)
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    with pytest.raises(UserError, match="not this user's alone"):
        load_split(str(remote), "train")


def test_a_link_in_the_cache_is_neither_read_nor_written(remote, cache, tmp_path):
    shard = read_dataset(remote).splits["train"].shards[0]
    good = storage.read(remote / shard.name)
    (tmp_path / "theirs").write_bytes(good)
    (cache / "shards").mkdir(parents=True, mode=0o700)
    copy = cache / "shards" / f"{shard.sha256}.tfrecord"
    copy.symlink_to(tmp_path / "theirs")
    load_split(str(remote), "train")
    assert copy.read_bytes() == good and not copy.is_symlink()
    (tmp_path / "theirs").write_bytes(b"")
    copy.unlink()
    copy.symlink_to(tmp_path / "theirs")
    load_split(str(remote), "train")
    assert (tmp_path / "theirs").read_bytes() == b""


def test_the_cache_lies_where_a_user_s_caches_lie(remote, tmp_path, monkeypatch):
    monkeypatch.delenv("LATENTFACES_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which does not count
    load_split(str(remote), "train")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    load_split(str(remote), "train")
    here = cached(tmp_path / "home" / ".cache" / "latentfaces")
    assert cached(tmp_path / "xdg" / "latentfaces") == here != []


def test_the_copies_not_used_for_longest_make_room_and_nothing_else(remote, cache, monkeypatch, caplog):
    shards = read_dataset(remote).splits["train"].shards
    total = sum(shard.bytes for shard in shards)
    (cache / "shards").mkdir(parents=True, mode=0o700)
    for number in range(4):
        copy = cache / "shards" / f"{number:064x}.tfrecord"
        copy.write_bytes(bytes(1000))
        os.utime(copy, (1000 + number, 1000 + number))
    for name in ("notes.txt", f".{'0' * 32}.part", f".{'1' * 32}.part"):
        (cache / "shards" / name).write_bytes(bytes(10_000_000))
    os.utime(cache / "shards" / f".{'0' * 32}.part", (1, 1))
    monkeypatch.setenv("LATENTFACES_CACHE_GB", str((total + 2500) / 1e9))
    load_split(str(remote), "train")
    kept = {f"{shard.sha256}.tfrecord" for shard in shards}
    expected = kept | {f"{2:064x}.tfrecord", f"{3:064x}.tfrecord", "notes.txt", f".{'1' * 32}.part"}
    assert set(cached(cache)) == expected
    assert not caplog.records

    monkeypatch.setenv("LATENTFACES_CACHE_GB", "0")
    assert shown(load_split(str(remote), "train")[0]) == list(range(NUMBERS))
    assert set(cached(cache)) == kept | {"notes.txt", f".{'1' * 32}.part"}
    assert "set LATENTFACES_CACHE_GB to more" in caplog.text


@pytest.mark.parametrize("size", ["", "nan", "-1", "lots"])
def test_a_size_of_the_cache_that_is_none_is_told(remote, monkeypatch, size):
    monkeypatch.setenv("LATENTFACES_CACHE_GB", size)
    with pytest.raises(UserError, match=f"LATENTFACES_CACHE_GB={size} is no size"):
        load_split(str(remote), "train")


def test_a_cache_without_space_is_told(remote, cache, monkeypatch):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match=f"no space left for copies of shards in {cache / 'shards'}: free"):
        load_split(str(remote), "train")
    assert limit and cached(cache) == []


def test_shard_names_of_someone_else_s_never_leave_the_folder(remote, cache, tmp_path):
    content = json.loads(storage.read(remote / "dataset.json"))
    shard = content["splits"]["train"]["shards"][0]
    for name in ("../x/.bashrc", "/etc/passwd", str(tmp_path / "x"), "train-00000-of-00004.tfrecord/../x"):
        storage.write(remote / "dataset.json", json.dumps(content).replace(shard["name"], name).encode())
        with pytest.raises(UserError, match="a shard's name is not train-00000-of-00004.tfrecord or"):
            load_split(str(remote), "train")
    assert not cache.exists()
