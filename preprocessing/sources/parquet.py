"""A Parquet file of images, or a folder of them, as Hugging Face's data sets come: read where it lies.

One column holds the images as files: bytes, or a struct of `bytes` and `path`. Columns of booleans, whole
numbers and Hugging Face's ClassLabel are labels. Of a row group, pages are read as they are needed, so that
it takes little memory, however large it is; and one row at a time, for a value may stand in many rows.
"""

import contextlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from latentfaces.common import storage
from latentfaces.common.dataset import check_attribute_names
from latentfaces.common.errors import UserError, printable
from latentfaces.common.storage import AnyPath
from latentfaces.preprocessing.resize import RefusedImage
from latentfaces.preprocessing.sources.celeba import (
    ATTRIBUTE_FILES,
    MOST_CLASSES,
    PARTITION_FILES,
    Labels,
    Lines,
)
from latentfaces.preprocessing.sources.folder import archive_stamps, archives, as_utf8
from latentfaces.preprocessing.sources.split import is_partition, make_parts, split_of_file

ENDINGS = (".parquet",)

_MOST_IMAGES = 5_000_000
_MOST_LABELS = 1 << 28
_MOST_TIMES, _ALWAYS = 100, 1 << 30  # so many times the file's size may a row group have, or so many bytes
_LONGEST_FOOTER = 64 << 20  # bytes
_BUFFER = 1 << 20  # bytes that are read at a time

Place = tuple[str, int, int]  # the file's name below the source, the row group, the row in it


@dataclass(frozen=True)
class Parquet:
    """A Parquet file, or a folder of them; an image is named after file and row: `test.parquet/000017`."""

    location: str

    def entries(self) -> list[tuple[str, Any]]:
        """All rows in order, and labels and partition of theirs.

        Raises:
            UserError: A file is damaged, has no column of images, or decompresses to far more than it is.
        """
        found: list[tuple[str, Any]] = []
        splits: dict[str, str] = {}
        columns: dict[str, _Column] | None = None
        for name, path in archives(self.location, ENDINGS):
            with _opened(path) as file:
                _image_column(file.schema_arrow)  # whether there is one
                here = _label_columns(file.schema_arrow)
                columns = here if columns is None else {key: columns[key] for key in columns if key in here}
                # Not what it says of single columns: there, pyarrow ends the process if that is damaged.
                groups = [file.metadata.row_group(group) for group in range(file.num_row_groups)]
                most = max(_ALWAYS, _MOST_TIMES * storage.stamp(path).size)
                if max((group.total_byte_size for group in groups), default=0) > most:
                    raise ValueError(f"implausible: a row group decompresses to more than {most:,} bytes")
                rows = [group.num_rows for group in groups]
                if len(found) + sum(rows) > _MOST_IMAGES:
                    raise ValueError(f"there are more than {_MOST_IMAGES:,} rows")
                if sum(rows) * len(columns) > _MOST_LABELS:
                    raise ValueError(f"there are more than {_MOST_LABELS:,} labels")
                read = 0
                for batch in file.iter_batches(columns=list(columns), use_threads=False) if columns else ():
                    read += batch.num_rows
                    columns = {key: each for key, each in columns.items() if each.add(batch.column(key))}
                if min(rows, default=0) < 0 or columns and read != sum(rows):
                    raise ValueError("it has not as many rows as it says")
                places = ((group, row) for group, count in enumerate(rows) for row in range(count))
                for number, place in enumerate(places):
                    image = f"{as_utf8(name)}/{number:06d}" if name else f"{number:06d}"
                    found.append((image, (name, *place)))
                    splits[image] = split_of_file(name)
        shown, own = printable(self.location), []
        if is_partition(splits.values()):
            own.append(
                (PARTITION_FILES[1], Lines(f"{shown} (names of its files)", lambda: make_parts(splits)))
            )
        if columns:
            labels = _labels(columns.values(), splits, shown)
            own.append((ATTRIBUTE_FILES[1], Lines(f"{shown} (its columns)", lambda: labels)))
        return [*own, *found]

    def stamps(self) -> Iterator[tuple[str, Any]]:
        """One for each file as a whole."""
        return archive_stamps(self.location, ENDINGS)

    def read(self, places: Iterable[Place]) -> Iterator[bytes | RefusedImage]:
        """Reads rows; those of a row group in one go, as long as each comes after the one before."""
        source = storage.resolve(self.location)
        for name, of_file in itertools.groupby(places, key=lambda place: place[0]):
            with _opened(storage.join(source, name) if name else source) as file:
                for group, of_group in itertools.groupby(of_file, key=lambda place: place[1]):
                    yield from _read_rows(file, group, (row for _, _, row in of_group))


@contextlib.contextmanager
def _opened(path: AnyPath) -> Iterator[pq.ParquetFile]:
    """Opens a file; raises `UserError` if it turns out to be damaged, then or in the block."""
    try:
        with storage.open_for_reading(path) as stream:
            stream.seek(-min(8, stream.seek(0, os.SEEK_END)), os.SEEK_END)
            if int.from_bytes(stream.read(4), "little") > _LONGEST_FOOTER:
                raise ValueError(f"its footer has more than {_LONGEST_FOOTER:,} bytes")
            yield pq.ParquetFile(stream, buffer_size=_BUFFER, pre_buffer=False)
    except Exception as error:
        if not _is_damage(error):
            raise
        raise UserError(
            f"{printable(str(path))} is not a readable Parquet file of images ({_shown(error)}): "
            "download it again, or make it anew"
        ) from None


