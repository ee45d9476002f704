"""A pipeline's root folder, where everything that its runs make lies side by side.

`datasets/<fingerprint>/` are data sets, by what they were made from; `runs/<run id>/` holds what one run
made, `vae/`, `gan/` and `evaluation/`, and `run.json`, which says from which data set; `promoted.json` says
which run's models are the ones to use. In time, runs and data sets that nothing points to are removed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from google.api_core.exceptions import GoogleAPIError

from latentfaces.common import storage
from latentfaces.common.errors import RunError, UserError, printable
from latentfaces.common.lease import Lease, hold
from latentfaces.common.models import MODELS
from latentfaces.common.storage import AnyPath

FINISHED = "promotion.json"  # what the last component of a run writes last, in the run's folder

_RUN_ID = r"[A-Za-z0-9][-A-Za-z0-9_.]{0,127}"
_FINGERPRINT = r"[0-9a-f]{32}"
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"  # as `now` writes it
_RECORD = "run.json"
_LONGEST_RECORD = 1000  # bytes

_WAIT = 600.0  # seconds for another run that removes old ones
_QUIET = 7 * 24 * 3600.0  # seconds without a new file after which a run that is not finished is given up

# What a run and a data set consist of, folders with a slash at their ends, in the order in which it is
# removed: first what makes it whole, and last what tells of it.
_MODEL = rf"({'|'.join(MODELS)})"
_CHECKPOINT = r"(\d{8,}|\.\d{8,}\.part)"
_STATE = r"(done|losses\.npy|state\.[^/]+|state_temp/part-[^/]+)"
_LEFT = r"\.lease(\.now)?|\.DS_Store"  # by who was killed, or only looked
_RUN_FILES = [
    rf"{_MODEL}/[a-z]+\.keras|evaluation/metrics\.json",
    rf"{_MODEL}/(config\.json|longer\.txt|history\.csv|samples/epoch-\d+\.png|logs/events\.out\.tfevents\.[^/]+"
    rf"|checkpoints/{_CHECKPOINT}/{_STATE})|evaluation/"
    r"(report\.html|concepts\.npz|\.new\.zip|grids/[\w-]+\.(png|webp|gif))"
    rf"|(({_MODEL}|evaluation)/([a-z]+/)?)?({_LEFT})",
    rf"{_MODEL}/((samples|logs|checkpoints)/)?|{_MODEL}/checkpoints/{_CHECKPOINT}/(state_temp/)?"
    r"|evaluation/(grids/)?",
    r"promotion\.json",
    r"run\.json",
]
_DATASET_FILES = [
    r"dataset\.json",
    r"(train|valid|test)(-[0-9a-f]{16})?-\d+-of-\d+(-[0-9a-f]{16})?\.tfrecord"
    r"|rejected(\.failed)?\.jsonl|duplicates\.jsonl|features\.json|dataset_info\.json"
    rf"|grids/crops\.png|\.job-[0-9a-f]{{32}}/[^/]+|{_LEFT}",
    r"grids/|\.job-[0-9a-f]{32}/",
]
_UNFINISHED = re.compile(r"\.([^/]+)-[a-z0-9_]{8}")  # what `storage.write` leaves of a file when it is killed

logger = logging.getLogger(__name__)


def now() -> str:
    """Returns the time in UTC as ISO 8601 writes it, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def run_folder(root: str, run_id: str) -> str:
    """Returns where one run's models and evaluation are.

    Args:
        root: the pipeline's folder, local or `gs://`.
        run_id: what Kubeflow calls the run, or a name of the user's.

    Raises:
        UserError: if that can't be a folder's name, or the root's is one that can't be joined with others.
    """
    if not re.fullmatch(_RUN_ID, run_id):
        raise UserError(f"the run {run_id[:80]!r} can't be a folder's name: use letters, digits, - and _")
    return f"{_plain(root)}/runs/{run_id}"


def dataset_folder(root: str, fingerprint: str) -> str:
    """Returns where the data set is that was made from what has that fingerprint."""
    return f"{_plain(root)}/datasets/{fingerprint}"


def check_root(root: str) -> None:
    """Raises `UserError` where no run was ever started, since the name is mistyped."""
    if not storage.is_folder(storage.resolve(f"{_plain(root)}/runs")):
        raise UserError(f"{root} is no pipeline's root, for it has no folder runs: correct the name")


def _plain(root: str) -> str:
    """Returns a root without slashes at its end; in a bucket, names such as a//b change when they are joined.

    Raises:
        UserError: if it is such a name.
    """
    plain = root.rstrip("/")
    if plain.startswith("gs://") and not {"", ".", ".."}.isdisjoint(plain.removeprefix("gs://").split("/")):
        raise UserError(f"the root {root} can't be used: write it without //, . and ..")
    return plain


class Run(NamedTuple):
    """One run: when it was started, in UTC, its id, and the fingerprint of its data set."""

    started: str
    id: str
    dataset: str


def nothing_removed(root: str) -> AbstractContextManager[Lease]:
    """For as long as the block runs, no run and no data set is removed from a root, but by the block.

    Raises:
        UserError: if the root can't be written, or another process does the like for minutes.
    """
    return hold(storage.resolve(root) / "datasets", wait=_WAIT)


