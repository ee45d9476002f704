"""The data set format: TFRecord shards of `tf.train.Example`, and `dataset.json`, the commit mark.

Nothing here needs TensorFlow. An example is encoded by hand, field by field in a fixed order, because
protobuf does not promise the order of a map's entries and shards have to be the same bytes every time.
"""

import dataclasses
import functools
import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, BinaryIO, Self

import google_crc32c

from latentfaces.common import storage
from latentfaces.common.errors import UserError
from latentfaces.common.storage import AnyPath

VERSION = 1
SPLITS = ("train", "valid", "test")


@dataclasses.dataclass(frozen=True)
class Shard:
    """One TFRecord file: its name in the data set folder, and what is in it."""

    name: str
    examples: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Split:
    """The shards of `train`, `valid` or `test`, in order."""

    examples: int
    shards: tuple[Shard, ...]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """What `dataset.json` says.

    Attributes:
        image_shape: Height, width, channels.
        attribute_names: The names of the 0/1 attributes of every example; empty where there are none.
        splits: `train`, `valid` and `test`; one without examples has no shards.
        rejected: How many inputs were refused; `rejected.jsonl` names them.
        source: What the data set was made from, as it was named.
        version: Of this format.
    """

    image_shape: tuple[int, int, int]
    attribute_names: tuple[str, ...]
    splits: Mapping[str, Split]
    rejected: int
    source: str
    version: int = VERSION

    @property
    def digest(self) -> str:
        """The sha256, in hexadecimal, of the checksums of all shards: the same for the same examples."""
        checksums = [shard.sha256 for split in self.splits.values() for shard in split.shards]
        return hashlib.sha256("".join(checksums).encode()).hexdigest()


def shard_name(split: str, index: int, shards: int) -> str:
    """The file name of a split's shard `index` of `shards`."""
    return f"{split}-{index:05d}-of-{shards:05d}.tfrecord"


def write_dataset(folder: str | AnyPath, dataset: Dataset) -> None:
    """Writes `dataset.json`, all or nothing: the last step of making a data set."""
    text = json.dumps(dataclasses.asdict(dataset), indent=2, ensure_ascii=False) + "\n"
    storage.write(storage.resolve(folder) / "dataset.json", text.encode())


def read_dataset(folder: str | AnyPath) -> Dataset:
    """Reads a data set's `dataset.json`.

    Raises:
        UserError: There is none, or it is not one of ours.
    """
    path = storage.resolve(folder) / "dataset.json"
    try:
        content = json.loads(storage.read(path))
        if content["version"] != VERSION:
            raise UserError(
                f"{path} is of version {content['version']}, and this program reads version {VERSION}: "
                "make the data set again with preprocess"
            )
        return Dataset(
            image_shape=tuple(content["image_shape"]),
            attribute_names=tuple(content["attribute_names"]),
            splits={
                name: Split(split["examples"], tuple(Shard(**shard) for shard in split["shards"]))
                for name, split in content["splits"].items()
            },
            rejected=content["rejected"],
            source=content["source"],
            version=content["version"],
        )
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{folder} is not a finished data set, it has no dataset.json: make one with preprocess"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not a data set's description ({error}): make it again with preprocess"
        ) from None


@functools.lru_cache(maxsize=4096)
def _header(field: int, length: int) -> bytes:
    """What precedes a length-delimited protobuf field: its number with wire type 2, its length; varints."""
    encoded = bytearray()
    for value in (field << 3 | 2, length):
        while value > 0x7F:
            encoded.append(value & 0x7F | 0x80)
            value >>= 7
        encoded.append(value)
    return bytes(encoded)


def _feature(name: bytes, kind: int, value: bytes) -> bytes:
    """An entry of `Features.feature`; `kind` is 1 for `BytesList`, 3 for `Int64List`."""
    key = _header(1, len(name)) + name
    head = _header(1, len(value))  # from the value outwards: list, Feature, map entry, Features
    for field in (kind, 2):
        head = _header(field, len(head) + len(value)) + head
    head = key + head
    return b"".join((_header(1, len(head) + len(value)), head, value))


def encode_example(image: bytes, filename: str, attributes: bytes | None) -> bytes:
    """Encodes a `tf.train.Example`; the same arguments always give the same bytes.

    Args:
        image: uint8 pixels, row-major [height, width, channels].
        filename: Name of the input.
        attributes: One byte, 0 or 1, an attribute; None where there are none.

    Returns:
        The serialized message with features `attributes`, `filename`, `image`.
    """
    features = (
        b"" if attributes is None else _feature(b"attributes", 3, attributes),  # 0 and 1 are varints
        _feature(b"filename", 1, filename.encode("utf-8", "surrogateescape")),
        _feature(b"image", 1, image),
    )
    return b"".join((_header(1, sum(map(len, features))), *features))


def _masked_crc(data: bytes) -> bytes:
    """TFRecord's checksum: CRC-32C, rotated right by 15 bits, plus a constant; little-endian."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


class ShardWriter:
    """Writes TFRecords to an open file, counting and hashing; a context manager that closes it."""

    def __init__(self, file: BinaryIO) -> None:
        """Takes over `file`, open for writing."""
        self._file = file
        self._sha256 = hashlib.sha256()
        self._examples = 0
        self._bytes = 0

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the file."""
        self._file.close()

    def write(self, record: bytes) -> None:
        """Appends a record: length, its checksum, content, its checksum."""
        length = struct.pack("<Q", len(record))
        framed = b"".join((length, _masked_crc(length), record, _masked_crc(record)))
        self._file.write(framed)
        self._sha256.update(framed)
        self._examples += 1
        self._bytes += len(framed)

    def shard(self, name: str) -> Shard:
        """What has been written so far, under the name that it will have."""
        return Shard(name, self._examples, self._bytes, self._sha256.hexdigest())


def make_splits(shards: Sequence[tuple[str, Any]]) -> dict[str, Split]:
    """Gathers (split, Shard) pairs, in any order, into all of `SPLITS`."""
    splits = {}
    for name in SPLITS:
        own = tuple(sorted((shard for split, shard in shards if split == name), key=lambda shard: shard.name))
        splits[name] = Split(sum(shard.examples for shard in own), own)
    return splits
