"""Images that are in a data set twice, exactly or nearly: found by perceptual hashes, left out if asked.

An image of which a copy is in another split makes numbers on held-out images lie. Each worker leaves the
hashes of a shard's images beside it; the driver compares them all: the result is the same on every engine.

A hash has the SHA-256 of the resized pixels and a thumbnail, 8×8 in grey, with the mean colour. Images are
nearly the same if their thumbnails, without brightness and contrast, and the colours are at most `_NEAR`
apart, which is a correlation of 0.993: to the usual hash of 64 bits, aligned faces all look alike. Of 12,000
faces drawn at random, the two most alike are 0.16 apart; from itself as a JPEG of quality 30 a face is 0.03
(99 %: 0.08), at half its size 0.05 (0.11: resizing to 32×32 does not smooth).
"""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
from scipy.spatial import cKDTree

from latentfaces.common import storage
from latentfaces.common.dataset import Shard, ShardWriter, add_checksum
from latentfaces.common.errors import printable
from latentfaces.common.storage import AnyPath
from latentfaces.preprocessing.commit import draft, write
from latentfaces.preprocessing.plan import PlannedShard, Unit, read_shard
from latentfaces.preprocessing.progress import Summaries

_SIDE = 8
_NEAR = 0.12
_LEAST_CONTRAST = 2.0  # levels: in an image of less, what is seen is noise
_DIMENSIONS = 8
_MOST_PAIRS, _SAMPLE = 10_000_000, 2000  # pairs are counted by those of some images
_KEEP_FIRST = ("test", "valid", "train")  # of copies, the one that stays: held-out images do
_HASH = np.dtype([("pixels", "V16"), ("grey", "u1", _SIDE * _SIDE), ("colour", "u1", 3)])


logger = logging.getLogger(__name__)


class Duplicate(NamedTuple):
    """An image that is in the data set already, as another one, of the same split or not."""

    image: str
    split: str
    of: str
    of_split: str
    exact: bool
    left_out: bool


class _Place(NamedTuple):
    """Where an image is: its shard's planned name, its position there, and its own name."""

    shard: str
    position: int
    image: str


class Hashes:
    """The perceptual hashes of a shard's images, taken while it is written."""

    def __init__(self) -> None:
        self._pixels: list[bytes] = []
        self._thumbnails: list[np.ndarray] = []

    def add(self, pixels: np.ndarray) -> None:
        """Hashes the next image, uint8 [height, width, 1 or 3]."""
        self._pixels.append(hashlib.sha256(pixels.data).digest()[:16])
        self._thumbnails.append(cv2.resize(pixels, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA))

    def array(self) -> np.ndarray:
        """Returns the hashes of all images, [N]."""
        hashes = np.zeros(len(self._pixels), _HASH)
        if self._pixels:
            thumbnails = np.reshape(self._thumbnails, (len(hashes), _SIDE * _SIDE, -1)).astype(np.float32)
            hashes["pixels"] = np.frombuffer(b"".join(self._pixels), "V16")
            hashes["grey"], hashes["colour"] = thumbnails.mean(2).round(), thumbnails.mean(1).round()
        return hashes


def match(hashes: np.ndarray) -> Iterator[tuple[int, int, bool]]:
    """Finds the images that are there twice.

    Args:
        hashes: [N], as `Hashes` has them; of copies the first one counts.

    Yields:
        Of each image that an earlier one equals: its index, that one's, and whether they are exactly the
        same. The other one is never itself one of these.
    """
    _, first, group = np.unique(hashes["pixels"], return_index=True, return_inverse=True)
    same = first[group]
    distinct = np.flatnonzero(same == np.arange(len(hashes)))
    near = {int(distinct[index]): int(distinct[other]) for index, other in _near(hashes[distinct]).items()}
    for index, other in enumerate(same.tolist()):
        if index != other or index in near:
            yield index, near.get(other, other), other not in near


