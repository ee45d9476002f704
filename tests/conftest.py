"""What several test files share: fixtures, and makers of data sets."""

import csv
import hashlib
import json
import logging
import os
import re
import socket
from contextlib import ExitStack
from http import HTTPStatus
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import pytest
import requests
import typer.testing
from gcp_storage_emulator import server as emulator
from gcp_storage_emulator.exceptions import NotFound

from latentfaces.common import storage
from latentfaces.common.dataset import (
    Dataset,
    Shard,
    ShardWriter,
    encode_example,
    make_splits,
    shard_name,
    write_dataset,
)
from latentfaces.common.promoted import PROMOTED, Decision, update
from latentfaces.pipelines.cli import app
from latentfaces.preprocessing import job
from latentfaces.preprocessing.sources.celeba import ATTRIBUTES

# The longest first, so that two processes that share the tests end together.
LONG = [
    "launch",
    "train",
    "pipeline",
    "job_interleavings",
    "warm_start",
    "tour",
    "evaluate",
    "report",
    "promote",
]


def pytest_collection_modifyitems(items):
    places = {f"test_{name}": place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONG)))


def free_ports(count):
    """Ports of this machine that no one listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def invoke(*arguments):
    """Runs a command in this process, whose logging and environment are afterwards as they were."""
    loggers = [logging.getLogger(), logging.getLogger("latentfaces")]
    levels = [logger.level for logger in loggers]
    with mock.patch.dict(os.environ), mock.patch.multiple(loggers[0], handlers=[], filters=[]):
        result = typer.testing.CliRunner().invoke(app, list(map(str, arguments)))
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    return result


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


NUMBERS = 53  # a prime: no batch size divides it
NUMBER_SHAPE = (2, 3, 1)


def number_example(number):
    """An example made by TensorFlow; each picture shows nothing but its number."""
    import tensorflow as tf  # here, because many tests do without

    features = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[bytes([number] * 6)])),
        "filename": tf.train.Feature(bytes_list=tf.train.BytesList(value=[f"é{number}.png".encode()])),
        "attributes": tf.train.Feature(int64_list=tf.train.Int64List(value=[number % 2, 1])),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


@pytest.fixture(scope="session")
def numbers(tmp_path_factory):
    """53 examples in four shards by TensorFlow's writer, one of them empty; tests must not change it."""
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("numbers")
    shards, bounds = [], (0, 20, 20, 21, NUMBERS)
    for index in range(4):
        name = shard_name("train", index, 4)
        part = range(bounds[index], bounds[index + 1])
        with tf.io.TFRecordWriter(str(folder / name)) as writer:
            for number in part:
                writer.write(number_example(number))
        data = (folder / name).read_bytes()
        shards.append(("train", Shard(name, len(part), len(data), hashlib.sha256(data).hexdigest())))
    write_dataset(folder, Dataset(NUMBER_SHAPE, ("Odd", "Number"), make_splits(shards), 0, "numbers"))
    return folder


def history(folder):
    """The rows of history.csv as numbers, without the seconds."""
    rows = csv.DictReader((folder / "history.csv").read_text().splitlines())
    return [{name: float(value) for name, value in row.items() if name != "seconds"} for row in rows]


def conditional(handle):
    """Teaches a handler of the storage emulator `if_generation_match`; it answers one request at a time."""

    def check_and_handle(request, response, files):
        _ = request.data  # is read to its end: an answer before that would cut off who still sends
        if wanted := request.query.get("ifGenerationMatch"):
            names = [request.params.get("dest_object_id"), request.params.get("object_id")]
            if not any(names):
                names = request.query.get("name") or [request.data.get("meta", request.data)["name"]]
            try:
                present = files.get_file_obj(request.params["bucket_name"], next(filter(None, names)))
            except NotFound:
                present = {"generation": "0"}
            if wanted != [present["generation"]]:
                response.status = HTTPStatus.PRECONDITION_FAILED
                return
        handle(request, response, files)

    return check_and_handle


emulator.HANDLERS = tuple(
    (pattern, {method: conditional(handle) for method, handle in handlers.items()})
    for pattern, handlers in emulator.HANDLERS
)


@pytest.fixture
def bucket(monkeypatch, tmp_path_factory):
    """A real storage server on loopback with one empty bucket, `gs://bucket`, and no copies of its shards."""
    monkeypatch.setenv("LATENTFACES_CACHE", str(tmp_path_factory.mktemp("cache")))
    (port,) = free_ports(1)
    server = emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
    server.start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    keep_nothing = {"softDeletePolicy": {"retentionDurationSeconds": "0"}}  # what is kept makes it slow
    requests.patch(f"http://127.0.0.1:{port}/storage/v1/b/bucket", json=keep_nothing).raise_for_status()
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


VECTORS = np.array([[2, 0, 0, 0], [0, -1, 0.5, 0]], np.float32)  # of Smiling, which works, and Eyeglasses


