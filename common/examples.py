"""The data set's reader: random access to the examples of a split.

A shard is mapped into memory and its records are indexed once. Any example can then be read on its own,
which makes three things exact and cheap at once: shuffling over the whole split, resuming at any step
without reading what came before, and reading only a replica's own share of each global batch.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tensorflow as tf

from latentfaces.common import storage
from latentfaces.common.dataset import Dataset, Shard, read_dataset
from latentfaces.common.errors import UserError

_HEADER = 12  # a record's length as uint64 and the length's checksum as uint32
_FOOTER = 4  # the data's checksum


class Examples:
    """The serialized `tf.train.Example`s of one split, by index.

    Args:
        shards: local paths of the shards.
    """

    def __init__(self, shards: list[Path]) -> None:
        self._maps: list[mmap.mmap] = []
        index: list[tuple[int, int, int]] = []
        for path in shards:
            if not path.stat().st_size:
                continue
            with path.open("rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            start = 0
            while start < len(data):
                (length,) = struct.unpack_from("<Q", data, start)
                index.append((len(self._maps), start + _HEADER, start + _HEADER + length))
                start += _HEADER + length + _FOOTER
            self._maps.append(data)
        self._index = np.array(index, np.int64).reshape(-1, 3)

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self._index)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Returns the serialized examples at those indices, an object array of bytes."""
        records = [self._maps[shard][start:end] for shard, start, end in self._index[indices].tolist()]
        return np.array(records, dtype=object)


def parse_images(serialized: tf.Tensor, image_shape: tuple[int, int, int]) -> tf.Tensor:
    """Returns the images, uint8 [N, H, W, C], of serialized examples, string [N]."""
    features = tf.io.parse_example(serialized, {"image": tf.io.FixedLenFeature([], tf.string)})
    pixels = tf.io.decode_raw(features["image"], tf.uint8, fixed_length=int(np.prod(image_shape)))
    return tf.reshape(pixels, [-1, *image_shape])


def _fetch(folder: str, shard: Shard, cache: Path) -> Path:
    """Returns a local copy of a remote shard whose checksum was compared; several processes may share it."""
    local = cache / shard.name
    if local.exists() and hashlib.sha256(local.read_bytes()).hexdigest() == shard.sha256:
        return local
    try:
        data = storage.read(storage.resolve(folder) / shard.name)
    except FileNotFoundError:
        raise UserError(f"Shard '{folder}/{shard.name}' is missing: preprocess again.") from None
    if hashlib.sha256(data).hexdigest() != shard.sha256:
        raise UserError(
            f"Shard '{folder}/{shard.name}' does not match the sha256 in dataset.json: preprocess again."
        )
    with tempfile.NamedTemporaryFile(dir=cache, delete=False) as file:
        file.write(data)
    return Path(file.name).rename(local)


def open_split(folder: str, dataset: Dataset, split: str) -> Examples:
    """Opens a split of a data set; remote shards are first copied to the machine's temporary folder.

    Args:
        folder: the data set's location, local or `gs://`.
        dataset: its `dataset.json`.
        split: "train", "valid" or "test".

    Raises:
        UserError: if the split is empty, or a shard is missing or damaged.
    """
    shards = dataset.splits[split].shards if split in dataset.splits else ()
    if not sum(shard.examples for shard in shards):
        raise UserError(
            f"Data set '{folder}' has no examples in its split '{split}': preprocess more images."
        )
    root = storage.resolve(folder)
    if isinstance(root, Path):
        paths = [root / shard.name for shard in shards]
    else:
        cache = Path(tempfile.gettempdir()) / f"latentfaces-{dataset.digest[:16]}"
        cache.mkdir(exist_ok=True)
        with ThreadPoolExecutor(8) as pool:
            paths = list(pool.map(lambda shard: _fetch(folder, shard, cache), shards))
    for path, shard in zip(paths, shards, strict=True):
        if not path.exists() or path.stat().st_size != shard.bytes:
            raise UserError(
                f"Shard '{path}' is missing or has another size than dataset.json says: preprocess again."
            )
    return Examples(paths)


def load_split(
    folder: str, split: str, limit: int | None = None
) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """Loads a split, or its first `limit` examples, into memory.

    Returns:
        images uint8 [N, H, W, C]; attributes int64 [N, A] of 0 and 1, or None where the data set has none;
        N file names.

    Raises:
        UserError: if there is no such data set or the split is empty.
    """
    dataset = read_dataset(folder)
    examples = open_split(folder, dataset, split)
    serialized = examples.read(np.arange(len(examples) if limit is None else min(limit, len(examples))))
    features = {"filename": tf.io.FixedLenFeature([], tf.string)}
    if dataset.attribute_names:
        features["attributes"] = tf.io.FixedLenFeature([len(dataset.attribute_names)], tf.int64)
    parsed = tf.io.parse_example(serialized, features)
    return (
        parse_images(serialized, dataset.image_shape).numpy(),
        parsed["attributes"].numpy() if dataset.attribute_names else None,
        [name.decode() for name in parsed["filename"].numpy()],
    )
