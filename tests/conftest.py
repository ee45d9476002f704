"""Fixtures that several test files share."""

import socket

import cv2
import numpy as np
import pytest
from gcp_storage_emulator.server import create_server

from preprocessing import job, storage
from preprocessing.sources import ATTRIBUTES


@pytest.fixture
def bucket(monkeypatch):
    """A real storage server on loopback with one empty bucket, `gs://bucket`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
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
