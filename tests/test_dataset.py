import hashlib
import json

import numpy as np
import pytest
import tensorflow as tf

from latentfaces.common import storage
from latentfaces.common.dataset import (
    Dataset,
    Shard,
    ShardWriter,
    Split,
    encode_dataset,
    encode_example,
    make_splits,
    read_dataset,
    shard_name,
    write_dataset,
)
from latentfaces.common.errors import UserError, printable

SHA256 = "0123456789abcdef" * 4


def small_dataset(source="faces"):
    train = Split(
        3,
        (
            Shard("train-00000-of-00002.tfrecord", 2, 2000, SHA256),
            Shard("train-00001-of-00002-0123456789abcdef.tfrecord", 1, 900, SHA256),
        ),
    )
    splits = {"train": train, "valid": Split(0, ()), "test": Split(0, ())}
    return Dataset((28, 28, 1), ("Smiling", "Male"), splits, 4, source)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 64 * 64 * 3, 3_000_000])
@pytest.mark.parametrize("attributes", [None, bytes([0, 1, 1]), bytes(40)])
def test_tensorflow_reads_the_examples_and_writes_the_same_ones(size, attributes):
    image, name = np.random.default_rng(size).bytes(size), "bärbel/0001 (1).jpg"
    encoded = encode_example(image, name, attributes)
    example = tf.train.Example.FromString(encoded)
    features = example.features.feature
    assert features["image"].bytes_list.value[:] == [image]
    assert features["filename"].bytes_list.value[:] == [name.encode()]
    assert ("attributes" in features) == (attributes is not None)
    assert bytes(features["attributes"].int64_list.value) == (attributes or b"")
    assert tf.train.Example.FromString(encoded).SerializeToString(deterministic=True) == encoded


def test_tensorflow_reads_the_shards(tmp_path):
    records = [encode_example(bytes([i % 256] * i), f"{i}.png", bytes([i % 2, 1])) for i in range(300)]
    path = tmp_path / shard_name("train", 0, 1)
    with ShardWriter(path.open("wb")) as writer:
        for record in records:
            writer.write(record)
    shard = writer.shard(path.name)
    assert [record.numpy() for record in tf.data.TFRecordDataset(str(path))] == records
    with tf.io.TFRecordWriter(str(tmp_path / "reference")) as reference:
        for record in records:
            reference.write(record)
    assert path.read_bytes() == (tmp_path / "reference").read_bytes()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert shard == Shard("train-00000-of-00001.tfrecord", 300, path.stat().st_size, digest)
    parsed = tf.io.parse_example(
        records,
        {
            "image": tf.io.FixedLenFeature([], tf.string),
            "attributes": tf.io.FixedLenFeature([2], tf.int64),
        },
    )
    np.testing.assert_array_equal(parsed["attributes"][:, 0], np.arange(300) % 2)


def test_the_description_survives_writing_and_reading(tmp_path, bucket):
    for folder in (tmp_path, bucket / "set"):
        write_dataset(folder, small_dataset())
        assert read_dataset(folder) == read_dataset(str(folder)) == small_dataset()
    content = (tmp_path / "dataset.json").read_bytes()
    assert content == storage.read(bucket / "set" / "dataset.json")
    assert json.loads(content)["splits"]["train"]["shards"][0] == {
        "name": "train-00000-of-00002.tfrecord",
        "examples": 2,
        "bytes": 2000,
        "sha256": SHA256,
    }


def test_splits_come_in_order_whatever_the_order_of_the_shards():
    shards = [
        ("test", Shard("test-0", 3, 1, "")),
        ("train", Shard("train-1", 2, 1, "")),
        ("train", Shard("train-0", 5, 1, "")),
    ]
    splits = make_splits(shards)
    assert list(splits) == ["train", "valid", "test"]
    assert [shard.name for shard in splits["train"].shards] == ["train-0", "train-1"]
    assert [split.examples for split in splits.values()] == [7, 0, 3]


@pytest.mark.parametrize(
    "content, words",
    [
        (None, "no dataset.json"),
        ("{", "not a data set's description"),
        ("[]", "not a data set's description"),
        ('{"version": 1}', "not a data set's description"),
        ('{"version": 99}', "version 99"),
        ("[" * 100_000, "not a data set's description"),
        ('{"version": ' + "9" * 5000 + "}", "not a data set's description"),
        ('{"version": NaN}', "NaN is no number"),
        ('{"version": true}', "version is not a whole number"),
        ("\0", "not a data set's description"),
        ("\udc80", "not a data set's description"),
    ],
)
def test_what_is_not_a_finished_data_set_is_refused(tmp_path, content, words):
    if content is not None:
        (tmp_path / "dataset.json").write_text(content, errors="surrogateescape")
    with pytest.raises(UserError, match=words):
        read_dataset(tmp_path)


