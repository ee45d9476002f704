"""Local folders and `gs://` buckets behind one path object, with the few operations a large job needs."""

import base64
import contextlib
import errno
import functools
import io
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import google_crc32c
import requests
from cloudpathlib import GSClient, GSPath
from cloudpathlib.enums import FileCacheMode
from google.api_core import exceptions as google_exceptions
from google.api_core.retry import Retry
from google.auth import exceptions as auth_exceptions
from google.cloud.storage import Blob, Client
from google.cloud.storage.exceptions import DataCorruption
from google.cloud.storage.retry import DEFAULT_RETRY

from latentfaces.common.errors import UserError

AnyPath = Path | GSPath

# A stalled connection counts as lost after this many seconds (connect, read) and the request is tried again,
# for up to three minutes. Every write is of a whole object, so repeating one is safe.
TIMEOUT = (5.0, float(os.environ.get("LATENTFACES_STORAGE_TIMEOUT", "30")))
RETRY = DEFAULT_RETRY.with_delay(initial=0.2, maximum=10.0).with_timeout(180.0)

SEQUENTIAL_READ = 16 << 20  # bytes asked for at once when a long object is read from a bucket

_AT_ONCE = 16  # requests to a bucket
_UPLOADS = 3  # of one object that is damaged on its way

# As which kind a browser gets an object of a bucket; everything else is bytes. So are `.keras` and `.npz`,
# although they are zip files inside: some browsers unpack what comes as one.
_CONTENT_TYPES = {
    ".csv": "text/csv; charset=utf-8",
    ".gif": "image/gif",
    ".html": "text/html; charset=utf-8",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".png": "image/png",
    ".txt": "text/plain; charset=utf-8",
    ".webp": "image/webp",
    ".zip": "application/zip",
}

# For how long a copy in a browser or a proxy is good: where nothing is said, that of a public object for an
# hour. But nearly all files are replaced in place, and a report must go with its numbers: so the service is
# asked each time whether a copy is still good. Only a shard that is named by its content never changes; it is
# "private", for the browser and for no proxy that others use, since it holds people's faces.
_REPLACEABLE, _LASTING = "no-cache", "private, max-age=31536000, immutable"
_NAMED_BY_CONTENT = re.compile(r"[a-z]+-[0-9a-f]{16}-\d+-of-\d+\.tfrecord|.+-[0-9a-f]{16}\.tfrecord")

_UNREACHABLE = (google_exceptions.RetryError, requests.ConnectionError, auth_exceptions.TransportError)


@functools.cache
def _client() -> GSClient:
    """The process's client: default credentials, or anonymous where there are none."""
    options = {"file_cache_mode": FileCacheMode.close_file, "timeout": TIMEOUT, "retry": RETRY}
    if os.environ.get("STORAGE_EMULATOR_HOST"):
        return GSClient(storage_client=Client.create_anonymous_client(), **options)
    return GSClient(**options)


@functools.cache
def _require_bucket(name: str) -> None:
    try:
        next(iter(_client().client.list_blobs(name, max_results=1, timeout=TIMEOUT, retry=RETRY)), None)
    except google_exceptions.NotFound:
        raise UserError(f"there is no bucket gs://{name}: create it, or correct the name") from None
    except (google_exceptions.Forbidden, google_exceptions.Unauthorized) as error:
        raise UserError(f"no access to the bucket gs://{name}: {error.message}") from None
    except _UNREACHABLE as error:
        raise UserError(f"the storage service for gs://{name} cannot be reached: {error}") from None


def forget_connections() -> None:
    """Forgets the client and what is known of buckets, for when the environment names another server."""
    _client.cache_clear()
    _require_bucket.cache_clear()


def resolve(uri: str | AnyPath) -> AnyPath:
    """Turns a URI into a path object.

    `STORAGE_EMULATOR_HOST` is honoured; without credentials, buckets are read anonymously.

    Args:
        uri: A local path, or `gs://bucket/path`.

    Returns:
        A `pathlib.Path`, or a `cloudpathlib.GSPath`, which has the same methods.

    Raises:
        UserError: The scheme is neither local nor `gs://`, the bucket does not exist or cannot be read (asked
            once per bucket and process), or `~` is no one's home.
    """
    if isinstance(uri, GSPath):
        _require_bucket(uri.bucket)
        return uri
    if isinstance(uri, Path):
        return _expand(uri)
    uri = str(uri)
    if uri.startswith("gs://"):
        path = _client().CloudPath(uri)
        if not path.bucket:
            raise UserError(f"{uri} names no bucket: write gs://bucket/path")
        _require_bucket(path.bucket)
        return path
    if uri.startswith("file://"):
        return Path(uri.removeprefix("file://"))
    if "://" in uri:
        raise UserError(f"{uri} cannot be read: use a local path or gs://bucket/path")
    return _expand(Path(uri))


