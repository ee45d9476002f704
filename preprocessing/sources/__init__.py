"""Where images come from: CelebA as distributed, any folder of photographs, an archive of either, arrays.

A source is looked through once, before the Beam job starts: which images there are, which split each belongs
to and what its labels say. Images are known by their name below the source, with forward slashes; a name is a
label and a key. Where an image lies is known only to the object that lists the images and reads them.

Files of the operating system (`.DS_Store`, anything with a name that starts with a dot, `__MACOSX`,
`Thumbs.db`, `desktop.ini`, `@eaDir`) are no inputs, nor are CelebA's lists and what lies beside images, which
is counted by kind. Every other file is: what is not an image is refused, by name.
"""

import functools
import logging
import os
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from latentfaces.common import storage
from latentfaces.common.dataset import SPLITS, check_attribute_names
from latentfaces.common.errors import UserError, printable
from latentfaces.common.storage import AnyPath
from latentfaces.preprocessing.options import SOURCES
from latentfaces.preprocessing.resize import RefusedImage
from latentfaces.preprocessing.sources import celeba, idx, tar
from latentfaces.preprocessing.sources.celeba import ATTRIBUTES as ATTRIBUTES
from latentfaces.preprocessing.sources.folder import Folder, is_input, kind_beside
from latentfaces.preprocessing.sources.idx import Idx
from latentfaces.preprocessing.sources.npz import Npz
from latentfaces.preprocessing.sources.parquet import Parquet
from latentfaces.preprocessing.sources.split import hash_split, name_digest
from latentfaces.preprocessing.sources.tar import Tar
from latentfaces.preprocessing.sources.zip import Zip
from latentfaces.preprocessing.untrusted import FORMATS

logger = logging.getLogger(__name__)

_BITS = bytes.maketrans(b"01", b"\0\1")


class Images(Protocol):
    """Images that lie together: made from their location, and small, since every worker gets a copy.

    Each kind is a file of its own in this folder, and an entry of `ARCHIVES`.
    """

    def entries(self) -> Iterable[tuple[str, Any]]:
        """Names of all files, each with its place, in the order in which they are read best.

        A place is whatever `read` needs to find the file; plain JSON, for it goes into the plan. What is
        known to be unreadable has a `RefusedImage` in its place; labels or a partition in a form of their own
        stand among them as if they were one of CelebA's lists, with `celeba.Lines` in its place.
        """

    def read(self, places: Iterable[Any]) -> Iterator[bytes | RefusedImage]:
        """Reads the files at some places, in their order; one that cannot be read comes as the reason.

        A storage service that fails is an error of the job, to be tried again, and no reason to refuse.
        """

    def stamps(self) -> Iterable[tuple[str, Any]]:
        """Names of the files that it consists of, each with what is another when its content is.

        Plain JSON, known from a listing; see `latentfaces.preprocessing.fingerprint`.
        """


Kind = Callable[[str], Images]

ARCHIVES: dict[str, Kind] = {".zip": Zip, ".npz": Npz, **dict.fromkeys(tar.ENDINGS, Tar), ".parquet": Parquet}
"""Kinds of archives by the ending of their names."""

# By which files of other names are known, and of which files alone a folder may consist
_BEGINNINGS: dict[bytes, Kind] = {b"PK\3\4": Zip, b"PAR1": Parquet, **dict.fromkeys(tar.COMPRESSIONS, Tar)}
_FOLDERS: dict[str, Kind] = {
    **dict.fromkeys(tar.ENDINGS, Tar),
    ".parquet": Parquet,
    **dict.fromkeys(idx.ENDINGS, Idx),
}


class Image(NamedTuple):
    """One input: its name, its labels (bit i is attribute i; None without) and where it lies."""

    name: str
    labels: int | None
    place: Any

    def attributes(self, count: int) -> bytes | None:
        """The labels spread out: one byte, 0 or 1, for each of `count` attributes."""
        if self.labels is None:
            return None
        return f"{self.labels:0{count}b}"[::-1].encode().translate(_BITS)


