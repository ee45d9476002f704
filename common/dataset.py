"""The data set format: TFRecord shards of `tf.train.Example`, and `dataset.json`, the commit mark.

Nothing here needs TensorFlow. An example is encoded by hand, field by field in a fixed order, because
protobuf does not promise the order of a map's entries and shards have to be the same bytes every time.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, BinaryIO, NoReturn, Self

import google_crc32c

from latentfaces.common import storage
from latentfaces.common.errors import UserError
from latentfaces.common.storage import AnyPath

VERSION = 1
SPLITS = ("train", "valid", "test")
MAX_SIDE = 4096  # pixels: of an image's height and width

# What a description may hold; it comes from anywhere, and is believed in nothing.
_MAX_BYTES = 64 << 20
_MAX_NUMBER = 1 << 53  # which any program reads exactly
_MAX_ATTRIBUTES = 10_000
_MAX_NAME = 200  # characters of an attribute's name
_MAX_SOURCE = 100_000  # characters


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

    @property
    def digest(self) -> str:
        """The sha256, in hexadecimal, of the checksums of its shards."""
        return _digest(self.shards)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """What `dataset.json` says.

    Attributes:
        image_shape: Height, width, channels.
        attribute_names: The names of the 0/1 attributes of every example; empty where there are none.
        splits: `train`, `valid` and `test`; each may be without examples, or even shards.
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
        return _digest(shard for split in self.splits.values() for shard in split.shards)


def _digest(shards: Iterable[Shard]) -> str:
    return hashlib.sha256("".join(shard.sha256 for shard in shards).encode()).hexdigest()


def shard_name(split: str, index: int, shards: int, digest: str = "") -> str:
    """The file name of a split's shard `index` of `shards`; with the split's digest, one that no other has.

    The shards of a new data set therefore lie beside those of the one that it is to replace. What the names
    of a split's shards have in common is a template of TensorFlow Datasets, which could not tell each its own
    checksum.
    """
    return f"{split}-{digest[:16]}{'-' * bool(digest)}{index:05d}-of-{shards:05d}.tfrecord"


def add_checksum(name: str, sha256: str) -> str:
    """Makes a shard's name one that no shard of other content has."""
    return f"{name.removesuffix('.tfrecord')}-{sha256[:16]}.tfrecord"


def name_by_content(split: str, content: Split) -> Split:
    """Returns a split whose shards have the names that no shards of other content have."""
    digest, count = content.digest, len(content.shards)
    shards = [
        dataclasses.replace(shard, name=shard_name(split, index, count, digest))
        for index, shard in enumerate(content.shards)
    ]
    return Split(content.examples, tuple(shards))


def encode_dataset(dataset: Dataset) -> bytes:
    """Returns the content of `dataset.json`."""
    return (json.dumps(dataclasses.asdict(dataset), indent=2, ensure_ascii=False) + "\n").encode()


def write_dataset(folder: str | AnyPath, dataset: Dataset) -> None:
    """Writes `dataset.json`, all or nothing: the last step of making a data set."""
    storage.write(storage.resolve(folder) / "dataset.json", encode_dataset(dataset))


def read_dataset(folder: str | AnyPath) -> Dataset:
    """Reads a data set's `dataset.json`, which may come from anywhere: what is not as we write it is refused.

    Raises:
        UserError: There is none, or it is not one of ours.
    """
    path = storage.resolve(folder) / "dataset.json"
    try:
        text = storage.read(path, length=_MAX_BYTES + 1)
        if len(text) > _MAX_BYTES:
            raise ValueError(f"it has more than {_MAX_BYTES:,} bytes")
        return _decode(json.loads(text, parse_constant=_refuse_constant))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{folder} is not a finished data set, it has no dataset.json: make one with preprocess"
        ) from None
    except _OtherVersion as error:
        raise UserError(
            f"{path} is of version {error}, and this program reads version {VERSION}: "
            "make the data set again with preprocess"
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): make it again with preprocess") from None
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not a data set's description ({error}): make it again with preprocess"
        ) from None


def find_dataset(folder: str | AnyPath) -> Dataset | None:
    """Returns the data set in a folder if there is a whole one: its description, and all shards it names."""
    names = {entry.name for entry in storage.entries(storage.resolve(folder))}
    with contextlib.suppress(UserError):
        dataset = read_dataset(folder)
        if all(shard.name in names for split in dataset.splits.values() for shard in split.shards):
            return dataset
    return None


