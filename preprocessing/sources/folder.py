"""A folder of images, local or in a bucket."""

import errno
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentfaces.common import storage
from latentfaces.common.errors import UserError
from latentfaces.common.storage import AnyPath
from latentfaces.preprocessing.resize import MAX_FILE_BYTES, RefusedImage

_SYSTEM_NAMES = {"__macosx", "thumbs.db", "desktop.ini", "@eadir"}  # in any case
# What phones, downloads and webdataset put beside images
_BESIDE = {".aae", ".cls", ".csv", ".json", ".mov", ".mp4", ".txt", ".xmp"}
_READS_AHEAD = 16
# The file's own fault, where any other error is the storage's and the shard has to be tried again.
_UNREADABLE = {
    getattr(errno, name)
    for name in "ENOENT EACCES EPERM EISDIR ENOTDIR EINVAL ELOOP ENXIO ENAMETOOLONG".split()
}


@dataclass(frozen=True)
class Folder:
    """A folder with all folders below; an image's place is its name in the file system.

    Links to files are followed. A link to a folder is refused by name: it could lead anywhere, or in circles.
    """

    location: str

    def entries(self) -> list[tuple[str, str | RefusedImage]]:
        r"""All files below the folder, by name, and the folders that cannot be looked into.

        A file name need not be UTF-8: what is not is escaped in the image's name, as in `\xff`.

        Raises:
            UserError: The folder itself cannot be read.
        """
        folder = storage.resolve(self.location)
        if not isinstance(folder, Path):
            return [(name, name) for name in sorted(storage.list_files(folder))]
        return [(as_utf8(name), place) for name, place in sorted(_walk(folder), key=lambda entry: entry[0])]

    def stamps(self) -> Iterator[tuple[str, Any]]:
        """The names of `entries`, each with what is another when the file has other content."""
        folder = storage.resolve(self.location)
        if isinstance(folder, Path):
            for name, place in self.entries():
                yield name, str(place) if isinstance(place, RefusedImage) else _stamp(f"{folder}/{place}")
        else:
            for name, stamp in storage.list_stamps(folder):
                yield name, stamp[:2]

    def read(self, places: Iterable[str]) -> Iterator[bytes | RefusedImage]:
        """Reads files; from a bucket, where a request takes tens of milliseconds, several at a time."""
        folder = storage.resolve(self.location)
        if isinstance(folder, Path):
            for place in places:
                yield _read_file(f"{folder}/{place}")
        else:
            with ThreadPoolExecutor(_READS_AHEAD) as pool:
                ahead: deque[Future[bytes | RefusedImage]] = deque()
                for place in places:
                    ahead.append(pool.submit(_read_file, storage.join(folder, place)))
                    if len(ahead) == _READS_AHEAD:
                        yield ahead.popleft().result()
                for future in ahead:
                    yield future.result()


def is_input(name: str) -> bool:
    """Whether a file is none of the operating system's, by its name below the source."""
    parts = name.split("/")
    return not any(part.lower() in _SYSTEM_NAMES or part.startswith(".") and part != ".." for part in parts)


def kind_beside(name: str) -> str:
    """Returns the ending of a file that goes with images and is none, such as ".json"; "" for any other."""
    ending = os.path.splitext(name)[1].lower()
    return ending if ending in _BESIDE else ""


def archives(location: str, endings: tuple[str, ...]) -> list[tuple[str, AnyPath]]:
    """The archives of a kind that a source consists of: itself, with no name, or those below it, by name."""
    path = storage.resolve(location)
    if not storage.is_folder(path):
        return [("", path)]
    names = (name for name in storage.list_files(path) if is_input(name) and name.lower().endswith(endings))
    return [(name, storage.join(path, name)) for name in sorted(names)]


def archive_stamps(location: str, endings: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """One stamp for each of `archives` as a whole; the name of a single one does not count."""
    for name, path in archives(location, endings):
        yield name, storage.stamp(path)[:2]


def _walk(folder: Path) -> Iterator[tuple[str, str | RefusedImage]]:
    """Names of all files below a folder, and of folders with the reason why they are not looked into."""
    pending = [""]
    while pending:
        below = pending.pop()
        try:
            with os.scandir(folder / below) as found:
                for entry in found:
                    name = below + entry.name
                    if not _is_folder(entry):
                        yield name, name
                    elif entry.is_symlink():
                        yield f"{name}/", RefusedImage("a link to a folder: put the folder itself there")
                    else:
                        pending.append(f"{name}/")
        except OSError as error:
            if error.errno not in _UNREADABLE:
                raise
            if not below:
                raise UserError(f"the source {folder} cannot be read: {error.strerror}") from None
            yield below, RefusedImage(f"unreadable folder: {error.strerror}")


def as_utf8(name: str) -> str:
    r"""A name, in which what is not UTF-8 is escaped, as in `\xff`."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _stamp(path: str) -> Any:
    try:
        return storage.stamp(path)[:2]
    except OSError as error:  # a link to nothing
        return error.strerror


def _read_file(path: AnyPath | str) -> bytes | RefusedImage:
    try:
        return storage.read(path, length=MAX_FILE_BYTES + 1)
    except OSError as error:
        if error.errno not in _UNREADABLE:
            raise
        return RefusedImage(f"unreadable file: {error.strerror}")
