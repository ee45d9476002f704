"""An .npz of images and their classes as Keras has them, such as `mnist.npz`: a zip of NumPy arrays."""

import functools
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentfaces.preprocessing.resize import RefusedImage
from latentfaces.preprocessing.sources.arrays import Arrays
from latentfaces.preprocessing.sources.zip import Zip, ZipEntry

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True)
class Npz(Arrays):
    """An .npz with the arrays `x_train`, `y_train`, `x_test` and `y_test`."""

    names = {part: (f"x_{part}", f"y_{part}") for part in ("train", "test")}
    advice = "make it anew, with arrays like those of Keras' mnist.npz"

    def stamps(self) -> Iterator[tuple[str, Any]]:
        """One for the file as a whole; its name does not count."""
        return Zip(self.location).stamps()

    def read_array(self, name: str) -> np.ndarray:
        """Reads an array; raises `RefusedImage`."""
        place = dict(Zip(self.location).entries()).get(f"{name}.npy")
        if place is None:
            raise RefusedImage(f"it has no array {name}")
        try:
            return _read_array(self.location, place)
        except RefusedImage as refusal:
            raise RefusedImage(f"{name} cannot be read, {refusal}") from None


@functools.lru_cache(maxsize=1)
def _read_array(location: str, place: ZipEntry) -> np.ndarray:
    """Reads an array, of which nothing is believed; kept for the next shard, by its place and checksum."""
    (content,) = Zip(location).read([place])
    if isinstance(content, RefusedImage):
        raise content
    file = io.BytesIO(content)
    try:
        shape, is_fortran, dtype = _HEADERS[np.lib.format.read_magic(file)](file)
        if min(shape, default=1) < 1:
            raise ValueError("there is nothing in it")
        array = np.frombuffer(content, dtype, offset=file.tell())
        return array.reshape(shape, order="F" if is_fortran else "C")
    except Exception:  # NumPy raises many kinds on damaged headers
        raise RefusedImage("not an array of numbers as NumPy writes it") from None
