"""The Beam job: one unit of work is one output shard, read, resized and written by one worker.

No pixel but a thumbnail's leaves the worker that decoded it, so there is nothing to shuffle. What the engine
passes around is where, in the plan, each shard's inputs are named:

    look through the source → plan → [ Beam: write a shard, then its summary ] × shards → copies → commit

While it runs, `.job-<id>` in the output folder holds the plan, the shards and, of each finished one, hashes
and a summary (counts, checksum, refusals). The driver reads the summaries to show progress and, when the
engine says that all is done, looks for images that are there twice, puts the shards in place and writes
`grids/crops.png`, `rejected.jsonl`, `duplicates.jsonl` and then `dataset.json`.
A shard's bytes depend on the input and the options alone, so an engine may try a shard twice, or twice at
once: files get their name when they are complete. Until `dataset.json` is written, an earlier data set there
stays whole. The next job deletes what a killed one left, and from then on a straggler of the dead job finds
its plan gone and can write nothing.
"""

import contextlib
import errno
import logging
import math
import os
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console

from latentfaces.common import storage
from latentfaces.common.dataset import Dataset, make_splits
from latentfaces.common.errors import UserError, printable
from latentfaces.common.progress import standard_error
from latentfaces.preprocessing import crops, duplicates, engine, sources
from latentfaces.preprocessing.commit import commit, new_job, refuse_foreign
from latentfaces.preprocessing.faces import find_detector
from latentfaces.preprocessing.options import PreprocessConfig
from latentfaces.preprocessing.plan import make_plan, write_plan
from latentfaces.preprocessing.progress import Summaries, show_result, shown
from latentfaces.preprocessing.write import WriteShard

_FEW = 200  # images of which no generator learns what a face is

logger = logging.getLogger(__name__)


def run(source: str, output: str, *, console: Console | None = None, **options: Any) -> Dataset:
    """Makes a data set from images.

    Args:
        source: CelebA as distributed, or images in a folder, an archive or arrays; local or `gs://`.
        output: The data set's folder, local or `gs://`; an earlier data set there is replaced at the end.
        console: Where progress and the closing table are shown; by default standard error.
        **options: The fields of `PreprocessConfig`.

    Returns:
        What has been written to `dataset.json`.

    Raises:
        UserError: An option, the source or what is in the output is wrong (before any work), a disk is full,
            or too many inputs were refused (`rejected.failed.jsonl` lists them).
        RunError: Another process took this one for dead, or committed at the same time.
    """
    config = PreprocessConfig(**options)
    console = console or standard_error()
    source_path, output_path = storage.resolve(source), storage.resolve(output)
    if storage.contains(source_path, output_path):
        raise UserError(f"the output {output} lies in the source {source}: write it to another folder")
    refuse_foreign(output_path)
    if config.crop == "faces":
        find_detector()
    beam_options = engine.parse_options(config.beam_options)

    found = sources.find(source, config.attributes, config.partition, config.labels)
    started = time.monotonic()
    with _full_disk_told(output), new_job(output_path) as job:
        folder = job.folder
        image_shape = (config.image_size, config.image_size, config.channels)
        bytes_of_one = math.prod(image_shape) * (2 if config.flip else 1)
        plan = make_plan(found.splits, bytes_of_one, config.examples_per_shard)
        units = write_plan(folder, plan)
        planned = sum(len(images) for images in found.splits.values())
        write_shard = WriteShard(
            images=found.images,
            job_folder=str(folder),
            attributes=len(found.attribute_names),
            config=config,
            inputs=planned,
        )
        inputs = planned + len(found.refused)
        refused, attribute_names = found.refused, found.attribute_names
        del found, plan  # while the engine works, the driver's memory does not depend on the data

        summaries = Summaries(folder)
        with shown(summaries, planned, console):
            engine.run_pipeline(beam_options, units, write_shard, console)
        if len(summaries.shards) != len(units):
            raise RuntimeError(
                f"the engine ended with {len(summaries.shards)} of {len(units)} shards written"
            )
        refused += summaries.refused
        copies = duplicates.find(folder, units, summaries, drop=config.drop_duplicates)
        dataset = Dataset(
            image_shape=image_shape,
            attribute_names=attribute_names,
            splits=make_splits(summaries.shards),
            rejected=len(refused),
            source=printable(str(source)),
        )
        side = config.image_size
        title = f"inputs, each beside what was cut out of it: {side}x{side}, --crop {config.crop}"
        dataset = commit(
            output_path,
            job,
            dataset,
            refused,
            [each._asdict() for each in copies],
            inputs,
            config.max_rejected,
            crops.draw_crops(folder, [shard.name for _, shard in summaries.shards], title),
        )
    show_result(dataset, refused, inputs, time.monotonic() - started, console)
    duplicates.tell(copies)
    if refused:
        name, reason = min(refused)
        told = "%d of %d inputs were refused, such as %s (%s): rejected.jsonl lists them"
        logger.warning(told, len(refused), inputs, printable(name), reason)
    if (count := dataset.splits["train"].examples) < _FEW:
        logger.warning("the split train has %d images: some hundreds are the least to learn from", count)
    return dataset


@contextlib.contextmanager
def _full_disk_told(output: str) -> Iterator[None]:
    """Tells of a full disk in one sentence; an engine may have made another error of the same words."""
    try:
        yield
    except Exception as error:
        text = f"{error} {error.__cause__}"
        if any(os.strerror(number) in text for number in (errno.ENOSPC, errno.EDQUOT)):
            raise UserError(
                f"there is no space left for the data set in {output}, or for temporary files where that is "
                "a bucket: free some, or name another folder; an earlier data set there is as it was"
            ) from None
        raise