@dataclass(frozen=True)
class Source:
    """What was found.

    Attributes:
        images: Reads the images.
        attribute_names: Names of the labels; empty without.
        splits: The inputs of `train`, `valid` and `test`, in the order in which they are read best; where
            folders are labels, by their names' SHA-256, so that the first of a split are of all classes.
        refused: (name, reason) of what cannot be used, without opening an image.
    """

    images: Images
    attribute_names: tuple[str, ...]
    splits: Mapping[str, list[Image]]
    refused: list[tuple[str, str]]


def find(source: str, attributes: str = "", partition: str = "", labels: str = "lists") -> Source:
    """Looks through a source.

    Images are taken from `img_align_celeba` or an archive of this name, in `source` or in its `Img`, where
    there is one, else from `source` itself, with all folders below; from an archive that has one
    `img_align_celeba`, they are those in it. Labels and partition are looked for beside the images, in an
    archive too, one folder up, further up as long as the folder is one of CelebA's, and in `Anno` and `Eval`
    of these. Without a partition, 80 % of the names go to train and 10 % each to valid and test, by their
    SHA-256: an image keeps its split when others come or go.

    With labels (or a partition), an image that they do not list is refused. A line without an image is not:
    who takes some of CelebA's images keeps its lists; how many there are is told.

    Args:
        source: Folder or archive, local or `gs://`.
        attributes: Label file in CelebA's `.txt` or `.csv` form, instead of one found.
        partition: Partition file, likewise.
        labels: "lists" as above; or "folders": no list of labels is looked for, each folder below the one
            that holds all images is a class, and an image in none of them is refused.

    Raises:
        UserError: The source is missing, is empty, or its labels or partition cannot be understood.
    """
    location, images, folders = _locate(source)
    shown = printable(str(location))
    try:
        entries = [(name, place) for name, place in images.entries() if is_input(name)]
    except OSError as error:
        unread = printable(str(error.filename or location))
        raise UserError(f"{unread} cannot be read: {error.strerror}") from None
    is_folder = isinstance(images, Folder)
    inside = {} if is_folder else dict(entries)
    prefix = celeba.images_folder(inside)

    def find_lines(
        named: str, usual: tuple[str, ...], read: Callable[[celeba.List], Any]
    ) -> celeba.Lines | None:
        for path in () if named else celeba.list_paths(prefix, usual):
            if isinstance(place := inside.get(path), celeba.Lines):
                return place
            if place is not None:
                content = _read_inside(images, place, f"{shown}/{printable(path)}")
                return celeba.Lines(content.path, functools.partial(read, content))
        if not (file := celeba.find_list(named, usual, folders)):
            return None
        return celeba.Lines(printable(str(file)), lambda: read(celeba.read_list(file)))

    by_folder = labels == "folders"
    attribute_list = None
    if not by_folder:
        attribute_list = find_lines(attributes, celeba.ATTRIBUTE_FILES, celeba.read_attributes)
    partition_list = find_lines(partition, celeba.PARTITION_FILES, celeba.read_partition)

    if is_folder:
        for file in (storage.resolve(named) for named in (attributes, partition) if named):
            entries = [each for each in entries if not _is_same(location, each[1], file)]
    entries = _inputs(entries, prefix, shown)
    found = {name for name, _ in entries}

    attribute_names: tuple[str, ...] = ()
    labelled: Mapping[str, int] = {}
    if by_folder:
        usable = [name for name, place in entries if not isinstance(place, RefusedImage)]
        attribute_names, labelled = _labels_by_folder(usable, shown)
    elif attribute_list:
        attribute_names, labelled = attribute_list.read()
        labelled = celeba.match(labelled, found)
    parts = celeba.match(partition_list.read(), found) if partition_list else {}
    _tell_lists(shown, attribute_names, attribute_list, partition_list)
    files = ((attribute_list, labelled), (partition_list, parts))
    lists = [(file.name, lines) for file, lines in files if file]

    splits: dict[str, list[Image]] = {split: [] for split in SPLITS}
    refused = []
    for name, place in entries:
        if isinstance(place, RefusedImage):
            refused.append((name, str(place)))
        elif missing := [file for file, lines in lists if name not in lines]:
            refused.append((name, f"no line in {missing[0]}"))
        elif by_folder and name not in labelled:
            refused.append((name, "in no folder of a class, and folders are the labels"))
        else:
            split = SPLITS[parts[name]] if partition_list else hash_split(name)
            splits[split].append(Image(name, labelled.get(name), place))
    if by_folder:
        for images_of_split in splits.values():
            images_of_split.sort(key=lambda image: name_digest(image.name))
    for listing, lines in lists:
        if absent := lines.keys() - found:
            first = printable(min(absent)[:200])
            logger.warning("%s lists %d images that are not there, as %s", listing, len(absent), first)
    return Source(images, attribute_names, splits, refused)


