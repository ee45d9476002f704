import dataclasses
import hashlib

import numpy as np
import pytest
import tensorflow as tf

from latentfaces.common.dataset import Dataset, Shard, Split, read_dataset, write_dataset
from latentfaces.common.errors import UserError
from latentfaces.common.examples import Examples, load_split, open_split
from latentfaces.components.train.batches import batches

SHAPE = (2, 3, 1)
COUNT = 53  # a prime: no batch size divides it


def example(number):
    """An example made by TensorFlow; each picture shows nothing but its number."""
    features = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[bytes([number] * 6)])),
        "filename": tf.train.Feature(bytes_list=tf.train.BytesList(value=[f"é{number}.png".encode()])),
        "attributes": tf.train.Feature(int64_list=tf.train.Int64List(value=[number % 2, 1])),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """53 examples in the shards that TensorFlow's writer made of them, one of which is empty."""
    folder = tmp_path_factory.mktemp("numbers")
    shards, bounds = [], (0, 20, 20, 21, COUNT)
    for index in range(4):
        name = f"train-{index:05d}-of-00004.tfrecord"
        numbers = range(bounds[index], bounds[index + 1])
        with tf.io.TFRecordWriter(str(folder / name)) as writer:
            for number in numbers:
                writer.write(example(number))
        data = (folder / name).read_bytes()
        shards.append(Shard(name, len(numbers), len(data), hashlib.sha256(data).hexdigest()))
    splits = {"train": Split(COUNT, tuple(shards)), "valid": Split(0, ()), "test": Split(0, ())}
    write_dataset(folder, Dataset(SHAPE, ("Odd", "Number"), splits, 0, "numbers"))
    return folder


@pytest.fixture(scope="module")
def examples(folder):
    return Examples(sorted(folder.glob("train-*")))


def take(examples, *, batch, steps, first_step=0, seed=1, workers=1, replicas_on_worker=1):
    """The numbers in the order of training, [steps, batch], and each element's start, [steps, replicas]."""
    per_worker = []
    for worker in range(workers):
        context = tf.distribute.InputContext(workers, worker, workers * replicas_on_worker)
        elements = list(
            batches(
                examples,
                SHAPE,
                seed=seed,
                first_step=first_step,
                global_batch_size=batch,
                context=context,
                replicas_on_worker=replicas_on_worker,
            )
            .take((steps - first_step) * replicas_on_worker)
            .as_numpy_iterator()
        )
        assert [element["step"] for element in elements] == list(
            np.repeat(range(first_step, steps), replicas_on_worker)
        )
        shape = (steps - first_step, replicas_on_worker, -1)
        numbers = np.array([element["images"][:, 0, 0, 0] for element in elements]).reshape(shape)
        per_worker.append((numbers, np.array([element["start"] for element in elements]).reshape(shape)))
    numbers, starts = (np.concatenate(arrays, axis=1) for arrays in zip(*per_worker, strict=True))
    return numbers.reshape(steps - first_step, -1), starts[..., 0]


def test_records_are_what_tensorflow_wrote(examples, folder):
    expected = [example(number) for number in range(COUNT)]
    assert len(examples) == COUNT
    assert examples.read(np.arange(COUNT)).tolist() == expected
    assert examples.read(np.array([52, 0, 20])).tolist() == [expected[52], expected[0], expected[20]]
    read = tf.data.TFRecordDataset(sorted(map(str, folder.glob("train-*")))).as_numpy_iterator()
    assert list(read) == expected


def test_an_epoch_is_a_permutation_of_the_whole_split_and_the_next_is_another(examples):
    numbers, _ = take(examples, batch=10, steps=16)
    flat = numbers.ravel()[: 3 * COUNT].reshape(3, COUNT)  # batches run on across the ends of epochs
    for epoch in flat:
        assert sorted(epoch) == list(range(COUNT))
    correlations = np.corrcoef([range(COUNT), *flat]) - np.eye(4)  # with the order in the shards, too
    assert np.abs(correlations).max() < 0.45
    assert not np.array_equal(numbers, take(examples, batch=10, steps=16, seed=2)[0])


@pytest.mark.parametrize(("workers", "replicas"), [(2, 1), (3, 1), (6, 1), (1, 3), (2, 3)])
def test_the_replicas_slices_are_the_global_batch(examples, workers, replicas):
    # Six workers are more than there are shards.
    whole, _ = take(examples, batch=12, steps=14)
    numbers, starts = take(examples, batch=12, steps=14, workers=workers, replicas_on_worker=replicas)
    np.testing.assert_array_equal(numbers, whole)
    share = 12 // (workers * replicas)
    np.testing.assert_array_equal(starts, np.tile(np.arange(0, 12, share), (14, 1)))


def test_a_batch_may_be_larger_than_the_split(examples):
    numbers, _ = take(examples, batch=2 * COUNT + 3, steps=3)
    sequence, _ = take(examples, batch=3, steps=(2 * COUNT + 3))
    np.testing.assert_array_equal(numbers.ravel(), sequence.ravel()[: numbers.size])
    assert sorted(numbers[0, :COUNT]) == sorted(numbers[0, COUNT : 2 * COUNT]) == list(range(COUNT))


def test_reading_can_begin_at_any_step(examples):
    whole, _ = take(examples, batch=8, steps=20)
    np.testing.assert_array_equal(take(examples, batch=8, steps=20, first_step=13)[0], whole[13:])


def test_load_split(folder):
    images, attributes, names = load_split(str(folder), "train")
    assert images.shape == (COUNT, *SHAPE) and images.dtype == np.uint8
    assert images[:, 1, 2, 0].tolist() == list(range(COUNT))
    assert attributes.dtype == np.int64 and attributes.tolist() == [[n % 2, 1] for n in range(COUNT)]
    assert names == [f"é{number}.png" for number in range(COUNT)]
    images, attributes, names = load_split(str(folder), "train", limit=7)
    assert len(images) == len(attributes) == len(names) == 7
    with pytest.raises(UserError, match="no examples in its split 'valid'"):
        load_split(str(folder), "valid")


def test_missing_and_cut_shards_are_named(folder, tmp_path):
    dataset = read_dataset(folder)
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    shard = tmp_path / dataset.splits["train"].shards[3].name
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(UserError, match=f"{shard.name}' is missing or has another size"):
        open_split(str(tmp_path), dataset, "train")
    shard.unlink()
    with pytest.raises(UserError, match=f"{shard.name}' is missing or has another size"):
        open_split(str(tmp_path), dataset, "train")


def test_shards_of_a_bucket_are_checked_and_fetched_once(folder, bucket, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dataset = read_dataset(folder)
    for file in folder.iterdir():
        (bucket / "set" / file.name).write_bytes(file.read_bytes())
    damaged = bucket / "set" / dataset.splits["train"].shards[0].name
    good = damaged.read_bytes()
    damaged.write_bytes(good[:50] + bytes([good[50] ^ 1]) + good[51:])
    with pytest.raises(UserError, match=f"{damaged.name}' does not match the sha256"):
        open_split("gs://bucket/set", dataset, "train")

    damaged.write_bytes(good)
    images, _, _ = load_split("gs://bucket/set", "train")
    assert images[:, 0, 0, 0].tolist() == list(range(COUNT))
    damaged.unlink()  # a second worker on this machine reads the first one's copy
    assert len(open_split("gs://bucket/set", dataset, "train")) == COUNT

    renewed = dataclasses.replace(dataset, splits={"train": Split(1, (Shard("gone", 1, 9, "0"),))})
    with pytest.raises(UserError, match="gs://bucket/set/gone' is missing"):
        open_split("gs://bucket/set", renewed, "train")
