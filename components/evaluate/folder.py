"""The evaluation's folder: an earlier evaluation stays whole until a new one takes its place.

A new one is first written in one piece, as `.new.zip`; from then on it is the one that counts. The earlier
one's files then go, the new ones are put in their places, `metrics.json` last, and until then there is none.
What is stopped meanwhile leaves `.new.zip` behind, and the next evaluation into that folder begins by
finishing it.

`metrics.json` lists the files and their checksums. It may be a stranger's: of what it lists, only that goes
which has a name that we give, and still is what it was.
"""

import base64
import contextlib
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping

from google.api_core.exceptions import GoogleAPIError

from latentfaces.common import storage
from latentfaces.common.errors import RunError, UserError
from latentfaces.common.lease import Lease
from latentfaces.common.storage import AnyPath

NEW, MARK, REPORT = ".new.zip", "metrics.json", "report.html"
_EARLIER = "earlier.json"  # in `.new.zip`: the list of the evaluation that goes
_OURS = re.compile(r"metrics\.json|report\.html|concepts\.npz|grids/[\w-]+\.(png|webp|gif)")
_SIGNS = {REPORT: "<title>Evaluation – latentfaces</title>".encode(), MARK: b'"held_out": {'}


def checksums(files: Mapping[str, bytes]) -> dict[str, str]:
    """Returns the SHA-256 of each file, in hexadecimal, by its name: `files` in `metrics.json`."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def claim(folder: AnyPath, lease: Lease) -> None:
    """Finishes what an evaluation was stopped at, and checks that nothing else is in the places of its files.

    Raises:
        UserError: if there are files that no evaluation wrote.
        RunError: if the folder can't be read or written.
    """
    with _told(folder):
        with contextlib.suppress(FileNotFoundError):
            files = _unpack(folder / NEW)
            earlier = _listed(files.pop(_EARLIER, b""))
            _put(folder, files, _earlier(folder) if earlier is None else earlier, lease)
        for name, sign in _SIGNS.items():
            with contextlib.suppress(FileNotFoundError):
                if sign not in storage.read(folder / name, 0, 1000):
                    raise UserError(f"{folder / name} is not an evaluation's: choose another output")


def replace(folder: AnyPath, files: Mapping[str, bytes], lease: Lease) -> None:
    """Puts a new evaluation in the place of an earlier one.

    Args:
        folder: local or in a bucket.
        files: by name, `metrics.json` among them.
        lease: on the folder.

    Raises:
        RunError: if they can't be written.
    """
    with _told(folder):
        lease.check()
        earlier = _earlier(folder)
        storage.write(folder / NEW, _pack({**files, _EARLIER: json.dumps({"files": earlier}).encode()}))
        _put(folder, files, earlier, lease)


def _put(folder: AnyPath, files: Mapping[str, bytes], earlier: Mapping[str, str], lease: Lease) -> None:
    def remove(name: str) -> None:
        lease.check()
        if _checksum(folder, name) == earlier[name]:
            storage.delete(folder / name)

    def write(name: str) -> None:
        lease.check()
        storage.write(folder / name, files[name])

    lease.check()
    storage.delete(folder / MARK)
    storage.for_all(folder, remove, earlier.keys() - files.keys())
    storage.for_all(folder, write, files.keys() - {MARK})
    write(MARK)
    storage.delete(folder / NEW)


def _checksum(folder: AnyPath, name: str) -> str | None:
    """Returns the SHA-256 of what lies under a name that may be ours, or None."""
    with contextlib.suppress(OSError):  # what can't be read is someone else's
        if _OURS.fullmatch(name):
            return hashlib.sha256(storage.read(folder / name)).hexdigest()
    return None


def _earlier(folder: AnyPath) -> dict[str, str]:
    """Returns the list of the evaluation in the folder."""
    with contextlib.suppress(FileNotFoundError):
        if (listed := _listed(storage.read(folder / MARK))) is not None:
            return listed
    return _shown(folder)


def _listed(metrics: bytes) -> dict[str, str] | None:
    """Returns the list in a `metrics.json`, or None where there is none that can be read."""
    try:
        return {name: str(checksum) for name, checksum in json.loads(metrics)["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _shown(folder: AnyPath) -> dict[str, str]:
    """Returns as a list the pictures that the report shows: evaluations had none at first."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        shown = re.findall(rb'base64,([^"]+)"', storage.read(folder / REPORT))
        known = {hashlib.sha256(base64.b64decode(each)).hexdigest() for each in shown}
        names = [f"grids/{name}" for name in storage.list_files(folder / "grids")]
        return {name: found for name in names if (found := _checksum(folder, name)) and found in known}
    return {}


def _pack(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _unpack(path: AnyPath) -> dict[str, bytes]:
    data = storage.read(path)
    # damaged bytes make the module raise many kinds
    with contextlib.suppress(Exception), zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        names = {member.filename for member in members}
        if (
            MARK in names
            and all(map(_OURS.fullmatch, names - {_EARLIER}))
            and sum(member.file_size for member in members) <= len(data)  # nothing is compressed
        ):
            return {name: archive.read(name) for name in names}
    raise UserError(f"{path} is not an evaluation's: remove it, or choose another output")


@contextlib.contextmanager
def _told(folder: AnyPath) -> Iterator[None]:
    try:
        yield
    except (OSError, GoogleAPIError) as error:
        raise RunError(f"{folder} can't be written ({error}): make room, and evaluate again") from error
