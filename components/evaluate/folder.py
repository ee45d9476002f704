"""The evaluation's folder: an earlier evaluation stays whole until a new one takes its place.

A new one is first written in one piece, as `.new.zip`; from then on it is the one that counts. Its files are
then put in their places, `metrics.json` last, and until then there is none. What is stopped meanwhile leaves
`.new.zip` behind, and the next evaluation into that folder begins by finishing it.
"""

import base64
import contextlib
import io
import re
import zipfile
from collections.abc import Iterator, Mapping

from google.api_core.exceptions import GoogleAPIError

from latentfaces.common import storage
from latentfaces.common.errors import RunError, UserError
from latentfaces.common.lease import Lease
from latentfaces.common.storage import AnyPath

NEW, MARK, REPORT = ".new.zip", "metrics.json", "report.html"
_OURS = re.compile(r"metrics\.json|report\.html|concepts\.npz|grids/[\w-]+\.(png|webp|gif)")
_SIGNS = {REPORT: "<title>Evaluation – latentfaces</title>".encode(), MARK: b'"held_out": {'}


def claim(folder: AnyPath, lease: Lease) -> None:
    """Finishes what an evaluation was stopped at, and checks that nothing else is in the places of its files.

    Raises:
        UserError: if there are files that no evaluation wrote.
        RunError: if the folder can't be read or written.
    """
    with _told(folder):
        with contextlib.suppress(FileNotFoundError):
            _put(folder, _unpack(folder / NEW), lease)
        for name, sign in _SIGNS.items():
            with contextlib.suppress(FileNotFoundError):
                if sign not in storage.read(folder / name, 0, 1000):
                    raise UserError(f"{folder / name} is not an evaluation's: choose another output")


def replace(folder: AnyPath, files: Mapping[str, bytes], lease: Lease) -> None:
    """Puts a new evaluation in the place of an earlier one.

    Args:
        folder: local or in a bucket.
        files: by name; `metrics.json` last.
        lease: on the folder.

    Raises:
        RunError: if they can't be written.
    """
    with _told(folder):
        lease.check()
        storage.write(folder / NEW, _pack(files))
        _put(folder, files, lease)


def _put(folder: AnyPath, files: Mapping[str, bytes], lease: Lease) -> None:
    storage.delete(folder / MARK)
    for name in _earlier_pictures(folder):
        if name not in files:
            storage.delete(folder / name)
    for name, content in files.items():
        lease.check()
        storage.write(folder / name, content)
    storage.delete(folder / NEW)


def _earlier_pictures(folder: AnyPath) -> Iterator[str]:
    """Yields the names of the pictures that the report in the folder shows, whatever they are called."""
    with contextlib.suppress(FileNotFoundError):
        shown = set(re.findall(rb'base64,([^"]+)"', storage.read(folder / REPORT)))
        for name in [f"grids/{name}" for name in storage.list_files(folder / "grids")]:
            with contextlib.suppress(OSError):  # what can't be read is someone else's
                if _OURS.fullmatch(name) and base64.b64encode(storage.read(folder / name)) in shown:
                    yield name


def _pack(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _unpack(path: AnyPath) -> dict[str, bytes]:
    with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(io.BytesIO(storage.read(path))) as archive:
        if all(map(_OURS.fullmatch, archive.namelist())):
            return {name: archive.read(name) for name in archive.namelist()}
    raise UserError(f"{path} is not an evaluation's: remove it, or choose another output")


@contextlib.contextmanager
def _told(folder: AnyPath) -> Iterator[None]:
    try:
        yield
    except (OSError, GoogleAPIError) as error:
        raise RunError(f"{folder} can't be written ({error}): make room, and evaluate again") from error
