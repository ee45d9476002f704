"""The output folder: a job's own folder in it, and how what the job makes becomes the data set, in one step.

`dataset.json` decides which shards count. A new data set's shards have names that no other's have, so they
lie beside the old ones until `dataset.json` is replaced; only then goes what it named before. Whatever stops
a job, there is the old data set, whole, or the new one.

What a job deletes is accounted for: what its own folder holds, what `dataset.json` named, and what a dead
job's folder says that it had begun to put in place. A job is dead when its folder can be claimed
(`latentfaces.common.lease`). Jobs that begin or commit do so one after the other, each under a claim on the
output. In a bucket a process that was stopped for long may believe in a claim that it has lost; so there,
`dataset.json` is written on condition that it is the one that was seen before the shards were put in place,
and a shard is deleted on condition that it has not been put in place anew since.
"""

import contextlib
import dataclasses
import json
import logging
import os
import re
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from cloudpathlib import GSPath

from latentfaces.common import storage
from latentfaces.common.dataset import (
    SPLITS,
    Dataset,
    add_checksum,
    encode_dataset,
    name_by_content,
    read_dataset,
)
from latentfaces.common.errors import RunError, UserError, printable
from latentfaces.common.lease import Lease, hold
from latentfaces.common.storage import AnyPath
from latentfaces.preprocessing import tfds

REJECTED = "rejected.jsonl"
DUPLICATES = "duplicates.jsonl"
FAILED = "rejected.failed.jsonl"  # the same of a job that failed for it; the data set keeps its own

_DATASET = "dataset.json"
_GRIDS = "grids"
_PICTURE = f"{_GRIDS}/crops.png"
_LEASE = ".lease"
_ACCOUNT = "commit.json"  # in a job's folder: the names of all shards that it may have left in the output
_JOB_FOLDER = re.compile(r"\.job-[0-9a-f]{32}")
_SHARD_FILE = re.compile(
    rf"({'|'.join(SPLITS)})(-[0-9a-f]{{16}})?-\d{{5,}}-of-\d{{5,}}(-[0-9a-f]{{16}})?\.tfrecord"
)
_WAIT = 600.0  # seconds for another job to begin or to commit

logger = logging.getLogger(__name__)


class Job(NamedTuple):
    """A running job: its folder, for its plan, shards and summaries, and its claim on that."""

    folder: AnyPath
    lease: Lease


def _job_name() -> str:
    return f".job-{uuid.uuid4().hex}"


@contextlib.contextmanager
def new_job(output: AnyPath) -> Iterator[Job]:
    """Makes a job's folder in the output, and removes it again, whatever comes of the job.

    Raises:
        UserError: The output cannot be written, or holds anything that is not a data set's.
    """
    with contextlib.ExitStack() as stack:
        with hold(output, _LEASE, wait=_WAIT):
            refuse_foreign(output)
            _sweep(output)
            folder = output / _job_name()
            job = Job(folder, stack.enter_context(hold(folder, _LEASE)))
        try:
            yield job
        finally:
            try:
                _clear(folder)
            except Exception as error:  # what the job ended with counts; the next one removes the folder
                logger.warning("%s could not be removed: %s", folder, error)


@contextlib.contextmanager
def draft(job_folder: AnyPath, name: str) -> Iterator[Path]:
    """Yields a new local file's path, for content that will be published; the file is gone at the end.

    It lies in the job's folder, or in scratch space where that is in a bucket. So a straggler of a job that
    is over, whose folder is gone, can neither write nor leave anything behind.
    """
    if isinstance(job_folder, Path):
        path = job_folder / f"{name}.{uuid.uuid4().hex}"
    else:
        descriptor, scratch = tempfile.mkstemp(prefix="latentfaces-")
        os.close(descriptor)
        path = Path(scratch)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def write(job_folder: AnyPath, target: AnyPath, content: bytes, *, lasting: bool = True) -> None:
    """Writes a small file, all or nothing; what is left of it after a kill lies in the job's folder."""
    with draft(job_folder, target.name) as path:
        path.write_bytes(content)
        storage.publish(path, target, lasting=lasting)


