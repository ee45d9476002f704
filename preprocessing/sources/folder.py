"""A folder of images, local or in a bucket."""

import errno
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from latentfaces.common import storage
from latentfaces.common.storage import AnyPath
from latentfaces.preprocessing.resize import MAX_FILE_BYTES, RefusedImage

_READS_AHEAD = 16
# The file's own fault, where any other error is the storage's and the shard has to be tried again.
_UNREADABLE = {
    getattr(errno, name) for name in "ENOENT EACCES EPERM EISDIR ENOTDIR EINVAL ELOOP ENXIO".split()
}


@dataclass(frozen=True)
class Folder:
    """A folder with all folders below; an image's place is its name."""

    location: str

    def entries(self) -> list[tuple[str, str]]:
        """All files below the folder, by name."""
        return [(name, name) for name in sorted(storage.list_files(storage.resolve(self.location)))]

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
                    ahead.append(pool.submit(_read_file, folder / place))
                    if len(ahead) == _READS_AHEAD:
                        yield ahead.popleft().result()
                for future in ahead:
                    yield future.result()


def _read_file(path: AnyPath | str) -> bytes | RefusedImage:
    try:
        return storage.read(path, length=MAX_FILE_BYTES + 1)
    except OSError as error:
        if error.errno not in _UNREADABLE:
            raise
        return RefusedImage(f"unreadable file: {error.strerror}")