def _expand(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:
        raise UserError(f"{path} names no one's home folder: write the path from / on") from None


def _blob(path: GSPath, chunk_size: int | None = None) -> Blob:
    return _client().client.bucket(path.bucket).blob(path.blob, chunk_size=chunk_size)


def read(path: AnyPath | str, start: int = 0, length: int | None = None) -> bytes:
    """Reads a file, or `length` bytes of it from byte `start`, in one request.

    A local path may be text, which spares a hot loop the making of path objects.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: It cannot be read, or is a device or a pipe.
    """
    if isinstance(path, Path | str):
        return _read_local(path, start, length)
    if length == 0:
        return b""
    end = None if length is None else start + length - 1
    try:
        return _blob(path).download_as_bytes(start=start or None, end=end, timeout=TIMEOUT, retry=RETRY)
    except google_exceptions.NotFound:
        raise FileNotFoundError(errno.ENOENT, "no such object", str(path)) from None
    except google_exceptions.RequestRangeNotSatisfiable:  # nothing from byte `start` on
        return b""


def _read_local(path: Path | str, start: int, length: int | None) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe must not wait for a writer
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.EINVAL
            raise OSError(kind, "not a regular file", str(path))
        rest = max(0, status.st_size - start)
        wanted = rest if length is None else min(length, rest)
        data = os.pread(descriptor, wanted, start)
        while len(data) < wanted and (more := os.pread(descriptor, wanted - len(data), start + len(data))):
            data += more
        return data
    finally:
        os.close(descriptor)


def open_for_reading(path: AnyPath) -> BinaryIO:
    """Opens a file for seeking and long sequential reads; a bucket is read in pieces of 16 MiB."""
    if isinstance(path, Path):
        return path.open("rb", buffering=1 << 20)
    return _blob(path).open("rb", chunk_size=SEQUENTIAL_READ, timeout=TIMEOUT, retry=RETRY)


def _described(target: GSPath) -> Blob:
    """Returns an object that is to be written, with what browsers and caches are to know of it."""
    blob = _blob(target)
    blob.content_type = _CONTENT_TYPES.get(target.suffix.lower(), "application/octet-stream")
    blob.cache_control = _LASTING if _NAMED_BY_CONTENT.fullmatch(target.name) else _REPLACEABLE
    return blob


def _upload(
    target: GSPath, file: BinaryIO, generation: int | None = None, writer: str = "", retry: Retry = RETRY
) -> Blob:
    """Writes an object that holds what the file does.

    The client sends a checksum along. What was damaged on its way is refused by the service (400) and sent
    again, as is a long upload of which the service has lost track (404, 410). What the service then says that
    it holds is compared, too.

    Raises:
        google.api_core.exceptions.GoogleAPICallError: It was refused.
        OSError: The service holds something else.
    """
    sums = google_crc32c.Checksum()
    size = sum(len(piece) for piece in sums.consume(file, 1 << 20))
    checksum = base64.b64encode(sums.digest()).decode()
    damaged = OSError(errno.EIO, "it was damaged on its way to the storage service", str(target))
    for left in reversed(range(_UPLOADS)):
        blob = _described(target)
        if writer:
            blob.metadata = {"writer": writer}
        try:
            blob.upload_from_file(
                file,
                rewind=True,
                size=size,
                checksum="crc32c",
                crc32c_checksum_value=checksum,
                if_generation_match=generation,
                timeout=TIMEOUT,
                retry=retry,
            )
            break
        except google_exceptions.ClientError as error:
            if not left or error.code not in (400, 404, 410):
                raise
        except DataCorruption as error:
            raise damaged from error
    if (blob.size, blob.crc32c) != (size, checksum):
        raise damaged
    return blob


def publish(local_file: Path, target: AnyPath, *, lasting: bool = True) -> None:
    """Moves a finished local file to `target`: readers see the old content or the new, never a part.

    Args:
        local_file: locally, it must be on the target's file system.
        target: local or in a bucket.
        lasting: whether it has to be there after a power cut; that takes a local disk some time.
    """
    if isinstance(target, Path):
        if lasting:
            sync(local_file)
        os.replace(local_file, target)
        if lasting:
            sync(target.parent)
    else:
        with local_file.open("rb") as file:
            _upload(target, file)
        local_file.unlink()


@contextlib.contextmanager
def writing(target: AnyPath) -> Iterator[BinaryIO]:
    """Yields a new local file for what is too large for `write`; if the block ends well, it becomes `target`.

    All or nothing, and it is still there after a power cut.
    """
    folder = None
    if isinstance(target, Path):
        folder = target.parent
        folder.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        os.chmod(name, 0o666 & ~_umask())
        publish(Path(name), target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write(target: AnyPath, data: bytes) -> None:
    """Writes a small file, all or nothing; it is still there after a power cut."""
    if isinstance(target, Path):
        with writing(target) as file:
            file.write(data)
    else:
        _upload(target, io.BytesIO(data))


def move(source: AnyPath, target: AnyPath) -> None:
    """Gives a file its place in the same file system or service; in a bucket the source stays, too.

    Locally, `sync` of the target's folder makes that last through a power cut.

    Raises:
        FileNotFoundError: There is no such file.
    """
    if not (isinstance(source, GSPath) and isinstance(target, GSPath)):
        os.replace(source, target)
        return
    blob, old = _described(target), _blob(source)  # of the old one's description, nothing would be kept
    try:
        token, _, _ = blob.rewrite(old, timeout=TIMEOUT, retry=RETRY)
        while token:
            token, _, _ = blob.rewrite(old, token=token, timeout=TIMEOUT, retry=RETRY)
    except google_exceptions.NotFound:
        raise FileNotFoundError(errno.ENOENT, "no such object", str(source)) from None


def sync(path: AnyPath) -> None:
    """Makes a file's content, or the names in a folder, last through a power cut; in a bucket they do."""
    if not isinstance(path, Path):
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # network file systems don't sync folders
            raise
    finally:
        os.close(descriptor)


class ChangedError(Exception):
    """An object of a bucket is not, or no longer, of the generation that the caller had seen."""


class Version(NamedTuple):
    """An object's state in a bucket: its generation, when it was written (by the service), and by whom."""

    generation: int
    updated: datetime
    writer: str


def version(path: GSPath) -> Version | None:
    """Returns the state of an object in a bucket, or None where there is none."""
    blob = _blob(path)
    try:
        blob.reload(timeout=TIMEOUT, retry=RETRY)
    except google_exceptions.NotFound:
        return None
    return _version(blob)


def _version(blob: Blob) -> Version:
    return Version(int(blob.generation), blob.updated, (blob.metadata or {}).get("writer", ""))


def replace(
    path: GSPath, data: bytes, generation: int | None, writer: str, seconds: float = 180.0
) -> Version:
    """Writes an object of a bucket if it still is of the generation that one has seen.

    Args:
        path: the object.
        data: what it is to hold.
        generation: its present one; 0 where there must be no such object, None to write in any case.
        writer: a name that no one else has; it is kept with the object, in its metadata.
        seconds: for how long a service that fails is asked again.

    Raises:
        ChangedError: the object is of another generation.
    """
    try:
        blob = _upload(path, io.BytesIO(data), generation, writer, RETRY.with_timeout(seconds))
    except google_exceptions.PreconditionFailed:
        # If an answer was lost, the second try meets what the first has written.
        if (found := version(path)) and found.writer == writer and found.generation != generation:
            return found
        raise ChangedError(str(path)) from None
    return _version(blob)


def for_all(folder: AnyPath, do: Callable[[str], None], names: Iterable[str]) -> None:
    """Calls a function for each name; in a bucket, where a request takes long, for several at a time."""
    if isinstance(folder, Path):
        for name in names:
            do(name)
        return
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        try:
            list(pool.map(do, names))
        finally:
            pool.shutdown(cancel_futures=True)


@functools.cache
def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def list_files(folder: AnyPath) -> Iterator[str]:
    """Yields the names of all files below `folder`, relative to it, with forward slashes, in no set order.

    Links to files are followed, links to folders are not, so that a loop cannot be entered. `join` makes a
    path of a name.
    """
    if isinstance(folder, Path):
        for parent, _, names in os.walk(folder):
            relative = Path(parent).relative_to(folder)
            prefix = "" if relative == Path() else relative.as_posix() + "/"
            for name in names:
                yield prefix + name
    else:
        for name, _ in _list_blobs(folder, "name"):
            yield name


def _list_blobs(folder: GSPath, fields: str) -> Iterator[tuple[str, Blob]]:
    """Yields the objects below a folder, each with its name relative to that."""
    prefix = folder.blob.rstrip("/") + "/" if folder.blob else ""
    blobs = _client().client.list_blobs(
        folder.bucket, prefix=prefix, fields=f"items({fields}),nextPageToken", timeout=TIMEOUT, retry=RETRY
    )
    for blob in blobs:
        if not blob.name.endswith("/"):  # what some tools store in place of a folder
            yield blob.name[len(prefix) :], blob


class Stamp(NamedTuple):
    """What a file's content is known by without reading it.

    Attributes:
        size: in bytes.
        mark: its CRC-32C in a bucket; on a file system, when it was written, in nanoseconds.
        written: when it was written, in seconds since 1970.
    """

    size: int
    mark: str
    written: float


def stamp(path: AnyPath | str) -> Stamp:
    """Returns a file's stamp, a link's target's.

    Raises:
        OSError: There is no such file, or it cannot be looked at.
    """
    if isinstance(path, Path | str):
        return _local_stamp(os.stat(path))
    blob = _blob(path)
    try:
        blob.reload(timeout=TIMEOUT, retry=RETRY)
    except google_exceptions.NotFound:
        raise FileNotFoundError(errno.ENOENT, "no such object", str(path)) from None
    return _stamp(blob)


def _local_stamp(status: os.stat_result) -> Stamp:
    return Stamp(status.st_size, str(status.st_mtime_ns), status.st_mtime)


def _stamp(blob: Blob) -> Stamp:
    # A listing has no checksum of what is encrypted with a key of the customer's.
    return Stamp(blob.size, blob.crc32c or str(blob.generation), blob.updated.timestamp())


def list_stamps(folder: AnyPath) -> Iterator[tuple[str, Stamp]]:
    """Yields what `list_files` does, and each file's stamp, a link's own; what vanishes is left out."""
    if isinstance(folder, Path):
        for name in list_files(folder):
            with contextlib.suppress(FileNotFoundError):
                yield name, _local_stamp(os.lstat(folder / name))
    else:
        for name, blob in _list_blobs(folder, "name,size,crc32c,generation,updated"):
            yield name, _stamp(blob)


class Entry(NamedTuple):
    """What lies in a folder: its name, whether it is a folder itself, and an object's generation."""

    name: str
    is_folder: bool
    generation: int | None


def entries(folder: AnyPath) -> list[Entry]:
    """Returns what lies in a folder, not what lies in folders in it; nothing where there is no folder."""
    if isinstance(folder, Path):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as found:
            return [Entry(each.name, each.is_dir(follow_symlinks=False), None) for each in found]
        return []
    prefix = folder.blob.rstrip("/") + "/" if folder.blob else ""
    blobs = _client().client.list_blobs(
        folder.bucket,
        prefix=prefix,
        delimiter="/",
        fields="items(name,generation),prefixes,nextPageToken",
        timeout=TIMEOUT,
        retry=RETRY,
    )
    files = [Entry(blob.name[len(prefix) :], False, int(blob.generation)) for blob in blobs]
    folders = [Entry(name[len(prefix) : -1], True, None) for name in blobs.prefixes]
    return [entry for entry in (*files, *folders) if entry.name]  # some tools store an object as a folder


def join(folder: AnyPath, name: str) -> AnyPath:
    """Returns the path of a file that `list_files` names; in a bucket, names may hold `//`, `.` and `..`."""
    if isinstance(folder, Path):
        return folder / name
    return _client().CloudPath(f"{str(folder).rstrip('/')}/{name}")


def is_file(path: AnyPath) -> bool:
    """Whether there is a file of this name."""
    if isinstance(path, Path):
        return path.is_file()
    return bool(path.blob) and _blob(path).exists(timeout=TIMEOUT, retry=RETRY)


def is_folder(path: AnyPath) -> bool:
    """Whether `path` is a folder; in a bucket, whether there is anything below it."""
    if isinstance(path, Path):
        return path.is_dir()
    prefix = path.blob.rstrip("/") + "/" if path.blob else ""
    blobs = _client().client.list_blobs(
        path.bucket, prefix=prefix, max_results=1, timeout=TIMEOUT, retry=RETRY
    )
    return next(iter(blobs), None) is not None


def delete(path: AnyPath, generation: int | None = None) -> None:
    """Deletes a file if it is there and, in a bucket, of that generation where one is given."""
    if isinstance(path, Path):
        path.unlink(missing_ok=True)
    else:
        with contextlib.suppress(google_exceptions.NotFound, google_exceptions.PreconditionFailed):
            _blob(path).delete(if_generation_match=generation, timeout=TIMEOUT, retry=RETRY)


def check_writable(output: str, *, is_file: bool = False) -> None:
    """Checks that a folder is there or can be made.

    Args:
        output: local or `gs://`.
        is_file: whether the output is a file, to be written into its folder.

    Raises:
        UserError: if its bucket does not exist, the local folder can't be written, or what is to be a file is
            a folder.
    """
    folder = resolve(output)
    if isinstance(folder, Path):
        if is_file and folder.is_dir():
            raise UserError(f"the output {output} is a folder: name a file")
        folder = folder.parent if is_file else folder
        parent = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise UserError(
                f"the output {output} can't be made in {parent}: choose a folder that you may write to"
            )


def contains(folder: AnyPath, path: AnyPath) -> bool:
    """Whether `path` is `folder` or lies below it."""
    if isinstance(folder, Path) or isinstance(path, Path):
        if not (isinstance(folder, Path) and isinstance(path, Path)):
            return False
        return path.resolve().is_relative_to(folder.resolve())
    return PurePosixPath(path.bucket, path.blob).is_relative_to(PurePosixPath(folder.bucket, folder.blob))
