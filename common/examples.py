"""The data set's reader: random access to the examples of a split.

A shard is mapped into memory and its records are checked and indexed once. Any example can then be read on
its own, which makes three things exact and cheap at once: shuffling over the whole split, resuming at any
step without reading what came before, and reading only a replica's own share of each global batch.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import stat
import struct
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np
import tensorflow as tf

from latentfaces.common import storage
from latentfaces.common.cache import ShardCache
from latentfaces.common.dataset import Dataset, Shard, masked_crc, read_dataset
from latentfaces.common.errors import UserError
from latentfaces.common.storage import AnyPath

_HEADER = 12  # a record's length as uint64 and the length's checksum as uint32
_FOOTER = 4  # the data's checksum
_PIECE = 1 << 20  # bytes of a record that are looked at together
_BESIDE_PIXELS = 1 << 20  # bytes that an example has beside its pixels, at most
_READS = 3  # how often a data set is read anew that is replaced meanwhile

_AGAIN = "copy it again, or make the data set anew with preprocess"


class ReplacedError(UserError):
    """Another data set took the place of the one that was being read."""


class Examples:
    """The serialized `tf.train.Example`s of one split, by index.

    Args:
        shards: the shards' locations; they are local, unless `files` are given.
        files: the shards, open.
        described: what the data set's description says of each; not looked at if empty.
        longest: the most bytes that an example may have.

    Raises:
        UserError: a shard is damaged or is not as described.
    """

    def __init__(
        self,
        shards: Sequence[AnyPath],
        files: Sequence[BinaryIO] = (),
        described: Sequence[Shard] = (),
        longest: int = 1 << 62,
    ) -> None:
        self._maps: list[mmap.mmap] = []
        bounds = array("q")  # of the records: shard, start, end
        for number, shard in enumerate(shards):
            with contextlib.nullcontext(files[number]) if files else shard.open("rb") as file:
                empty = not os.fstat(file.fileno()).st_size
                data = mmap.mmap(-1 if empty else file.fileno(), int(empty), access=mmap.ACCESS_READ)
            before = len(bounds)
            try:
                for start, end in () if empty else _records(data, longest):
                    bounds.extend((number, start, end))
                if described and len(bounds) - before != 3 * described[number].examples:
                    raise ValueError(f"it has {(len(bounds) - before) // 3:,} records")
            except ValueError as error:
                raise UserError(_damaged(shard, error)) from None
            self._maps.append(data)
        self._index = np.array(bounds, np.int64).reshape(-1, 3)

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self._index)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Returns the serialized examples at those indices, an object array of bytes."""
        records = [self._maps[shard][start:end] for shard, start, end in self._index[indices].tolist()]
        return np.array(records, dtype=object)


def _damaged(shard: AnyPath, reason: object) -> str:
    return f"the shard {shard} is damaged ({reason}): {_AGAIN}"


def _records(data: mmap.mmap, longest: int) -> Iterator[tuple[int, int]]:
    """Yields where the records' data begin and end; raises `ValueError` at the first that is damaged."""
    position, size = 0, len(data)
    while position < size:
        header = data[position : position + _HEADER]
        if len(header) < _HEADER or masked_crc(header[:8]) != header[8:]:
            raise ValueError(f"no record begins at byte {position:,}")
        (length,) = struct.unpack_from("<Q", header)
        start = position + _HEADER
        end = start + length
        if end + _FOOTER > size or length > longest:
            raise ValueError(f"the record at byte {position:,} is too long")
        crc = 0
        while end - start > _PIECE:
            crc, start = google_crc32c.extend(crc, data[start : start + _PIECE]), start + _PIECE
        if masked_crc(data[start:end], crc) != data[end : end + _FOOTER]:
            raise ValueError(f"the record at byte {position:,} does not match its checksum")
        yield position + _HEADER, end
        position = end + _FOOTER


def parse_images(serialized: tf.Tensor, image_shape: tuple[int, int, int]) -> tf.Tensor:
    """Returns the images, uint8 [N, H, W, C], of serialized examples, string [N]."""
    features = tf.io.parse_example(serialized, {"image": tf.io.FixedLenFeature([], tf.string)})
    pixels = tf.io.decode_raw(features["image"], tf.uint8, fixed_length=int(np.prod(image_shape)))
    return tf.reshape(pixels, [-1, *image_shape])


def _open_shard(path: AnyPath, shard: Shard, cache: ShardCache | None) -> BinaryIO:
    """Opens a shard, or this user's copy of it; raises `OSError`, or `ValueError` for another one."""
    if cache:
        return cache.open(path, shard)
    file = open(
        path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)
    )  # it may be a pipe
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode) or status.st_size != shard.bytes:
        file.close()
        raise ValueError(f"it is no file of {shard.bytes:,} bytes")
    return file


