"""Images and their classes in four arrays, for training and for testing, whatever files these are in.

Images are uint8 [N, height, width] or [N, height, width, 1 or 3], classes whole numbers [N] or [N, 1]. The
test images are the split `test`; of the others, a tenth by their names is `valid`.

To the rest it is an archive of image files: an image comes as the file that holds its pixels and nothing else
(PGM or PPM), and every class is an attribute, such as `class_3`.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

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

_MOST_IMAGES = 1_000_000
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Arrays:
    """Four arrays; an image's place is its part and its number there.

    The images of a part are in memory together, once in a process, and have at most the 256 MiB of any file.

    Attributes:
        names: What the arrays of images and of classes are called, for `train` and for `test`.
        advice: What to do about those that cannot be used.
    """

    location: str
    names: ClassVar[Mapping[str, tuple[str, str]]]
    advice: ClassVar[str]

    def entries(self) -> Iterator[tuple[str, Any]]:
        """Labels, partition, and the images in order.

        Raises:
            UserError: An array is missing or damaged, or is not of such a type and shape.
        """
        shown = printable(self.location)
        yield ATTRIBUTE_FILES[1], Lines(f"{shown} ({self._class_arrays()})", self._labels)
        yield PARTITION_FILES[1], Lines(f"{shown} (train and test)", self._parts)
        for part, classes in self._classes().items():
            if len(classes) != len(self._images(part)):
                images, own = self.names[part]
                raise self._unusable(f"{own} has not one class for each image of {images}")
            yield from ((_name(part, number), [part, number]) for number in range(len(classes)))

    def stamps(self) -> Iterator[tuple[str, Any]]:
        """One for each file that holds arrays."""
        raise NotImplementedError

    def read_array(self, name: str) -> np.ndarray:
        """Reads an array, of which nothing is believed; it is asked for again and again.

        Raises:
            RefusedImage: It is missing or damaged.
        """
        raise NotImplementedError

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
            raise self._unusable(f"{self._class_arrays()} tell of {error}") from None

    def _parts(self) -> dict[str, int]:
        parts = self._classes().items()
        return make_parts({_name(part, number): part for part, y in parts for number in range(len(y))})

    def _images(self, part: str) -> np.ndarray:
        """The images of a part, uint8 [N, height, width, channels]."""
        name = self.names[part][0]
        images = self._array(name)
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.shape[3:] not in ((), (1,), (3,)):
            raise self._unusable(
                f"{name} is {images.dtype} {list(images.shape)} and not uint8 [N, height, width] or "
                "[N, height, width, 1 or 3]"
            )
        if len(images) > _MOST_IMAGES:
            raise self._unusable(f"{name} has more than {_MOST_IMAGES:,} images")
        return images[..., None] if images.ndim == 3 else images

    def _classes(self) -> dict[str, np.ndarray]:
        """For each part the class of every image, integers [N]."""
        found = {}
        for part, (_, name) in self.names.items():
            classes = self._array(name)
            if classes.dtype.kind not in "iu" or classes.ndim < 1 or classes.shape[1:] not in ((), (1,)):
                raise self._unusable(
                    f"{name} is {classes.dtype} {list(classes.shape)} and not whole numbers [N]"
                )
            found[part] = classes.ravel().astype(np.int64)
        return found

    def _array(self, name: str) -> np.ndarray:
        try:
            with _LOCK:  # else every thread would read the same array
                return self.read_array(name)
        except RefusedImage as refusal:
            raise self._unusable(str(refusal)) from None

    def _class_arrays(self) -> str:
        return " and ".join(classes for _, classes in self.names.values())

    def _unusable(self, reason: str) -> UserError:
        return UserError(f"{printable(self.location)} cannot be used, {printable(reason)}: {self.advice}")


def _name(part: str, number: int) -> str:
    return f"{part}-{number:06d}"