def commit(
    output: AnyPath,
    job: Job,
    dataset: Dataset,
    refused: list[tuple[str, str]],
    copies: Iterable[Mapping[str, object]],
    inputs: int,
    max_rejected: float,
    picture: bytes | None,
) -> Dataset:
    """Makes the job's shards the data set, unless too many inputs were refused.

    Args:
        output: Where the data set is to be.
        job: The job.
        dataset: What it made; the shards have the names that were planned.
        refused: (name, reason) of each refused input.
        copies: What is told of each image that is there twice.
        inputs: How many inputs there were, refused ones included.
        max_rejected: The share of the inputs that may be refused.
        picture: A PNG of what was cut out, if there is one; it is written if there is room for it.

    Returns:
        The data set; its shards have their lasting names.

    Raises:
        UserError: More than the share `max_rejected` of the inputs was refused, or nothing is left;
            `rejected.failed.jsonl` lists them, and the output is as it was.
        RunError: Another process took the job for dead, or committed at the same time.
    """
    lines = [json.dumps({"source": source, "reason": reason}) + "\n" for source, reason in sorted(refused)]
    rejected = "".join(lines).encode()
    written = sum(split.examples for split in dataset.splits.values())
    if not written or len(refused) > max_rejected * inputs:
        write(job.folder, output / FAILED, rejected)
        name, reason = min(refused, default=("", ""))
        first = f" ({printable(name)}: {reason}{', …' if len(refused) > 1 else ''})" if refused else ""
        if not written:
            raise UserError(f"all {inputs:,} inputs were refused{first}: mend what {output / FAILED} lists")
        raise UserError(
            f"{len(refused):,} of {inputs:,} inputs were refused{first}, more than --max-rejected "
            f"{max_rejected:g} allows: mend or remove what {output / FAILED} lists, or allow more "
            "(max_rejected is also a pipeline's parameter)"
        )
    job.lease.check()
    splits = {name: name_by_content(name, split) for name, split in dataset.splits.items()}
    moves = {
        new.name: add_checksum(old.name, old.sha256)
        for split in SPLITS
        for old, new in zip(dataset.splits[split].shards, splits[split].shards, strict=True)
    }
    names = moves.keys()
    dataset = dataclasses.replace(dataset, splits=splits)
    with hold(output, _LEASE, wait=_WAIT), contextlib.ExitStack() as stack:
        seen = storage.version(output / _DATASET) if isinstance(output, GSPath) else None
        present = {entry.name: entry.generation for entry in storage.entries(output)}
        dead = _claim_dead(output, stack, job.folder.name)
        accounted = _named(_described(output)).union(*map(_account, dead))
        write(job.folder, job.folder / _ACCOUNT, json.dumps(sorted(accounted | names)).encode())
        try:
            _put_in_place(output, job, moves)
            _show(output, job, picture)
            write(job.folder, output / REJECTED, rejected)
            told = "".join(json.dumps(each) + "\n" for each in copies)
            write(job.folder, output / DUPLICATES, told.encode())
            _replace_description(output, job, dataset, seen)
        except BaseException:
            if isinstance(output, Path):  # whose claim is certain: nobody else puts shards in place
                with contextlib.suppress(OSError, UserError):
                    _settle(output, [job.folder], dict.fromkeys(accounted | names))
            raise
        old = {name: present[name] for name in (accounted - names) & present.keys()}
        _settle(output, [job.folder, *dead], old)
        for folder in dead:
            _clear(folder)
        for name in {FAILED, f"{_LEASE}.now"} & present.keys():
            storage.delete(output / name)
    return dataset


def _put_in_place(output: AnyPath, job: Job, moves: Mapping[str, str]) -> None:
    try:
        storage.for_all(output, lambda name: storage.move(job.folder / moves[name], output / name), moves)
    except FileNotFoundError:
        raise RunError(
            f"the folder of the job, {job.folder}, was removed while it ran: run the job again"
        ) from None
    storage.sync(output)


def _show(output: AnyPath, job: Job, picture: bytes | None) -> None:
    """Replaces the picture; without one, or if that fails, none is there."""
    try:
        if picture:
            if isinstance(output, Path):
                (output / _GRIDS).mkdir(exist_ok=True)
            write(job.folder, output / _PICTURE, picture)
            return
    except Exception as error:
        logger.warning("%s could not be written: %s", output / _PICTURE, error)
    storage.delete(output / _PICTURE)


def _replace_description(output: AnyPath, job: Job, dataset: Dataset, seen: storage.Version | None) -> None:
    path, content = output / _DATASET, encode_dataset(dataset)
    if isinstance(path, Path):
        write(job.folder, path, content)
        return
    try:
        storage.replace(path, content, seen.generation if seen else 0, job.folder.name)
    except storage.ChangedError:
        raise RunError(
            f"another job has committed to {output} at the same time: run this one again"
        ) from None