def _is_damage(error: Exception) -> bool:
    """Whether the file is at fault, and not a storage, whose errors have numbers or are of other kinds."""
    if isinstance(error, OSError):
        return error.errno is None
    return isinstance(error, pa.ArrowException | ValueError | KeyError | TypeError | OverflowError)


def _shown(error: Exception) -> str:
    return printable(str(error).split("\n", 1)[0][:200])


def _image_column(schema: pa.Schema) -> str:
    """The path of the column of images: the only one of bytes, or the one called `image`; or `ValueError`."""
    found = {}
    for field in schema:
        path, kind = field.name, field.type
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            path, kind = f"{path}.bytes", kind.field("bytes").type
        if kind in (pa.binary(), pa.large_binary()):
            found[field.name] = path
    if "image" not in found and len(found) != 1:
        raise ValueError(f"it has {len(found)} columns of bytes, and none of them is called image")
    return found["image"] if "image" in found else next(iter(found.values()))


def _read_rows(file: pq.ParquetFile, group: int, rows: Iterable[int]) -> Iterator[bytes | RefusedImage]:
    """Reads rows of a row group; from where it is damaged, each is refused."""
    position, batches = 0, _batches(file, group)
    refusal = None
    for row in rows:
        if row < position and not refusal:
            position, batches = 0, _batches(file, group)
        content: Any = refusal
        if not refusal:
            try:
                content = next(itertools.islice(batches, row - position, None)).column(0)[0].as_py()
                position = row + 1
            except StopIteration:
                content = refusal = RefusedImage("unreadable row: it is not there")
            except Exception as error:
                if not _is_damage(error):
                    raise
                content = refusal = RefusedImage(f"unreadable row: {_shown(error)}")
        if isinstance(content, dict):
            content = content.get("bytes")
        yield RefusedImage("no image in this row") if content is None else content


def _batches(file: pq.ParquetFile, group: int) -> Iterator[pa.RecordBatch]:
    column = _image_column(file.schema_arrow)
    return file.iter_batches(1, row_groups=[group], columns=[column], use_threads=False)


class _Column:
    """A column that may hold labels: its values, and for each row the number of its own."""

    def __init__(self, name: str, classes: list[Any] | None) -> None:
        self._name = name
        self._classes = classes
        self._numbers: dict[int, int] = {}  # of the values, as they come
        self._rows: list[np.ndarray] = []

    def add(self, column: pa.Array) -> bool:
        """Takes up more rows; returns whether they can be labels."""
        if column.null_count and self._classes is None:
            return False
        values = column.cast(pa.int64(), safe=False).fill_null(-1).to_numpy(zero_copy_only=False)
        found, inverse = np.unique(values, return_inverse=True)
        numbers = [self._numbers.setdefault(value, len(self._numbers)) for value in found.tolist()]
        if len(self._numbers) > MOST_CLASSES:
            return False
        self._rows.append(np.array(numbers, np.uint8)[inverse])
        return True

    def attributes(self) -> dict[str, int]:
        """The names of its attributes, each with the value that stands for it."""
        values = sorted(self._numbers)
        if self._classes is not None:  # what is in no class has a number that is none of theirs
            return {
                f"{self._name}_{self._classes[each]}": each
                for each in values
                if 0 <= each < len(self._classes)
            }
        if set(values) <= {0, 1} or set(values) <= {-1, 1}:
            return {self._name: 1}
        return {f"{self._name}_{each}": each for each in values}

    def bits(self, offset: int) -> Iterator[int]:
        """For each row, its attributes as bits of a number, the first one at an offset."""
        worth = {value: 1 << offset + position for position, value in enumerate(self.attributes().values())}
        of_number = [worth.get(value, 0) for value in self._numbers]
        return (of_number[number] for rows in self._rows for number in rows.tolist())


def _label_columns(schema: pa.Schema) -> dict[str, _Column]:
    """The columns of booleans and whole numbers; the names of a ClassLabel's classes are in the metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError, RecursionError):
        features = None
    columns = {}
    for name, times in Counter(schema.names).items():
        kind = schema.field(name).type if times == 1 else None
        if kind is not None and (pa.types.is_boolean(kind) or pa.types.is_integer(kind)):
            told = features.get(name) if isinstance(features, dict) else None
            classes = (
                told.get("names") if isinstance(told, dict) and told.get("_type") == "ClassLabel" else None
            )
            columns[name] = _Column(name, classes if isinstance(classes, list) else None)
    return columns


def _labels(columns: Iterable[_Column], images: Iterable[str], shown: str) -> Labels:
    """The labels that columns are; raises `UserError` if attributes can't have such names."""
    names: list[str] = []
    labels: Iterator[int] = itertools.repeat(0)
    for column in columns:
        labels = map(int.__or__, labels, column.bits(len(names)))
        names += column.attributes()
    try:
        check_attribute_names(names)
    except ValueError as error:
        raise UserError(f"the columns of {shown} cannot be labels, {error}: rename them") from None
    return tuple(names), dict(zip(images, labels, strict=True))
