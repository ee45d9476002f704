"""Where images come from: CelebA as it is distributed, any folder of photographs, or a zip of either.

A source is looked through once, before the Beam job starts: which images there are, which split each belongs
to and what its labels say. Images are known by their name below the source, with forward slashes; a name is a
label and a key, and from a zip it is never used as a path.

Files of the operating system (`.DS_Store`, anything with a name that starts with a dot, `__MACOSX`,
`Thumbs.db`, `desktop.ini`) are no inputs. Every other file is: what is not an image is refused, by name.
"""

import csv
import dataclasses
import errno
import hashlib
import struct
import zipfile
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple

from preprocessing import storage
from preprocessing.dataset import SPLITS
from preprocessing.errors import UserError
from preprocessing.resize import MAX_FILE_BYTES, RefusedImage
from preprocessing.storage import AnyPath

ATTRIBUTES = (
    "5_o_Clock_Shadow",
    "Arched_Eyebrows",
    "Attractive",
    "Bags_Under_Eyes",
    "Bald",
    "Bangs",
    "Big_Lips",
    "Big_Nose",
    "Black_Hair",
    "Blond_Hair",
    "Blurry",
    "Brown_Hair",
    "Bushy_Eyebrows",
    "Chubby",
    "Double_Chin",
    "Eyeglasses",
    "Goatee",
    "Gray_Hair",
    "Heavy_Makeup",
    "High_Cheekbones",
    "Male",
    "Mouth_Slightly_Open",
    "Mustache",
    "Narrow_Eyes",
    "No_Beard",
    "Oval_Face",
    "Pale_Skin",
    "Pointy_Nose",
    "Receding_Hairline",
    "Rosy_Cheeks",
    "Sideburns",
    "Smiling",
    "Straight_Hair",
    "Wavy_Hair",
    "Wearing_Earrings",
    "Wearing_Hat",
    "Wearing_Lipstick",
    "Wearing_Necklace",
    "Wearing_Necktie",
    "Young",
)
"""CelebA's 40 attributes, in the order of `list_attr_celeba.txt`."""

IMAGES_FOLDER = "img_align_celeba"
_ATTRIBUTE_FILES = ("list_attr_celeba.txt", "list_attr_celeba.csv")
_PARTITION_FILES = ("list_eval_partition.txt", "list_eval_partition.csv")
_READS_AHEAD = 16
# The file's own fault, where any other error is the storage's and the shard has to be tried again.
_UNREADABLE = {
    getattr(errno, name) for name in "ENOENT EACCES EPERM EISDIR ENOTDIR EINVAL ELOOP ENXIO".split()
}
_BITS = bytes.maketrans(b"01", b"\0\1")
_SYSTEM_NAMES = {"__MACOSX", "Thumbs.db", "desktop.ini"}


class ZipEntry(NamedTuple):
    """Where an entry's bytes are in a zip, from the zip's directory at its end."""

    header: int  # offset of the local header
    compressed: int  # bytes
    size: int  # bytes, as declared
    method: int
    crc: int
    encrypted: bool


class Image(NamedTuple):
    """One input: its name, its labels (bit i is attribute i; None without) and, in a zip, its place."""

    name: str
    labels: int | None
    entry: ZipEntry | None


@dataclasses.dataclass(frozen=True)
class Source:
    """What was found.

    Attributes:
        images: The folder, or the zip, that holds the images.
        is_zip: Which of the two.
        attribute_names: Names of the labels; empty without.
        splits: The inputs of `train`, `valid` and `test`; in a folder sorted by name, in a zip by position.
        refused: (name, reason) of what cannot be used, without opening an image.
    """

    images: AnyPath
    is_zip: bool
    attribute_names: tuple[str, ...]
    splits: Mapping[str, list[Image]]
    refused: list[tuple[str, str]]


def find(
    source: str,
    attributes: str | None = None,
    partition: str | None = None,
) -> Source:
    """Looks through a source.

    Images are taken from `img_align_celeba` or `img_align_celeba.zip`, in `source` or in its `Img`, where
    there is one, else from `source` itself, with all folders below. Labels and partition are looked for
    beside the images, one folder up, in `source`, and in `Anno` and `Eval` of these. Without a partition, 80
    % of the names go to train and 10 % each to valid and test, by their SHA-256: an image keeps its split
    when others come or go.

    With labels (or a partition), an image that they do not list is refused, and so is a line without an
    image.

    Args:
        source: Folder or zip, local or `gs://`.
        attributes: Label file in CelebA's `.txt` or `.csv` form, instead of one found.
        partition: Partition file, likewise.

    Raises:
        UserError: The source is missing, is empty, or its labels or partition cannot be understood.
    """
    images, is_zip, folders = _locate(source)
    attribute_file = _side_file(attributes, _ATTRIBUTE_FILES, folders)
    partition_file = _side_file(partition, _PARTITION_FILES, folders)

    own_files = {str(file) for file in (attribute_file, partition_file) if file}
    entries = _zip_entries(images) if is_zip else _folder_entries(images, own_files)
    if not entries:
        raise UserError(f"{images} has no images in it: name a folder or a zip of images as the source")

    names, labels = _read_attributes(attribute_file) if attribute_file else ((), None)
    parts = _read_partition(partition_file) if partition_file else None

    splits: dict[str, list[Image]] = {split: [] for split in SPLITS}
    refused = []
    for name, entry in entries:
        if labels is not None and name not in labels:
            refused.append((name, f"no line in {attribute_file.name}"))
        elif parts is not None and name not in parts:
            refused.append((name, f"no line in {partition_file.name}"))
        else:
            split = hash_split(name) if parts is None else SPLITS[parts[name]]
            splits[split].append(Image(name, None if labels is None else labels[name], entry))
    found = {name for name, _ in entries}
    for name in sorted(((labels or {}).keys() | (parts or {}).keys()) - found):
        listed = (attribute_file if labels and name in labels else partition_file).name
        refused.append((name, f"listed in {listed}, but there is no such image"))
    return Source(images, is_zip, names, splits, refused)