def test_what_is_no_file_or_a_huge_one_is_no_description(tmp_path):
    with (tmp_path / "dataset.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UserError, match="more than 67,108,864 bytes.: make it again"):
        read_dataset(tmp_path)
    (tmp_path / "dataset.json").unlink()
    (tmp_path / "dataset.json").mkdir()
    with pytest.raises(UserError, match="dataset.json cannot be read .not a regular file.: make it again"):
        read_dataset(tmp_path)


SHARD = ("splits", "train", "shards", 0)
WRONG = [
    (("image_shape",), [28, 28]),
    (("image_shape",), [-28, 28, 1]),
    (("image_shape",), [28, 0, 1]),
    (("image_shape",), [28, 1 << 40, 1]),
    (("image_shape",), [28, 28, 2]),
    (("image_shape",), [28, 28, 1.0]),
    (("image_shape",), [28, 28, True]),
    (("image_shape",), "28x"),
    (("attribute_names",), "Smiling"),
    (("attribute_names",), {"Smiling": 1}),
    (("attribute_names",), ["Smiling", "Smiling"]),
    (("attribute_names",), ["Smiling", ""]),
    (("attribute_names",), ["Smiling", 1]),
    (("attribute_names",), ["Smiling", ["x"]]),
    (("attribute_names",), ["Smil\x1b[31ming"]),
    (("attribute_names",), ["two\nlines"]),
    (("attribute_names",), ["\u202eSmiling"]),
    (("attribute_names",), ["x" * 201]),
    (("attribute_names",), [f"a{number}" for number in range(10_001)]),
    (("splits",), []),
    (("splits",), {"train": {"examples": 0, "shards": []}}),
    (("splits", "extra"), {"examples": 0, "shards": []}),
    (("splits", "train"), []),
    (("splits", "train", "examples"), 4),
    (("splits", "train", "examples"), "3"),
    (("splits", "train", "shards"), {}),
    (SHARD, []),
    (SHARD, None),
    ((*SHARD, "name"), "train-00001-of-00002.tfrecord"),
    ((*SHARD, "name"), "train-00000-of-00001.tfrecord"),
    ((*SHARD, "name"), "test-00000-of-00002.tfrecord"),
    ((*SHARD, "name"), "train-00000-of-00002-0000000000000000.tfrecord"),
    ((*SHARD, "name"), "../train-00000-of-00002.tfrecord"),
    ((*SHARD, "name"), "/train-00000-of-00002.tfrecord"),
    ((*SHARD, "name"), "train-00000-of-00002.tfrecord\n"),
    ((*SHARD, "name"), 7),
    ((*SHARD, "examples"), -2),
    ((*SHARD, "examples"), 2.0),
    ((*SHARD, "examples"), 1 << 60),
    ((*SHARD, "examples"), 0),
    ((*SHARD, "bytes"), 2 * 28 * 28 - 1),
    ((*SHARD, "bytes"), None),
    ((*SHARD, "sha256"), SHA256.upper()),
    ((*SHARD, "sha256"), SHA256[:-1]),
    ((*SHARD, "sha256"), 1),
    (("rejected",), -1),
    (("rejected",), "none"),
    (("source",), None),
    (("source",), "\x1b]0;title\x07"),
    (("source",), "x" * 100_001),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_what_we_would_not_have_written_is_told_in_one_sentence(tmp_path, number):
    (*path, last), value = WRONG[number]
    content = json.loads(encode_dataset(small_dataset()))
    place = content
    for step in path:
        place = place[step]
    place[last] = value
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(UserError) as error:
        read_dataset(tmp_path)
    message = str(error.value)
    assert message.startswith(f"{tmp_path / 'dataset.json'} is not a data set's description (")
    assert message.endswith("): make it again with preprocess") and message.isprintable()
    assert len(message) < 400


def test_what_is_missing_is_named(tmp_path):
    def leaves(place, path=()):
        for name, value in place.items() if isinstance(place, dict) else enumerate(place):
            yield (*path, name)
            if isinstance(value, dict | list):
                yield from leaves(value, (*path, name))

    whole = encode_dataset(small_dataset())
    for *path, last in list(leaves(json.loads(whole))):
        content = json.loads(whole)
        place = content
        for step in path:
            place = place[step]
        del place[last]
        (tmp_path / "dataset.json").write_text(json.dumps(content))
        if path == ["attribute_names"]:  # there may be fewer
            read_dataset(tmp_path)
        else:
            with pytest.raises(UserError, match="is not a data set's description"):
                read_dataset(tmp_path)


@pytest.mark.parametrize("seed", range(3))
def test_no_damage_of_a_description_is_a_traceback(tmp_path, seed):
    random, whole = np.random.default_rng(seed), encode_dataset(small_dataset())
    for _ in range(300):
        content = bytearray(whole)
        for place in random.integers(len(content), size=random.integers(1, 4)):
            content[place] = random.choice(
                [0, 0x22, 0x2D, 0x30, 0x39, 0x5B, 0x7B, 0xFF, random.integers(256)]
            )
        (tmp_path / "dataset.json").write_bytes(content)
        try:
            read_dataset(tmp_path)
        except UserError as error:
            assert str(error).isprintable()


def test_any_text_is_made_printable():
    text = "a b ä \n\x1b[31m\udce9\u202e\U000e0001"
    assert printable(text) == r"a b ä \n\x1b[31m\udce9\u202e\U000e0001"