def stamps(source: str, attributes: str = "", partition: str = "") -> list[Any]:
    """Returns what another content of a source would change, without reading an image.

    Args:
        source: Folder or archive, local or `gs://`.
        attributes: Label file, instead of one found.
        partition: Partition file, likewise.

    Returns:
        The sorted stamps of the images, and the stamps of the label and the partition file; where there are
        images that only a package reads, that it is installed.

    Raises:
        UserError: The source is missing or cannot be read.
    """
    _, images, folders = _locate(source)
    found = sorted(
        (name, stamp) for name, stamp in images.stamps() if is_input(name) and not kind_beside(name)
    )
    lists = []
    for named, usual in ((attributes, celeba.ATTRIBUTE_FILES), (partition, celeba.PARTITION_FILES)):
        file = celeba.find_list(named, usual, folders)
        lists.append([file.name, *storage.stamp(file)[:2]] if file else None)
    has_heif = "HEIF" in FORMATS and any(name.lower().endswith((".heic", ".heif")) for name, _ in found)
    return [found, *lists, *["HEIF"] * has_heif]


def _locate(source: str) -> tuple[AnyPath, Images, list[AnyPath]]:
    """Finds the folder or archive of the images, what reads it, and the folders where lists may be."""
    root, shown = storage.resolve(source), printable(str(source))
    if isinstance(root, Path) and root.name in ("", ".."):
        root = root.resolve()  # whose name tells whether it is one of CelebA's
    try:
        if storage.is_file(root):
            location, folders = root, celeba.upwards(root.parent)
        elif _by_ending(root.name, ARCHIVES):
            raise UserError(f"there is no file {shown}: correct the source")
        elif storage.is_folder(root):
            location, folders = celeba.locate(root, ARCHIVES)
        else:
            raise UserError(f"the source {shown} does not exist: name {SOURCES}")
        kind = _by_ending(location.name, ARCHIVES)
        if not kind:
            kind = _kind_of_file(location) if storage.is_file(location) else _kind_of_folder(location)
    except OSError as error:
        raise UserError(f"the source {shown} cannot be read: {error.strerror}") from None
    if not kind:
        raise UserError(
            f"the source {shown} is not a folder or an archive that is read: name {SOURCES}; of a single "
            "photograph, the folder that it lies in"
        )
    return location, kind(str(location)), folders


def _by_ending(name: str, kinds: Mapping[str, Kind]) -> Kind | None:
    return next((kind for ending, kind in kinds.items() if name.lower().endswith(ending)), None)


def _kind_of_file(file: AnyPath) -> Kind | None:
    """What reads a file whose name does not tell what it is."""
    beginning = storage.read(file, length=512)
    if beginning[257:262] == b"ustar":
        return Tar
    return next((kind for sign, kind in _BEGINNINGS.items() if beginning.startswith(sign)), None)