def hash_split(name: str) -> str:
    """The split of an image without a partition file: train 80 %, valid 10 %, test 10 %, by SHA-256."""
    tenth = int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8]) * 10 >> 64
    return SPLITS[max(0, tenth - 7)]


def _locate(source: str) -> tuple[AnyPath, bool, list[AnyPath]]:
    """Finds the images, whether they are in a zip, and the folders where labels may be."""
    root = storage.resolve(source)
    if str(source).lower().endswith(".zip"):
        if not storage.is_file(root):
            raise UserError(f"there is no file {source}: correct the source")
        return root, True, _side_folders([root.parent, root.parent.parent])
    if not storage.is_folder(root):
        problem = "is not a folder or a .zip" if storage.is_file(root) else "does not exist"
        raise UserError(f"the source {source} {problem}: name a folder or a zip of images")
    for parent in (root, root / "Img"):
        folder, archive = parent / IMAGES_FOLDER, parent / f"{IMAGES_FOLDER}.zip"
        if storage.is_folder(folder):
            nested = folder / IMAGES_FOLDER  # Kaggle's download has the folder twice
            images = nested if storage.is_folder(nested) else folder
            return images, False, _side_folders([images, images.parent, root])
        if storage.is_file(archive):
            return archive, True, _side_folders([parent, root])
    return root, False, _side_folders([root, root.parent])


def _side_folders(folders: Iterable[AnyPath]) -> list[AnyPath]:
    """The folders, each followed by CelebA's two folders of lists, without repetition."""
    return list(
        dict.fromkeys(place for folder in folders for place in (folder, folder / "Anno", folder / "Eval"))
    )


def _side_file(named: str | None, usual: tuple[str, ...], folders: list[AnyPath]) -> AnyPath | None:
    if named is not None:
        file = storage.resolve(named)
        if not storage.is_file(file):
            raise UserError(f"there is no file {named}: correct the option")
        return file
    candidates = (folder / name for folder in folders for name in usual)
    return next((file for file in candidates if storage.is_file(file)), None)


def _is_input(name: str) -> bool:
    parts = name.split("/")
    return not any(part in _SYSTEM_NAMES or part.startswith(".") and part != ".." for part in parts)


def _folder_entries(folder: AnyPath, leave_out: set[str]) -> list[tuple[str, None]]:
    names = (name for name in storage.list_files(folder) if _is_input(name))
    usual = {*_ATTRIBUTE_FILES, *_PARTITION_FILES}
    # CelebA's lists are no inputs where they lie beside the images, whether they were used or not.
    return [
        (name, None) for name in sorted(names) if name not in usual and str(folder / name) not in leave_out
    ]


def _zip_entries(path: AnyPath) -> list[tuple[str, ZipEntry]]:
    """Reads a zip's directory; entries in the order of their bytes, which reads sequentially."""
    try:
        with storage.open_for_reading(path) as file, zipfile.ZipFile(file) as archive:
            entries = [
                (
                    info.filename,
                    ZipEntry(
                        info.header_offset,
                        info.compress_size,
                        info.file_size,
                        info.compress_type,
                        info.CRC,
                        bool(info.flag_bits & 0x1),
                    ),
                )
                for info in archive.filelist
                if not info.is_dir()
            ]
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        raise UserError(f"{path} is not a readable zip ({error}): download it again") from None
    entries = [(name, entry) for name, entry in entries if _is_input(name)]
    if all(name.startswith(f"{IMAGES_FOLDER}/") for name, _ in entries):
        entries = [(name.removeprefix(f"{IMAGES_FOLDER}/"), entry) for name, entry in entries]
    names = set()
    for name, _ in entries:
        if name in names:
            raise UserError(
                f"{path} has two entries named {name!r}: names have to be unique, make the zip anew"
            )
        names.add(name)
    return sorted(entries, key=lambda item: (item[1].header, item[0]))


def _lines(file: AnyPath) -> list[str]:
    try:
        return storage.read(file).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file} is not a text file ({error.reason}): give CelebA's .txt or .csv form"
        ) from None


