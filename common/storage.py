"""Local folders and `gs://` buckets behind one path object, with the few operations a large job needs."""

import errno
import functools
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import requests
from cloudpathlib import GSClient, GSPath
from cloudpathlib.enums import FileCacheMode
from google.api_core import exceptions as google_exceptions
from google.auth import exceptions as auth_exceptions
from google.cloud.storage import Blob, Client
from google.cloud.storage.retry import DEFAULT_RETRY

from latentfaces.common.errors import UserError

AnyPath = Path | GSPath

# A stalled connection counts as lost after this many seconds (connect, read) and the request is tried again,
# for up to three minutes. Every write is of a whole object, so repeating one is safe.
TIMEOUT = (5.0, float(os.environ.get("LATENTFACES_STORAGE_TIMEOUT", "30")))
RETRY = DEFAULT_RETRY.with_delay(initial=0.2, maximum=10.0).with_timeout(180.0)

SEQUENTIAL_READ = 16 << 20  # bytes asked for at once when a long object is read from a bucket

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
        UserError: The scheme is neither local nor `gs://`, or the bucket does not exist or cannot be read
            (asked once per bucket and process).
    """
    if isinstance(uri, GSPath):
        _require_bucket(uri.bucket)
        return uri
    if isinstance(uri, Path):
        return uri
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
    return Path(uri).expanduser()


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
            raise OSError(errno.EINVAL, "not a regular file", str(path))
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


def publish(local_file: Path, target: AnyPath) -> None:
    """Moves a finished local file to `target`: readers see the old content or the new, never a part.

    Locally `local_file` must be on the target's file system.
    """
    if isinstance(target, Path):
        os.replace(local_file, target)
    else:
        _blob(target).upload_from_filename(
            str(local_file), content_type="application/octet-stream", timeout=TIMEOUT, retry=RETRY
        )
        local_file.unlink()


def write(target: AnyPath, data: bytes) -> None:
    """Writes a small file, all or nothing."""
    if isinstance(target, Path):
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o666 & ~_umask())
            os.replace(name, target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    else:
        _blob(target).upload_from_string(
            data, content_type="application/octet-stream", timeout=TIMEOUT, retry=RETRY
        )


@functools.cache
def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def list_files(folder: AnyPath) -> Iterator[str]:
    """Yields the names of all files below `folder`, relative to it, with forward slashes, in no set order.

    Links to files are followed, links to folders are not, so that a loop cannot be entered.
    """
    if isinstance(folder, Path):
        for parent, _, names in os.walk(folder):
            relative = Path(parent).relative_to(folder)
            prefix = "" if relative == Path() else relative.as_posix() + "/"
            for name in names:
                yield prefix + name
    else:
        prefix = folder.blob.rstrip("/") + "/" if folder.blob else ""
        blobs = _client().client.list_blobs(
            folder.bucket, prefix=prefix, fields="items(name),nextPageToken", timeout=TIMEOUT, retry=RETRY
        )
        for blob in blobs:
            if not blob.name.endswith("/"):  # what some tools store in place of a folder
                yield blob.name[len(prefix) :]


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


def delete(path: AnyPath) -> None:
    """Deletes a file if it is there."""
    if isinstance(path, Path):
        path.unlink(missing_ok=True)
    else:
        try:
            _blob(path).delete(timeout=TIMEOUT, retry=RETRY)
        except google_exceptions.NotFound:
            pass


def check_writable(output: str) -> None:
    """Checks that a folder is there or can be made.

    Args:
        output: local or `gs://`.

    Raises:
        UserError: if its bucket does not exist, or the local folder can't be written.
    """
    folder = resolve(output)
    if isinstance(folder, Path):
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
