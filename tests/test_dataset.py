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
    encode_example,
    make_splits,
    read_dataset,
    shard_name,
    write_dataset,
)
from latentfaces.common.errors import UserError


def small_dataset(source="faces"):
    train = Split(
        3,
        (
            Shard("train-00000-of-00002.tfrecord", 2, 20, "ab"),
            Shard("train-00001-of-00002.tfrecord", 1, 9, "c"),
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
        "bytes": 20,
        "sha256": "ab",
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
    ],
)
def test_what_is_not_a_finished_data_set_is_refused(tmp_path, content, words):
    if content is not None:
        (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(UserError, match=words):
        read_dataset(tmp_path)
