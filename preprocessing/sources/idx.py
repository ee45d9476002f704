"""Digits as MNIST and Fashion-MNIST are distributed: a folder of four IDX files, gzipped or not."""

import functools
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentfaces.common import storage
from latentfaces.preprocessing.resize import MAX_FILE_BYTES, RefusedImage
from latentfaces.preprocessing.sources.arrays import Arrays
from latentfaces.preprocessing.sources.folder import archive_stamps

ENDINGS = ("-ubyte", "-ubyte.gz")

_UINT8 = b"\0\0\x08"  # how IDX files of bytes begin; the number of axes follows, and their lengths


@dataclass(frozen=True)
class Idx(Arrays):
    """A folder of IDX files."""

    names = {
        part: (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
        for part, prefix in (("train", "train"), ("test", "t10k"))
    }
    advice = "download it again, or name the folder that its files are in"

    def stamps(self) -> Iterator[tuple[str, Any]]:
        """One for each file."""
        return archive_stamps(self.location, ENDINGS)

    def read_array(self, name: str) -> np.ndarray:
        """Reads an array; raises `RefusedImage`."""
        folder = storage.resolve(self.location)
        for file in (name, f"{name}.gz", name.replace("-idx", ".idx"), f"{name.replace('-idx', '.idx')}.gz"):
            path = storage.join(folder, file)
            if storage.is_file(path):
                try:
                    return _read_array(str(path), storage.stamp(path)[:2])
                except RefusedImage as refusal:
                    raise RefusedImage(f"{file} cannot be read, {refusal}") from None
        raise RefusedImage(f"it has no file {name}, and none that ends in .gz besides")


@functools.lru_cache(maxsize=1)
def _read_array(path: str, stamp: tuple[int, str]) -> np.ndarray:
    """Reads an array, of which nothing is believed; kept for the next shard, by its place and stamp."""
    content = storage.read(storage.resolve(path), length=MAX_FILE_BYTES + 1)
    try:
        if content.startswith(b"\x1f\x8b"):
            stream = zlib.decompressobj(zlib.MAX_WBITS | 16)
            content = stream.decompress(content, MAX_FILE_BYTES + 1)
            if not stream.eof and len(content) <= MAX_FILE_BYTES:
                raise RefusedImage("it is cut off")
        if len(content) > MAX_FILE_BYTES:
            raise RefusedImage(f"too large: more than {MAX_FILE_BYTES:,} bytes")
        axes = content[3] if content.startswith(_UINT8) and len(content) > 3 else 0
        shape = np.frombuffer(content, ">u4", axes, offset=4).tolist()
        if min(shape, default=0) < 1:
            raise ValueError("there is nothing in it")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)
    except zlib.error as error:
        raise RefusedImage(str(error)) from None
    except ValueError:
        raise RefusedImage("not an array of bytes as IDX files hold it") from None
