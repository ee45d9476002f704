"""Thousands of images from a trained model, each from a seed of its own: in a folder, a zip or arrays."""

from __future__ import annotations

import logging
import re
import zipfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from latentfaces.common import storage
from latentfaces.common.errors import UserError
from latentfaces.common.pictures import picture, png
from latentfaces.common.progress import Progress
from latentfaces.common.storage import AnyPath
from latentfaces.components.generate.trained import load

logger = logging.getLogger(__name__)

_AT_ONCE = 64  # images made, and then written
_WRITERS = 8  # a bucket takes tens of milliseconds for each image


class _Batch(NamedTuple):
    """Images, uint8 [N, H, W, C], and their seeds."""

    seeds: range
    images: np.ndarray

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Yields a name and a PNG file's content for each image."""
        for seed, image in zip(self.seeds, self.images, strict=True):
            yield f"{seed:06d}.png", png(picture(image))


def generate(folder: str, count: int, seed: int, truncation: float | None, output: str) -> None:
    """Writes images of a trained model, named after their seeds: "000007.png".

    An image follows from the model, its own seed, `seed` for the first one and so on, and the truncation,
    whatever others are made with it.

    Args:
        folder: the model folder, local or `gs://`.
        count: how many images.
        seed: of the first.
        truncation: as `latentfaces.components.generate.trained.truncated`.
        output: local or `gs://`. What ends in ".zip" becomes a zip of PNG files, and what ends in ".npz"
            NumPy's arrays `images`, uint8 [count, H, W, C], and `seeds`, int64 [count]: one file, all or
            nothing, the same bytes each time. Any other is a folder of PNG files; those of the same names are
            replaced, and others that lie in it are told of.

    Raises:
        UserError: if there is no such model, it can't be loaded, or the output can't be written.
    """
    place = storage.resolve(output)
    kind = place.suffix.lower()
    if kind in (".png", ".jpg", ".jpeg", ".webp"):
        raise UserError(f"the output {output} is an image's name: give a folder, or a .zip or .npz file")
    is_file = kind in (".zip", ".npz")
    storage.check_writable(output, is_file=is_file)
    model = load(folder)
    with Progress("generate", count, "images") as progress:

        def batches() -> Iterator[_Batch]:
            for start in range(seed, seed + count, _AT_ONCE):
                seeds = range(start, min(start + _AT_ONCE, seed + count))
                yield _Batch(seeds, model.sample(len(seeds), start, truncation))
                progress.show(seeds.stop - seed)

        if not is_file:
            found = [re.fullmatch(r"(\d{6,16})\.png", entry.name) for entry in storage.entries(place)]
            if others := sum(not each or int(each[1]) not in range(seed, seed + count) for each in found):
                logger.warning("%s also holds %d files that are not of these images", output, others)
            _write_folder(place, batches())
        elif kind == ".zip":
            _write_zip(place, batches())
        else:
            _write_npz(place, batches(), (count, *model.image_shape), seed)


def _write_folder(folder: AnyPath, batches: Iterable[_Batch]) -> None:
    with ThreadPoolExecutor(_WRITERS) as pool:
        for batch in batches:
            for written in [pool.submit(storage.write, folder / name, data) for name, data in batch.files()]:
                written.result()


def _write_zip(target: AnyPath, batches: Iterable[_Batch]) -> None:
    with storage.writing(target) as file, zipfile.ZipFile(file, "w") as archive:
        for batch in batches:
            for name, data in batch.files():
                archive.writestr(_member(name), data)


def _write_npz(target: AnyPath, batches: Iterable[_Batch], shape: tuple[int, ...], seed: int) -> None:
    """Writes what `numpy.load` reads, piece by piece: all images together may not fit into memory."""
    with storage.writing(target) as file, zipfile.ZipFile(file, "w") as archive:
        with archive.open(_member("images.npy"), "w", force_zip64=True) as member:
            head = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(member, head)
            for batch in batches:
                member.write(batch.images.tobytes())
        with archive.open(_member("seeds.npy"), "w", force_zip64=True) as member:
            np.lib.format.write_array(member, np.arange(seed, seed + shape[0], dtype=np.int64))


def _member(name: str) -> zipfile.ZipInfo:
    """Returns the head of a zip's member, with zip's first day as its time."""
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o644 << 16
    return info