def _kind_of_folder(folder: AnyPath) -> Kind:
    """What reads a folder: if all inputs in it are archives of one kind, that."""
    found: Kind | None = None
    for name in storage.list_files(folder):
        if is_input(name) and not kind_beside(name) and not name.lower().endswith(".md"):
            kind = _by_ending(name, _FOLDERS)
            if not kind or found not in (None, kind):
                return Folder
            found = kind
    return found or Folder


def _inputs(entries: list[tuple[str, Any]], prefix: str, shown: str) -> list[tuple[str, Any]]:
    """Those of a source's entries that are inputs, by names below the images' folder; others are told."""
    entries = [each for each in entries if each[0].rsplit("/", 1)[-1] not in celeba.LISTS]
    if outside := sum(not name.startswith(prefix) for name, _ in entries):
        logger.warning("%s: %d files that are not in %s are no inputs", shown, outside, printable(prefix))
    entries = [(name.removeprefix(prefix), place) for name, place in entries if name.startswith(prefix)]
    if kinds := Counter(filter(None, (kind_beside(name) for name, _ in entries))):
        told = ", ".join(f"{times:,} {kind}" for kind, times in sorted(kinds.items()))
        logger.info("%s: files beside the images are no inputs: %s", shown, told)
    entries = [(name, place) for name, place in entries if not kind_beside(name)]
    if not entries:
        raise UserError(f"{shown} has no images in it: name as the source {SOURCES}")
    if twice := [name for name, times in Counter(name for name, _ in entries).items() if times > 1]:
        raise UserError(
            f"{shown} has two entries named '{printable(twice[0])}': names have to be unique, rename one"
        )
    return entries


def _tell_lists(
    shown: str, attribute_names: tuple[str, ...], labels: celeba.Lines | None, partition: celeba.Lines | None
) -> None:
    """Tells in one line where labels and partition are from; without a list, the labels are folders."""
    names = textwrap.shorten(", ".join(attribute_names), 120, placeholder=" …")
    told = (
        f"labels from {labels.path if labels else 'its folders'}: {names}"
        if names
        else "no labels were found"
    )
    split = f"partition from {partition.path}" if partition else "no partition: split by hash of the names"
    is_whole = attribute_names and partition
    logger.log(logging.INFO if is_whole else logging.WARNING, "%s: %s; %s", shown, told, split)


def _labels_by_folder(names: Iterable[str], shown: str) -> tuple[tuple[str, ...], dict[str, int]]:
    """The classes that folders are, and of each image in one of them a number whose bit i is class i."""
    folders = {name: name.split("/")[:-1] for name in names}
    depth = len(os.path.commonprefix([path for path in folders.values() if path]))
    classes = {name: path[depth] for name, path in folders.items() if len(path) > depth}
    found = sorted(set(classes.values()))
    if not 2 <= len(found) <= celeba.MOST_CLASSES:
        raise UserError(
            f"{shown} has images in {len(found)} folders beside one another, and folders can be labels where "
            f"there are 2 to {celeba.MOST_CLASSES}: give each class a folder, or leave out --labels folders"
        )
    try:
        check_attribute_names(found)
    except ValueError as error:
        raise UserError(f"the folders of {shown} cannot be labels, {error}: rename them") from None
    bits = {each: 1 << position for position, each in enumerate(found)}
    return tuple(found), {name: bits[each] for name, each in classes.items()}


def _read_inside(images: Images, place: Any, path: str) -> celeba.List:
    """Reads a list that lies among the images of an archive."""
    content = place if isinstance(place, RefusedImage) else next(iter(images.read([place])))
    if isinstance(content, RefusedImage):
        raise UserError(f"{path} cannot be read, {content}: make the archive anew")
    return celeba.List(path, content)


def _is_same(folder: AnyPath, place: Any, file: AnyPath) -> bool:
    """Whether what lies at a place in a folder is that file, however it was named."""
    if isinstance(place, RefusedImage):
        return False
    path = storage.join(folder, place)
    try:
        return os.path.samefile(path, file) if isinstance(path, Path) else str(path) == str(file)
    except OSError:
        return False
