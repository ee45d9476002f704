"""An .npz of images and their classes as Keras has them, such as `mnist.npz`: a zip of NumPy arrays.

`x_train` and `x_test` are uint8 [N, height, width] or [N, height, width, 1 or 3], `y_train` and `y_test`
whole numbers [N] or [N, 1]. The test images are the split `test`; of the others, a tenth by their names is
`valid`.

To the rest it is an archive of image files with CelebA's two lists among them: an image comes as the file
that holds its pixels and nothing else (PGM or PPM), and every class is an attribute, such as `class_3`.
"""

import functools
import io
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentfaces.common.errors import UserError, printable
from latentfaces.preprocessing.resize import RefusedImage
from latentfaces.preprocessing.sources.celeba import (
    ATTRIBUTE_FILES,
    PARTITION_FILES,
    Labels,
    Lines,
    class_labels,
)
from latentfaces.preprocessing.sources.split import make_parts
from latentfaces.preprocessing.sources.zip import Zip, ZipEntry

_PARTS = ("train", "test")
_MOST_IMAGES = 1_000_000
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Npz:
    """An .npz; an image's place is its part and its number there.

    The images of a part are in memory together, once in a process, and have at most the 256 MiB of any file.
    """

    location: str

    def entries(self) -> Iterator[tuple[str, Any]]:
        """The two lists, and the images in order.

        Raises:
            UserError: The file is damaged, or has not the four arrays, or not of these types and shapes.
        """
        shown = printable(self.location)
        yield ATTRIBUTE_FILES[1], Lines(f"{shown} (y_train and y_test)", self._labels)
        yield PARTITION_FILES[1], Lines(f"{shown} (train and test)", self._parts)
        for part, classes in self._classes().items():
            if len(classes) != len(self._images(part)):
                raise self._unusable(f"y_{part} has not one class for each image of x_{part}")
            yield from ((_name(part, number), [part, number]) for number in range(len(classes)))

    def stamps(self) -> Iterator[tuple[str, Any]]:
        """One for the file as a whole; its name does not count."""
        return Zip(self.location).stamps()

    def read(self, places: Iterable[Any]) -> Iterator[bytes | RefusedImage]:
        """Makes files of what is at some places."""
        parts: dict[str, np.ndarray] = {}
        for place in places:
            part, number = place
            if part not in parts:
                parts[part] = self._images(part)
            image = parts[part][number]
            height, width, channels = image.shape
            yield b"P%d %d %d 255\n" % (5 if channels == 1 else 6, width, height) + image.tobytes()

    def _labels(self) -> Labels:
        parts = self._classes().items()
        try:
            return class_labels(
                {_name(part, number): each for part, y in parts for number, each in enumerate(y.tolist())}
            )
        except ValueError as error:
            raise self._unusable(f"y_train and y_test tell of {error}") from None

    def _parts(self) -> dict[str, int]:
        parts = self._classes().items()
        return make_parts({_name(part, number): part for part, y in parts for number in range(len(y))})

    def _images(self, part: str) -> np.ndarray:
        """The images of a part, uint8 [N, height, width, channels]."""
        images = self._array(f"x_{part}")
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.shape[3:] not in ((), (1,), (3,)):
            raise self._unusable(
                f"x_{part} is {images.dtype} {list(images.shape)} and not uint8 [N, height, width] or "
                "[N, height, width, 1 or 3]"
            )
        if len(images) > _MOST_IMAGES:
            raise self._unusable(f"x_{part} has more than {_MOST_IMAGES:,} images")
        return images[..., None] if images.ndim == 3 else images

    def _classes(self) -> dict[str, np.ndarray]:
        """For each part the class of every image, integers [N]."""
        found = {}
        for part in _PARTS:
            classes = self._array(f"y_{part}")
            if classes.dtype.kind not in "iu" or classes.ndim < 1 or classes.shape[1:] not in ((), (1,)):
                raise self._unusable(
                    f"y_{part} is {classes.dtype} {list(classes.shape)} and not whole numbers [N]"
                )
            found[part] = classes.ravel().astype(np.int64)
        return found

    def _array(self, name: str) -> np.ndarray:
        place = dict(Zip(self.location).entries()).get(f"{name}.npy")
        if place is None:
            raise self._unusable(f"it has no array {name}")
        try:
            with _LOCK:  # else every thread would read the same array
                return _read_array(self.location, place)
        except RefusedImage as refusal:
            raise self._unusable(f"{name} cannot be read, {refusal}") from None

    def _unusable(self, reason: str) -> UserError:
        return UserError(
            f"{printable(self.location)} cannot be used, {printable(reason)}: "
            "make it anew, with arrays like those of Keras' mnist.npz"
        )


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


def _name(part: str, number: int) -> str:
    return f"{part}-{number:06d}"