class _OtherVersion(Exception):
    """The description is of another version of the format."""


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _decode(content: Any) -> Dataset:
    """Makes a `Dataset` of what a description holds; raises `ValueError` where we would not write that."""
    version = _number(_field(content, "version"), "version")
    if version != VERSION:
        raise _OtherVersion(version)
    shape = _list(_field(content, "image_shape"), "image_shape", 3)
    height, width, channels = (_number(side, "image_shape", least=1, most=MAX_SIDE) for side in shape)
    if channels not in (1, 3):
        raise ValueError("image_shape does not end in 1 or 3 channels")
    names = tuple(_list(_field(content, "attribute_names"), "attribute_names"))
    check_attribute_names(names)
    splits = _field(content, "splits")
    if not isinstance(splits, dict) or set(splits) != set(SPLITS):
        raise ValueError(f"splits are not {', '.join(SPLITS)}")
    return Dataset(
        image_shape=(height, width, channels),
        attribute_names=names,
        splits={name: _decode_split(name, splits[name], height * width * channels) for name in SPLITS},
        rejected=_number(_field(content, "rejected"), "rejected"),
        source=_text(_field(content, "source"), "source", _MAX_SOURCE),
        version=version,
    )


def _decode_split(name: str, content: Any, image_bytes: int) -> Split:
    listed = _list(_field(content, "shards"), f"the shards of {name}")
    shards = []
    for each in listed:
        shard = Shard(
            name=_text(_field(each, "name"), "a shard's name", 100),
            examples=_number(_field(each, "examples"), "examples"),
            bytes=_number(_field(each, "bytes"), "bytes"),
            sha256=_text(_field(each, "sha256"), "sha256", 64),
        )
        if not re.fullmatch("[0-9a-f]{64}", shard.sha256):
            raise ValueError("sha256 is not one")
        if shard.bytes < shard.examples * image_bytes or (shard.bytes > 0) != (shard.examples > 0):
            raise ValueError(f"{shard.name} cannot hold {shard.examples} images in {shard.bytes} bytes")
        shards.append(shard)
    examples = _number(_field(content, "examples"), "examples")
    if examples != sum(shard.examples for shard in shards):
        raise ValueError(f"the examples of {name} are not those of its shards")
    split = Split(examples, tuple(shards))
    digest = split.digest
    for index, shard in enumerate(shards):
        plain = shard_name(name, index, len(shards))
        # With a checksum of its own: as until November 2026
        by_content = shard_name(name, index, len(shards), digest), add_checksum(plain, shard.sha256)
        if shard.name not in (plain, *by_content):
            raise ValueError(f"a shard's name is not {plain} or {by_content[0]}")
    return split


def _field(content: Any, name: str) -> Any:
    if not isinstance(content, dict) or name not in content:
        raise ValueError(f"{name} is missing")
    return content[name]


def _list(value: Any, what: str, length: int | None = None) -> list[Any]:
    if not isinstance(value, list) or length not in (None, len(value)):
        raise ValueError(f"{what} is not a list" + (f" of {length}" if length else ""))
    return value


def _number(value: Any, what: str, least: int = 0, most: int = _MAX_NUMBER) -> int:
    if type(value) is not int or not least <= value <= most:  # a bool is an int
        raise ValueError(f"{what} is not a whole number from {least} to {most}")
    return value


def _text(value: Any, what: str, most: int) -> str:
    if not isinstance(value, str) or not value.isprintable() or len(value) > most:
        raise ValueError(f"{what} is not a text of at most {most} printable characters")
    return value


def check_attribute_names(names: Sequence[Any]) -> None:
    """Checks that attributes have names that can be shown anywhere, each its own.

    Raises:
        ValueError: they don't.
    """
    if len(names) > _MAX_ATTRIBUTES:
        raise ValueError(f"there are more than {_MAX_ATTRIBUTES:,} attributes")
    for name in names:
        if not _text(name, "an attribute's name", _MAX_NAME):
            raise ValueError("an attribute has no name")
    if len(set(names)) != len(names):
        raise ValueError("two attributes have the same name")


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


def masked_crc(data: bytes, before: int = 0) -> bytes:
    """TFRecord's checksum: CRC-32C, rotated right by 15 bits, plus a constant; little-endian.

    Args:
        data: what it is of, or the last piece of that.
        before: the CRC-32C of the pieces before.
    """
    crc = google_crc32c.extend(before, data)
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
        framed = b"".join((length, masked_crc(length), record, masked_crc(record)))
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