def open_split(folder: str, dataset: Dataset, split: str, limit: int | None = None) -> Examples:
    """Opens a split of a data set; every record is checked, and remote shards are copied first.

    The copies are kept in the user's cache folder: `latentfaces.common.cache`.

    Args:
        folder: the data set's location, local or `gs://`.
        dataset: its `dataset.json`.
        split: "train", "valid" or "test".
        limit: how many examples are wanted; shards beyond those that hold them are left alone.

    Raises:
        ReplacedError: another data set has taken this one's place: read `dataset.json` again.
        UserError: if the split is empty, or a shard is missing or damaged.
    """
    shards = list(dataset.splits[split].shards) if split in dataset.splits else []
    if not sum(shard.examples for shard in shards):
        raise UserError(f"the data set {folder} has no examples in its split {split}: preprocess more images")
    if limit is not None:
        while len(shards) > 1 and sum(shard.examples for shard in shards[:-1]) >= limit:
            shards.pop()
    root = storage.resolve(folder)
    with contextlib.ExitStack() as stack:
        cache = None if isinstance(root, Path) else ShardCache()
        if cache:
            stack.callback(cache.close)
            cache.make_room(shards)

        def open_shard(path: AnyPath, shard: Shard) -> BinaryIO:
            try:
                return _open_shard(path, shard, cache)
            except (OSError, ValueError) as error:
                _refuse_replaced(folder, dataset)
                if isinstance(error, ValueError):
                    raise UserError(_damaged(path, error)) from None
                raise UserError(f"the shard {path} cannot be read ({error.strerror}): {_AGAIN}") from None

        paths = [root / shard.name for shard in shards]
        with ThreadPoolExecutor(8) as pool:
            files = [stack.enter_context(file) for file in pool.map(open_shard, paths, shards)]
        return Examples(paths, files, shards, math.prod(dataset.image_shape) + _BESIDE_PIXELS)


def _refuse_replaced(folder: str, dataset: Dataset) -> None:
    """Raises `ReplacedError` if the folder holds another data set by now, whose shards have other names."""
    try:
        newest = read_dataset(folder).digest
    except UserError:
        return
    if newest != dataset.digest:
        raise ReplacedError(
            f"the data set {folder} was replaced by another while it was being read: start again"
        )


def load_split(
    folder: str, split: str, limit: int | None = None
) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """Loads a split, or its first `limit` examples, into memory.

    Returns:
        images uint8 [N, H, W, C]; attributes int64 [N, A] of 0 and 1, or None where the data set has none;
        N file names, of which bytes that are not UTF-8 are escaped.

    Raises:
        UserError: if there is no such data set, the split is empty, or examples are not as described.
    """
    dataset, examples = _open_newest(folder, split, limit)
    serialized = examples.read(np.arange(len(examples) if limit is None else min(limit, len(examples))))
    features = {"filename": tf.io.FixedLenFeature([], tf.string)}
    if dataset.attribute_names:
        features["attributes"] = tf.io.FixedLenFeature([len(dataset.attribute_names)], tf.int64)
    with _as_described(folder):
        parsed = tf.io.parse_example(serialized, features)
        images = parse_images(serialized, dataset.image_shape).numpy()
    attributes = parsed["attributes"].numpy() if dataset.attribute_names else None
    if attributes is not None and not np.isin(attributes, (0, 1)).all():
        raise _other_examples(folder)
    return (
        images,
        attributes,
        [name.decode(errors="backslashreplace") for name in parsed["filename"].numpy()],
    )


def read_images(folder: str, dataset: Dataset, split: str, indices: range, rows: int) -> Iterator[np.ndarray]:
    """Yields those images of a split, uint8 [at most `rows`, H, W, C] at a time.

    Raises:
        UserError: as `open_split` does.
    """
    if indices:
        examples = open_split(folder, dataset, split, indices.stop)
        for start in range(0, len(indices), rows):
            serialized = examples.read(np.array(indices[start : start + rows]))
            with _as_described(folder):
                images = parse_images(serialized, dataset.image_shape).numpy()
            yield images


@contextlib.contextmanager
def _as_described(folder: str) -> Iterator[None]:
    """Tells of whole examples that have not the features that `dataset.json` says."""
    try:
        yield
    except tf.errors.InvalidArgumentError:
        raise _other_examples(folder) from None


def _other_examples(folder: str) -> UserError:
    return UserError(f"the data set {folder} holds other examples than its dataset.json says: {_AGAIN}")


def _open_newest(folder: str, split: str, limit: int | None) -> tuple[Dataset, Examples]:
    for _ in range(_READS - 1):
        with contextlib.suppress(ReplacedError):
            dataset = read_dataset(folder)
            return dataset, open_split(folder, dataset, split, limit)
    dataset = read_dataset(folder)
    return dataset, open_split(folder, dataset, split, limit)
