"""The output folder: a job's own folder in it, and how what the job makes becomes a data set, whole or not.

Files get their names when they are complete, and `dataset.json` is the last: it decides which shards count.
"""

import contextlib
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from latentfaces.common import storage
from latentfaces.common.dataset import SPLITS, Dataset, read_dataset, write_dataset
from latentfaces.common.errors import UserError
from latentfaces.common.storage import AnyPath

_JOB_FOLDER = re.compile(r"\.job-[0-9a-f]{32}")
_SHARD_FILE = re.compile(rf"({'|'.join(SPLITS)})-\d{{5}}-of-\d{{5}}\.tfrecord")


def _job_name() -> str:
    return f".job-{uuid.uuid4().hex}"


@contextlib.contextmanager
def new_job(output: AnyPath) -> Iterator[AnyPath]:
    """Makes the output ready for a new data set, and cleans up behind the job, whatever comes of it.

    Yields:
        The job's own folder in the output: for its plan, unfinished shards and summaries.

    Raises:
        UserError: The output cannot be written.
    """
    folder = output / _job_name()
    try:
        if isinstance(folder, Path):
            folder.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"the output {output} cannot be written: {error.strerror}") from None
    try:
        storage.delete(output / "dataset.json")
        sweep(output, job=folder.name)
        yield folder
    finally:
        sweep(output)


@contextlib.contextmanager
def drafted(target: AnyPath, job_folder: AnyPath) -> Iterator[Path]:
    """Yields a new local file, which becomes `target` at the end of the block or, after an error, nothing.

    It lies in the job's folder, or in scratch space where that is in a bucket. So a straggler of a job that
    is over, whose folder is gone, can neither write nor leave anything behind.
    """
    if isinstance(job_folder, Path):
        draft = job_folder / f"{target.name}.{uuid.uuid4().hex}"
    else:
        descriptor, name = tempfile.mkstemp(prefix="latentfaces-")
        os.close(descriptor)
        draft = Path(name)
    try:
        yield draft
        storage.publish(draft, target)
    finally:
        draft.unlink(missing_ok=True)


def commit(output: AnyPath, dataset: Dataset, refused: list[tuple[str, str]], max_rejected: float) -> None:
    """Writes `rejected.jsonl` from (name, reason) pairs and then, unless they are too many, `dataset.json`.

    Raises:
        UserError: More than the share `max_rejected` of the inputs was refused, or nothing is left.
    """
    lines = [json.dumps({"source": source, "reason": reason}) + "\n" for source, reason in sorted(refused)]
    storage.write(output / "rejected.jsonl", "".join(lines).encode())
    written = sum(split.examples for split in dataset.splits.values())
    inputs = written + len(refused)
    if not written or len(refused) > max_rejected * inputs:
        raise UserError(
            f"{len(refused):,} of {inputs:,} inputs were refused, more than --max-rejected "
            f"{max_rejected:g} allows: mend or remove what {output / 'rejected.jsonl'} lists, or allow more"
        )
    write_dataset(output, dataset)


def sweep(output: AnyPath, job: str = "") -> None:
    """Deletes what jobs left in the output: their folders, but for `job`, and shards of no data set."""
    keep = {job}
    with contextlib.suppress(UserError):  # there is no data set
        keep |= {shard.name for split in read_dataset(output).splits.values() for shard in split.shards}
    if isinstance(output, Path):
        for folder in list(output.glob(".job-*")):
            if _JOB_FOLDER.fullmatch(folder.name) and folder.name not in keep:
                with contextlib.suppress(OSError):  # another job is sweeping too
                    # Under its new name no straggler can write to it, nor publish a shard out of it.
                    shutil.rmtree(folder.rename(output / _job_name()), ignore_errors=True)
    for name in list(storage.list_files(output)):
        top = name.split("/", 1)[0]
        if (_JOB_FOLDER.fullmatch(top) or _SHARD_FILE.fullmatch(name)) and top not in keep:
            storage.delete(output / name)
