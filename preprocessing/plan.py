"""The plan: which inputs go into which shard; a file with a line a shard.

Where a line stands in the file is all of a shard that goes through the engine.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from latentfaces.common import storage
from latentfaces.common.dataset import shard_name
from latentfaces.common.storage import AnyPath
from latentfaces.preprocessing.commit import draft
from latentfaces.preprocessing.sources import Image

PLAN = "plan.jsonl"
_SHARD_BYTES = 128 << 20  # of pixels, at most
_SHARD_EXAMPLES = 2500  # at most, so that a retry costs seconds and many workers have something to do
_PARALLEL_SHARDS = 16  # a split has at least so many ...
_PARALLEL_EXAMPLES = 64  # ... where each then has this many examples

Unit = tuple[int, int]  # where a shard's line begins in the plan, and how long it is, in bytes


class PlannedShard(NamedTuple):
    """One shard to be written: its split, its name but for its content, and its inputs in order."""

    split: str
    name: str
    images: Sequence[Image]


def make_plan(
    splits: Mapping[str, list[Image]], image_bytes: int, examples_per_shard: int = 0
) -> Iterator[PlannedShard]:
    """Divides every split into shards of nearly equal size, whatever the runner and its workers.

    Args:
        splits: The inputs.
        image_bytes: Bytes of the pixels of one resized image.
        examples_per_shard: The most that a shard holds; 0 to decide here.
    """
    most = examples_per_shard or max(1, min(_SHARD_EXAMPLES, _SHARD_BYTES // image_bytes))
    for split, images in splits.items():
        count = len(images)
        shards = -(-count // most)
        if not examples_per_shard:
            shards = max(shards, min(_PARALLEL_SHARDS, -(-count // _PARALLEL_EXAMPLES)))
        for index in range(shards):
            part = images[index * count // shards : (index + 1) * count // shards]
            part.sort(key=lambda image: image.place)  # as they are read best, however they were mixed
            yield PlannedShard(split, shard_name(split, index, shards), part)


def write_plan(job_folder: AnyPath, plan: Iterable[PlannedShard]) -> list[Unit]:
    """Writes the plan into the job's folder; returns where each shard stands in it."""
    units = []
    with draft(job_folder, PLAN) as path:
        with path.open("wb") as file:
            for shard in plan:
                start = file.tell()
                units.append((start, file.write(json.dumps(shard._asdict()).encode() + b"\n")))
        storage.publish(path, job_folder / PLAN, lasting=False)
    return units


def read_shard(job_folder: AnyPath, unit: Unit) -> PlannedShard:
    """Reads one line of the plan."""
    shard = json.loads(storage.read(job_folder / PLAN, *unit))
    return PlannedShard(shard["split"], shard["name"], [Image(*image) for image in shard["images"]])