def _read_attributes(file: AnyPath) -> tuple[tuple[str, ...], dict[str, int]]:
    """Reads labels: the names of the attributes and, for each image, a number whose bit i is attribute i."""
    lines = _lines(file)
    if file.suffix.lower() == ".csv":
        rows = csv.reader(lines)
        names = tuple(next(rows, ())[1:])
        first, expected = 2, None
    else:
        if len(lines) < 2 or not lines[0].strip().isdecimal():
            raise UserError(f"{file} does not begin with a count and a line of names, as CelebA's does")
        expected, names = int(lines[0]), tuple(lines[1].split())
        rows, first = (line.split() for line in lines[2:]), 3
    if not names or len(set(names)) != len(names):
        raise UserError(f"{file} does not name its attributes, each once, in its header")
    bits = [1 << position for position in range(len(names))]
    labels: dict[str, int] = {}
    for number, row in enumerate(rows, first):
        if not row:
            continue
        name, values = row[0], row[1:]
        if len(values) != len(names) or not all(value in ("1", "-1", "0") for value in values):
            raise UserError(f"{file} line {number}: expected a file name and {len(names)} values of 1 or -1")
        if name in labels:
            raise UserError(f"{file} line {number}: a second line for {name}")
        labels[name] = sum(bit for bit, value in zip(bits, values, strict=True) if value == "1")
    if expected is not None and expected != len(labels):
        raise UserError(f"{file} says that it has {expected} lines and has {len(labels)}: is it complete?")
    return names, labels


def label_bytes(labels: int, attributes: int) -> bytes:
    """Spreads an image's labels: one byte, 0 or 1, an attribute."""
    return f"{labels:0{attributes}b}"[::-1].encode().translate(_BITS)


def _read_partition(file: AnyPath) -> dict[str, int]:
    """Reads a partition: 0 train, 1 valid, 2 test for each image."""
    lines = _lines(file)
    if file.suffix.lower() == ".csv":
        rows, first = csv.reader(lines[1:]), 2
    else:
        rows, first = (line.split() for line in lines), 1
    parts: dict[str, int] = {}
    for number, row in enumerate(rows, first):
        if not row:
            continue
        if len(row) != 2 or row[1] not in ("0", "1", "2"):
            raise UserError(
                f"{file} line {number}: expected a file name and 0 (train), 1 (valid) or 2 (test)"
            )
        if row[0] in parts:
            raise UserError(f"{file} line {number}: a second line for {row[0]}")
        parts[row[0]] = int(row[1])
    return parts


def read_images(
    images: AnyPath, is_zip: bool, inputs: Iterable[Image]
) -> Iterator[tuple[Image, bytes | RefusedImage]]:
    """Reads the files of some inputs, in their order; one that cannot be read comes with the reason.

    A storage service that fails is an error of the job, to be tried again, and no reason to refuse an image.
    """
    if is_zip:
        with storage.open_for_reading(images) as file:
            for image in inputs:
                try:
                    yield image, _read_entry(file, image.entry)
                except RefusedImage as refusal:
                    yield image, refusal
    elif isinstance(images, Path):
        for image in inputs:
            yield image, _read_file(f"{images}/{image.name}")
    else:  # a request to a bucket takes tens of milliseconds: have several under way
        with ThreadPoolExecutor(_READS_AHEAD) as pool:
            ahead: deque[tuple[Image, Future]] = deque()
            for image in inputs:
                ahead.append((image, pool.submit(_read_file, images / image.name)))
                if len(ahead) == _READS_AHEAD:
                    image, future = ahead.popleft()
                    yield image, future.result()
            for image, future in ahead:
                yield image, future.result()


def _read_file(path: AnyPath | str) -> bytes | RefusedImage:
    try:
        return storage.read(path, length=MAX_FILE_BYTES + 1)
    except OSError as error:
        if error.errno not in _UNREADABLE:
            raise
        return RefusedImage(f"unreadable file: {error.strerror}")


def _read_entry(file: BinaryIO, entry: ZipEntry) -> bytes:
    """Reads one entry of an untrusted zip, never more bytes than the limit."""
    if entry.encrypted:
        raise RefusedImage("unreadable zip entry: encrypted")
    if max(entry.size, entry.compressed) > MAX_FILE_BYTES:
        raise RefusedImage(f"too large: {entry.size:,} bytes, more than {MAX_FILE_BYTES:,}")
    file.seek(entry.header)
    header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise RefusedImage("unreadable zip entry: no header where the zip's directory says")
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    data = file.read(name_length + extra_length + entry.compressed)[name_length + extra_length :]
    try:
        content = _decompress(data, entry)
    except zlib.error as error:
        raise RefusedImage(f"unreadable zip entry: {error}") from None
    if len(content) != entry.size or zlib.crc32(content) != entry.crc:
        raise RefusedImage("unreadable zip entry: truncated or damaged, its checksum does not match")
    return content


def _decompress(data: bytes, entry: ZipEntry) -> bytes:
    if entry.method == zipfile.ZIP_STORED:
        return data
    if entry.method == zipfile.ZIP_DEFLATED:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, entry.size + 1)
    raise RefusedImage(f"unreadable zip entry: compression method {entry.method}, only 0 and 8 are read")