def _near(hashes: np.ndarray) -> dict[int, int]:
    """Returns for each image that nearly equals earlier ones the first of these that is itself no copy."""
    if len(hashes) < 2:
        return {}
    grey = hashes["grey"].astype(np.float32)
    grey -= grey.mean(1, keepdims=True)
    grey /= np.maximum(np.linalg.norm(grey, axis=1, keepdims=True), _LEAST_CONTRAST * _SIDE)
    points = np.hstack([grey, hashes["colour"].astype(np.float32) / 255])
    # In a projection what is near stays near, up to rounding, and a tree of few dimensions is fast.
    centred = points - points.mean(0)
    _, components = np.linalg.eigh(centred.T @ centred)
    projected = centred @ components[:, -_DIMENSIONS:]
    tree, radius = cKDTree(projected), 1.01 * _NEAR
    sample = projected[:: len(projected) // _SAMPLE + 1]
    neighbours = tree.query_ball_point(sample, radius, return_length=True)
    if (neighbours.mean() - 1) * len(projected) > 2 * _MOST_PAIRS:
        logger.warning("too many images look alike: only those with the same pixels are told")
        return {}
    pairs = tree.query_pairs(radius, output_type="ndarray")
    pairs = pairs[np.lexsort(pairs.T[::-1])]  # by the earlier image: whether that is a copy is then known
    is_copy, copies = np.zeros(len(points), bool), dict[int, int]()
    for part in np.array_split(pairs, len(pairs) // 100_000 + 1):
        part = part[~is_copy[part].any(1)]
        is_near = np.linalg.norm(points[part[:, 0]] - points[part[:, 1]], axis=1) <= _NEAR
        for other, index in part[is_near].tolist():
            if not is_copy[other] and not is_copy[index]:
                is_copy[index], copies[index] = True, other
    return copies


def write_hashes(job_folder: AnyPath, planned: PlannedShard, hashes: Hashes) -> None:
    """Leaves a shard's hashes in the job's folder; to be done before its summary."""
    write(job_folder, _path(job_folder, planned.name), hashes.array().tobytes(), lasting=False)


def find(
    job_folder: AnyPath, units: Iterable[Unit], summaries: Summaries, *, drop: bool = False
) -> list[Duplicate]:
    """Finds the images of a job that are there twice, and leaves them out if asked.

    Args:
        job_folder: The job's folder; all shards are written.
        units: Where the shards stand in the plan.
        summaries: Those of the shards; where images are left out, of other shards.
        drop: Whether to leave out the images that are copies of others.

    Returns:
        The copies. Of the same images in several splits, the one in test is none, and then the one in valid.
    """
    splits = {shard.name: split for split, shard in summaries.shards}
    shards = sorted(splits, key=lambda name: (_KEEP_FIRST.index(splits[name]), name))
    hashes = {name: np.frombuffer(storage.read(_path(job_folder, name)), _HASH) for name in shards}
    starts = dict(zip(shards, np.cumsum([0, *map(len, hashes.values())]).tolist(), strict=False))
    matches = list(match(np.concatenate([np.empty(0, _HASH), *hashes.values()])))
    wanted = {index for one, other, _ in matches for index in (one, other)}
    places = _places(job_folder, units if wanted else [], summaries, starts, wanted)
    if drop:
        copies: dict[str, set[int]] = defaultdict(set)
        for index, _, _ in matches:
            copies[places[index].shard].add(places[index].position)
        summaries.shards = [
            (split, _leave_out(job_folder, shard, copies[shard.name], len(hashes[shard.name])))
            for split, shard in summaries.shards
        ]
    return [
        Duplicate(
            image=places[index].image,
            split=splits[places[index].shard],
            of=places[other].image,
            of_split=splits[places[other].shard],
            exact=exact,
            left_out=drop,
        )
        for index, other, exact in matches
    ]


def _places(
    job_folder: AnyPath, units: Iterable[Unit], summaries: Summaries, starts: dict[str, int], wanted: set[int]
) -> dict[int, _Place]:
    """Finds in the plan where images are, by their indices among all hashes."""
    refused = {name for name, _ in summaries.refused}
    places = {}
    for unit in units:
        planned = read_shard(job_folder, unit)
        written = (image.name for image in planned.images if image.name not in refused)
        for position, name in enumerate(written):
            if (index := starts[planned.name] + position) in wanted:
                places[index] = _Place(planned.name, position, name)
    return places


def _leave_out(job_folder: AnyPath, shard: Shard, positions: set[int], images: int) -> Shard:
    """Writes a shard once more, without some of its images, of which each has one example or more."""
    if not positions:
        return shard
    with storage.open_for_reading(job_folder / add_checksum(shard.name, shard.sha256)) as file:
        with draft(job_folder, shard.name) as path:
            with ShardWriter(path.open("wb", buffering=1 << 20)) as writer:
                for position in range(shard.examples):
                    length = int.from_bytes(file.read(12)[:8], "little")
                    record = file.read(length + 4)[:-4]
                    if position * images // shard.examples not in positions:
                        writer.write(record)
            smaller = writer.shard(shard.name)
            storage.publish(path, job_folder / add_checksum(smaller.name, smaller.sha256))
    storage.delete(job_folder / add_checksum(shard.name, shard.sha256))  # its space may be needed
    return smaller


def tell(duplicates: list[Duplicate]) -> None:
    """Says how many images are there twice."""
    if not duplicates:
        return
    between = [each for each in duplicates if each.split != each.of_split]
    first = (between or duplicates)[0]
    count = f"{len(duplicates):,} images are copies of others, exactly or nearly"
    count += f", {len(between):,} of them of images in another split, such as {printable(first.image)} in "
    count += f"{first.split} of {printable(first.of)} in {first.of_split}"
    if first.left_out:
        logger.info("%s: they are left out; duplicates.jsonl lists them", count)
    elif between:
        logger.warning(
            "%s: numbers on held-out images are better than is true; duplicates.jsonl lists them, "
            "--drop-duplicates leaves them out",
            count,
        )
    else:
        logger.info("%s: duplicates.jsonl lists them", count)


def _path(job_folder: AnyPath, name: str) -> AnyPath:
    return job_folder / f"{name}.hashes"
