"""What several test files share: fixtures, and makers of data sets."""

import csv
import socket
from contextlib import ExitStack

import cv2
import numpy as np
import pytest
from gcp_storage_emulator.server import create_server

from latentfaces.common import storage
from latentfaces.common.dataset import (
    Dataset,
    ShardWriter,
    encode_example,
    make_splits,
    shard_name,
    write_dataset,
)
from latentfaces.preprocessing import job
from latentfaces.preprocessing.sources.celeba import ATTRIBUTES


def free_ports(count):
    """Ports of this machine that no one listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def make_dataset(folder, attribute_names=(), source="random", **splits):
    """Writes a data set of one shard a split: {split: images} or {split: (images, attributes)}."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    for split, content in splits.items():
        images, attributes = content if isinstance(content, tuple) else (content, None)
        name = shard_name(split, 0, 1)
        with ShardWriter((folder / name).open("wb")) as writer:
            for number, image in enumerate(images):
                labels = None if attributes is None else attributes[number].astype(np.uint8).tobytes()
                writer.write(encode_example(image.tobytes(), f"{split}{number}.png", labels))
        shards.append((split, writer.shard(name)))
    write_dataset(folder, Dataset(images.shape[1:], attribute_names, make_splits(shards), 0, source))
    return folder


def history(folder):
    """The rows of history.csv as numbers, without the seconds."""
    rows = csv.DictReader((folder / "history.csv").read_text().splitlines())
    return [{name: float(value) for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.fixture
def bucket(monkeypatch):
    """A real storage server on loopback with one empty bucket, `gs://bucket`."""
    (port,) = free_ports(1)
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
    server.start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    storage.forget_connections()
    yield storage.resolve("gs://bucket")
    storage.forget_connections()
    server.stop()


def photograph(seed, height=218, width=178):
    """A smooth random picture, uint8 [height, width, 3]."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="session")
def celeba(tmp_path_factory):
    """120 small JPEGs in CelebA's layout, with labels and partition; tests must not change it."""
    root = tmp_path_factory.mktemp("celeba")
    write_celeba(root, 120)
    return root


def write_celeba(root, count, height=54, width=44):
    """Writes `count` random JPEGs, labels and partition in CelebA's layout."""
    (root / "img_align_celeba").mkdir(parents=True)
    values = np.where(np.random.default_rng(0).random((count, len(ATTRIBUTES))) < 0.3, 1, -1)
    names = [f"{number:06d}.jpg" for number in range(1, count + 1)]
    for number, name in enumerate(names):
        path = root / "img_align_celeba" / name
        cv2.imwrite(str(path), photograph(number, height, width))
    rows = [
        f"{name} {' '.join(f'{value:2d}' for value in row)}" for name, row in zip(names, values, strict=True)
    ]
    header = [str(count), " ".join(ATTRIBUTES) + " "]
    (root / "list_attr_celeba.txt").write_text("\n".join(header + rows) + "\n")
    parts = [
        f"{name} {0 if i < 0.8 * count else 1 if i < 0.9 * count else 2}" for i, name in enumerate(names)
    ]
    (root / "list_eval_partition.txt").write_text("\n".join(parts) + "\n")


@pytest.fixture(scope="session")
def tiny_dataset(celeba, tmp_path_factory):
    """A data set of 16x16 pictures, 96 to train on in two shards, with labels; tests must not change it."""
    folder = tmp_path_factory.mktemp("tiny") / "dataset"
    job.run(str(celeba), str(folder), image_size=16)
    return folder


@pytest.fixture
def float64():
    """Keras in float64 throughout, so that nothing but the formulas can make a difference."""
    import keras  # here, because most tests do without

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
