"""Which split an image belongs to where no list says so: by its own name, or by its file's."""

import hashlib
import re
from collections.abc import Iterable, Mapping

from latentfaces.common.dataset import SPLITS

WORDS = {"train": 0, "val": 1, "valid": 1, "validation": 1, "test": 2}
"""Words for the splits, as people write them, with their numbers."""

_WORD = re.compile(rf"(?<![a-z])({'|'.join(WORDS)})(?![a-z])")


def name_digest(name: str) -> bytes:
    """The SHA-256 of an image's name."""
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()


def hash_split(name: str) -> str:
    """The split of an image without a partition file: train 80 %, valid 10 %, test 10 %, by SHA-256."""
    tenth = int.from_bytes(name_digest(name)[:8]) * 10 >> 64
    return SPLITS[max(0, tenth - 7)]


def split_of_file(name: str) -> str:
    """The split that a file of many images is named after, as `data/train-00000-of-00003.parquet`, or ""."""
    words = _WORD.findall(name.lower())
    return SPLITS[WORDS[words[-1]]] if words else ""


def is_partition(splits: Iterable[str]) -> bool:
    """Whether a source is divided: every image is in a split, and there is train and another one."""
    return {"train"} < set(splits) <= set(SPLITS)


def make_parts(splits: Mapping[str, str]) -> dict[str, int]:
    """The number of each image's split, made from the splits that a source has.

    Of train's images, a tenth by their names goes to valid where the source has none, and a tenth to test.
    """
    missing = set(SPLITS) - set(splits.values())

    def part(name: str, split: str) -> int:
        hashed = hash_split(name)
        return SPLITS.index(hashed if split == "train" and hashed in missing else split)

    return {name: part(name, split) for name, split in splits.items()}
