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
_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
_RECORD = "run.json"
_LONGEST_RECORD = 1000  # bytes

_WAIT = 600.0  # seconds for another run that removes old ones
_QUIET = 7 * 24 * 3600.0  # seconds without a new file after which a run that is not finished is given up

# What a run and a data set consist of, in the order in which it is removed: first what makes it whole.
_LEFT = r"(.*/)?\.(lease(\.now)?|new\.zip|DS_Store|[^/]+-[a-z0-9_]{8})"  # by who was killed, or only looked
_RUN_FILES = [
    rf"({'|'.join(MODELS)})/[a-z]+\.keras|evaluation/metrics\.json",
    rf"({'|'.join(MODELS)})/(config\.json|history\.csv|samples/[^/]+\.png|logs/events\.[^/]+|checkpoints/.+)"
    rf"|evaluation/(report\.html|grids/[^/]+\.png)|{_LEFT}",
    r"promotion\.json|run\.json",
]
_DATASET_FILES = [
    r"dataset\.json",
    r"(train|valid|test)-\d+-of-\d+(-[0-9a-f]{16})?\.tfrecord|rejected(\.failed)?\.jsonl"
    rf"|\.job-[0-9a-f]{{32}}/.+|{_LEFT}",
]

logger = logging.getLogger(__name__)


def run_folder(root: str, run_id: str) -> str:
    """Returns where one run's models and evaluation are.

    Args:
        root: the pipeline's folder, local or `gs://`.
        run_id: what Kubeflow calls the run, or a name of the user's.

    Raises:
        UserError: if that can't be a folder's name.
    """
    if not re.fullmatch(_RUN_ID, run_id):
        raise UserError(f"the run {run_id[:80]!r} can't be a folder's name: use letters, digits, - and _")
    return f"{root.rstrip('/')}/runs/{run_id}"


def dataset_folder(root: str, fingerprint: str) -> str:
    """Returns where the data set is that was made from what has that fingerprint."""
    return f"{root.rstrip('/')}/datasets/{fingerprint}"


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
        started = earlier.started if earlier else datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
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
        if re.fullmatch(_TIME, run.started) and re.fullmatch(_FINGERPRINT, run.dataset):
            return run
    return None


def prune(root: str, keep: int, promoted: Callable[[], Iterable[str]], current: str) -> None:
    """Removes old runs, and then the data sets that no run is left of.

    A run that is not finished stays for as long as something was written to it in the last week. What
    holds a file that no run of ours writes stays, too, and a line says so; so it does of what can't be
    removed, which the next run tries again.

    Args:
        root: the pipeline's folder, local or `gs://`.
        keep: how many runs stay, the newest.
        promoted: returns the ids of runs that stay, however old; called when nobody else removes any.
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
            used = {run.dataset for run in runs(root)}
            for name, is_folder, _ in storage.entries(folder / "datasets"):
                if is_folder and re.fullmatch(_FINGERPRINT, name) and name not in used:
                    lease.check()
                    _remove(folder / "datasets" / name, _DATASET_FILES)
    except (OSError, GoogleAPIError, UserError, RunError) as error:
        logger.warning("old runs in %s were not removed: %s", root, error)


def _remove(folder: AnyPath, kinds: list[str], quiet: float = 0.0) -> None:
    """Removes a folder of files of some kinds, in their order, if nothing new or strange is in it."""
    try:
        files = list(storage.list_stamps(folder))
        at_work = quiet and FINISHED not in dict(files)
        if at_work and any(stamp.written > time.time() - quiet for _, stamp in files):
            return
        order = {name: _kind(name, kinds) for name, _ in files}
        if strange := [name for name, kind in order.items() if kind is None]:
            logger.warning(
                "%s stays, though nothing points to it: it holds %s, which is not ours",
                folder,
                printable(strange[0]),
            )
            return
        for name in sorted(order, key=lambda name: (order[name], name)):
            storage.delete(storage.join(folder, name))
        if isinstance(folder, Path):
            for parent, _, _ in os.walk(folder, topdown=False):
                os.rmdir(parent)
        logger.info("removed %s: nothing points to it", folder)
    except (OSError, GoogleAPIError) as error:
        logger.warning("%s could not be removed: %s", folder, error)


def _kind(name: str, kinds: list[str]) -> int | None:
    return next((number for number, kind in enumerate(kinds) if re.fullmatch(kind, name)), None)