def start_run(root: str, run_id: str, dataset: str) -> None:
    """Writes down which data set a run uses, from when on no other run removes it.

    Args:
        root: the pipeline's folder, local or `gs://`.
        run_id: the run, which may have been started before.
        dataset: the data set's fingerprint.

    Raises:
        UserError: as `nothing_removed`.
    """
    folder = storage.resolve(run_folder(root, run_id))
    with nothing_removed(root):
        earlier = _read(folder)
        started = earlier.started if earlier else now()
        record = {"started": started, "dataset": dataset}
        storage.write(folder / _RECORD, (json.dumps(record, indent=2) + "\n").encode())


def runs(root: str) -> list[Run]:
    """Returns the runs in a root, the newest first; a folder of someone else's is none."""
    folder = storage.resolve(root) / "runs"
    names = [each.name for each in storage.entries(folder) if each.is_folder]
    found = [_read(folder / name) for name in names if re.fullmatch(_RUN_ID, name)]
    return sorted(filter(None, found), reverse=True)


def _read(folder: AnyPath) -> Run | None:
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        content = json.loads(storage.read(folder / _RECORD, 0, _LONGEST_RECORD))
        run = Run(content["started"], folder.name, content["dataset"])
        if re.fullmatch(TIME, run.started) and re.fullmatch(_FINGERPRINT, run.dataset):
            return run
    return None


def prune(root: str, keep: int, promoted: Callable[[], Iterable[str]], current: str) -> None:
    """Removes old runs, and then the data sets that no run is left of.

    A run that is not finished stays for as long as something was written to it in the last week. What
    holds a file that no run of ours writes, a link or a folder stays, too, and a line says so; so it does of
    what can't be removed, which the next run tries again. As long as there is a run that does not tell its
    data set, all data sets stay.

    Args:
        root: the pipeline's folder, local or `gs://`.
        keep: how many runs stay, the newest.
        promoted: returns the ids of runs that stay, however old; called in a block of `nothing_removed`,
            which whoever promotes a run has to be in, too.
        current: id of the run that calls this.
    """
    folder = storage.resolve(root)
    try:
        with nothing_removed(root) as lease:
            found = runs(root)
            stay = {current, *promoted(), *(run.id for run in found[:keep])}
            for run in reversed(found):
                if run.id not in stay:
                    lease.check()
                    _remove(folder / "runs" / run.id, _RUN_FILES, quiet=_QUIET)
            left = {run.id: run.dataset for run in runs(root)}
            for name, is_folder, _ in storage.entries(folder / "runs"):  # a link to a folder is none
                if name not in left and (is_folder or not storage.is_file(folder / "runs" / name)):
                    place = printable(f"{folder}/runs/{name}")
                    logger.warning("no data set is removed: no run.json in %s tells which one it uses", place)
                    return
            used = set(left.values())
            for name, is_folder, _ in storage.entries(folder / "datasets"):
                if is_folder and re.fullmatch(_FINGERPRINT, name) and name not in used:
                    lease.check()
                    _remove(folder / "datasets" / name, _DATASET_FILES)
    except (OSError, GoogleAPIError, UserError, RunError) as error:
        logger.warning("old runs in %s were not removed: %s", root, error)


def _remove(folder: AnyPath, kinds: list[str], quiet: float = 0.0) -> None:
    """Removes a folder of files of some kinds, in their order, if nothing new or strange is in it."""
    try:
        written = _written(folder)
        at_work = quiet and FINISHED not in written
        if at_work and any(seconds > time.time() - quiet for seconds in written.values()):
            return
        order = {name: _kind(name, kinds) for name in written}
        if strange := [name for name, kind in order.items() if kind == len(kinds)]:
            logger.warning(
                "%s stays, though nothing points to it: it holds %s, which is not ours",
                folder,
                printable(strange[0]),
            )
            return
        inner_first = sorted(order, reverse=True)
        for name in sorted(inner_first, key=order.__getitem__):
            if name.endswith("/"):
                (folder / name).rmdir()
            else:
                storage.delete(storage.join(folder, name))
        if isinstance(folder, Path):
            folder.rmdir()
        logger.info("removed %s: nothing points to it", folder)
    except (OSError, GoogleAPIError) as error:
        logger.warning("%s could not be removed: %s", folder, error)


def _written(folder: AnyPath) -> dict[str, float]:
    """When each file in a folder was written, seconds since 1970; locally also each folder and link in it."""
    found = {name: stamp.written for name, stamp in storage.list_stamps(folder)}
    if isinstance(folder, Path):
        for parent, folders, files in os.walk(folder):
            for path in (Path(parent, name) for name in (*folders, *files)):
                name = path.relative_to(folder).as_posix()
                if path.is_symlink():
                    found[f"{name}, a link"] = found.pop(name, 0.0)
                elif path.is_dir():
                    found[f"{name}/"] = 0.0
    return found


def _kind(name: str, kinds: list[str]) -> int:
    """Which of some kinds a file or folder is of; their number if it is of none."""
    parent, slash, last = name.rpartition("/")
    if unfinished := _UNFINISHED.fullmatch(last):
        name = parent + slash + unfinished[1]
    return next((number for number, kind in enumerate(kinds) if re.fullmatch(kind, name)), len(kinds))