def save_models(run):
    """Writes a GAN of 16x16x3, a linear VAE of 8x8x3 with 4 latents, both untrained, and concept vectors."""
    import keras

    from latentfaces.components.train.convolution import portable
    from latentfaces.components.train.models.dcgan import small_generator

    keras.utils.set_random_seed(0)
    images, latents = keras.Input((8, 8, 3)), keras.Input((4,))
    flat = keras.layers.Flatten()(images)
    encoder = keras.Model(images, [keras.layers.Dense(4)(flat) for _ in range(2)])
    pixels = keras.layers.Dense(192, activation="sigmoid")(latents)
    decoder = keras.Model(latents, keras.layers.Reshape((8, 8, 3))(pixels))
    prior = keras.Model(latents, keras.layers.Dense(4)(latents))
    generator = portable(small_generator((16, 16, 3), 64))
    for family, shape, networks in (
        ("gan", (16, 16, 3), {"generator": generator}),
        ("vae", (8, 8, 3), {"encoder": encoder, "decoder": decoder, "prior": prior}),
    ):
        (run / family).mkdir(parents=True)
        for name, network in networks.items():
            network.save(run / family / f"{name}.keras")
        settings = {"model": family, "image_shape": shape, "learned_prior": "prior" in networks}
        (run / family / "config.json").write_text(json.dumps(settings))
    (run / "evaluation").mkdir()
    save_concepts(run / "evaluation" / "concepts.npz", run / "vae")


def save_concepts(file, vae, **changed):
    """Writes concept vectors as the evaluation does, but for some arrays."""
    sha256 = hashlib.sha256((vae / "decoder.keras").read_bytes()).hexdigest()
    arrays = {
        "names": np.array(["Smiling", "Eyeglasses"]),
        "vectors": VECTORS,
        "strengths": np.array([2.0, 1.0]),
        "works": np.array([True, False]),
        "decoder_sha256": np.array(sha256),
    }
    np.savez(file, **(arrays | changed))


@pytest.fixture(scope="session")
def trained_root(tmp_path_factory):
    """A root whose run r1 has the models of `save_models`, the GAN promoted; tests must not change it."""
    root = tmp_path_factory.mktemp("root")
    save_models(root / "runs" / "r1")
    made = Decision(run="r1", model="gan", decision=PROMOTED, why="for a test")
    update(str(root), lambda present: present.decide(made))
    return root


@pytest.fixture
def run_folder(trained_root):
    """The folder of `trained_root`'s run."""
    return trained_root / "runs" / "r1"


@pytest.fixture
def photographs(tmp_path):
    """Two photographs in a folder of their own."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number, name in enumerate(("ann.jpg", "bob.png")):
        cv2.imwrite(str(folder / name), photograph(number))
    return [folder / "ann.jpg", folder / "bob.png"]


def resident(what="VmHWM"):
    """Bytes that this process has ("VmRSS") or had at most; getrusage begins with the most of its parent."""
    return int(re.search(rf"{what}:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) << 10


def noise_of(step, batch, start=0, size=None):
    """The noise of a step, or of a replica's share of it."""
    import tensorflow as tf  # here, because most tests do without

    from latentfaces.components.train.noise import GlobalBatchNoise

    return GlobalBatchNoise(7, tf.cast(step, tf.int64), tf.constant(start, tf.int64), size or batch, batch)


def assert_shares_add_up(make, images, atol):
    """Replicas' shares sum up to the step of the global batch; `make` takes its size and makes a model."""
    batch = len(images)
    whole = shares_of_a_step(lambda: make(batch), images, 1)
    for replicas in (2, 3):
        shares = shares_of_a_step(lambda: make(batch), images, replicas)
        for part, all_of_it in zip(shares, whole, strict=True):
            np.testing.assert_allclose(part, all_of_it, rtol=1e-9, atol=atol)
        # divided by the local instead of the global batch size, everything is too large
        shares = shares_of_a_step(lambda size=batch // replicas: make(size), images, replicas)
        for part, all_of_it in zip(shares, whole, strict=True):
            np.testing.assert_allclose(part, replicas * all_of_it, rtol=1e-9, atol=atol)


def shares_of_a_step(make, images, replicas):
    """Losses and gradients of a global batch's replicas, summed as Keras sums them, of what `make` makes."""
    import keras  # here, because most tests do without

    batch, sums = len(images), []
    size = batch // replicas
    for start in range(0, batch, size):
        keras.utils.set_random_seed(0)
        task, gradients = make(), []
        for optimizer in task.state.values():
            if isinstance(optimizer, keras.optimizers.Optimizer):
                optimizer.apply = lambda values, _: gradients.extend(values)  # noqa: B023 - used at once
        losses = task.step(images[start : start + size], noise_of(0, batch, start, size))
        assert gradients
        sums.append([*losses.values(), *gradients])
    return [np.sum(parts, axis=0) for parts in zip(*sums, strict=True)]
