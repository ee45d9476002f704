"""Which split an image belongs to where no partition says so, by its name alone."""

import hashlib

from latentfaces.common.dataset import SPLITS


def name_digest(name: str) -> bytes:
    """The SHA-256 of an image's name."""
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()


def hash_split(name: str) -> str:
    """The split of an image without a partition file: train 80 %, valid 10 %, test 10 %, by SHA-256."""
    tenth = int.from_bytes(name_digest(name)[:8]) * 10 >> 64
    return SPLITS[max(0, tenth - 7)]