def refuse_foreign(output: AnyPath) -> None:
    """Raises `UserError` if the output holds anything that no job of ours put there."""
    try:
        present = [*storage.entries(output), *_pictures(output)]
    except OSError as error:
        raise UserError(f"the output {output} cannot be read: {error.strerror}") from None
    jobs = {entry.name for entry in present if entry.is_folder and _JOB_FOLDER.fullmatch(entry.name)}
    files = {_DATASET, REJECTED, DUPLICATES, FAILED, _PICTURE, _LEASE, f"{_LEASE}.now", *tfds.FILES}
    files.update(_named(_described(output)), *(_account(output / name) for name in jobs))
    for name, is_folder, _ in present:
        if name not in ({*jobs, _GRIDS} if is_folder else files) and not _is_made_by_content(name):
            raise UserError(
                f"{output} is not empty and holds {name!r}, which no job of ours put there: name an empty "
                "folder, or one with a data set"
            )


def _pictures(output: AnyPath) -> list[storage.Entry]:
    """Returns what lies in the folder of pictures, by its names below the output."""
    return [entry._replace(name=f"{_GRIDS}/{entry.name}") for entry in storage.entries(output / _GRIDS)]


def _is_made_by_content(name: str) -> bool:
    """Whether a name is that of a shard that a job may have put in place, even if nothing tells of it.

    That is so where a bucket's claim was lost in the middle of a commit; such a shard is left where it is.
    """
    match = _SHARD_FILE.fullmatch(name)
    return bool(match and (match[2] or match[3]))


def _described(output: AnyPath) -> Dataset | None:
    """Returns the data set that is there; raises `UserError` if its description is not ours."""
    try:
        return read_dataset(output)
    except UserError:
        if all(entry.name != _DATASET for entry in storage.entries(output)):
            return None
        raise UserError(
            f"{output / _DATASET} is not a description that this program wrote, or is damaged: name an empty "
            "folder, or remove what is there"
        ) from None


def _named(dataset: Dataset | None) -> set[str]:
    """Returns the names of a data set's shards."""
    return {shard.name for split in dataset.splits.values() for shard in split.shards} if dataset else set()


def _claim_dead(output: AnyPath, stack: contextlib.ExitStack, own: str = "") -> list[AnyPath]:
    """Claims the folders of dead jobs until the stack ends."""
    dead = []
    for name, is_folder, _ in storage.entries(output):
        if is_folder and _JOB_FOLDER.fullmatch(name) and name != own:
            with contextlib.suppress(UserError):  # it is alive
                stack.enter_context(hold(output / name, _LEASE))
                dead.append(output / name)
    return dead


def _account(job_folder: AnyPath) -> set[str]:
    """Returns the names of the shards that a job may have left in the output."""
    try:
        names = json.loads(storage.read(job_folder / _ACCOUNT))
    except (FileNotFoundError, ValueError):  # it had not begun to commit
        return set()
    return {name for name in names if _SHARD_FILE.fullmatch(name)}


def _settle(output: AnyPath, jobs: list[AnyPath], shards: dict[str, int | None]) -> None:
    """Deletes those of some shards that the data set does not name, and then the jobs' accounts of them.

    Before, what others read instead of `dataset.json` is made to name the same shards.
    """
    dataset = _described(output)
    try:
        for name, content in (tfds.describe(dataset) if dataset else {}).items():
            write(jobs[0], output / name, content)
    except OSError as error:
        logger.warning("%s is not for TensorFlow Datasets, whose files cannot be written: %s", output, error)
    keep = _named(dataset)
    storage.for_all(output, lambda name: storage.delete(output / name, shards[name]), shards.keys() - keep)
    storage.sync(output)
    for folder in jobs:
        storage.delete(folder / _ACCOUNT)


def _sweep(output: AnyPath) -> None:
    """Removes the folders of dead jobs, and what they left where the data set is.

    In a bucket the latter waits for a job that commits: only that can be sure that no other one is putting
    the same shards in place.
    """
    with contextlib.ExitStack() as stack:
        for folder in _claim_dead(output, stack):
            if isinstance(output, Path):
                _settle(output, [folder], dict.fromkeys(_account(folder)))
            _clear(folder)


def _clear(job_folder: AnyPath) -> None:
    """Removes a job's folder, all but its account if it has one."""
    if isinstance(job_folder, Path):
        # Under its new name no straggler can write to it, nor publish a shard out of it.
        try:
            job_folder = job_folder.rename(job_folder.with_name(_job_name()))
        except FileNotFoundError:  # someone else has removed it
            return
    for name in list(storage.list_files(job_folder)):
        if name not in (_ACCOUNT, _LEASE):
            storage.delete(job_folder / name)
    if isinstance(job_folder, Path) and not (job_folder / _ACCOUNT).exists():
        (job_folder / _LEASE).unlink(missing_ok=True)
        job_folder.rmdir()
