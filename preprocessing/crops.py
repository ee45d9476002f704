"""What was cut out of what: some inputs beside their results, to be looked at before anything is trained.

Each shard's worker leaves its share, the first of its inputs that were not refused; the driver makes one
picture of all. A data set is as good without it: what goes wrong here is told, and ends no job.
"""

import contextlib
import io
import itertools
import logging
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from latentfaces.common import storage
from latentfaces.common.pictures import PAPER, picture, png, written
from latentfaces.common.storage import AnyPath
from latentfaces.preprocessing.commit import write

MOST = 64  # inputs in the picture

_COLUMNS, _LEAST_COLUMNS = 8, 3  # as many as the title is long
_SIDE, _GAP, _MARGIN, _TITLE = 112, 2, 14, 44  # pixels: of an image, in a pair, between pairs, above them
_WIDTH = 2 * _SIDE + _GAP
_MAT = "#d8dce1"  # around an input that is not square
_ENDING = ".crops.png"

logger = logging.getLogger(__name__)


def pair(image: np.ndarray, result: np.ndarray) -> Image.Image:
    """Returns an input, reduced, and beside it what was cut out of it; both uint8 [height, width, 1 or 3]."""
    sheet = Image.new("RGB", (_WIDTH, _SIDE), _MAT)
    for left, each in ((0, image), (_SIDE + _GAP, result)):
        shape = [max(1, round(side * _SIDE / max(each.shape[:2]))) for side in each.shape[1::-1]]
        fitted = picture(each).resize(shape, Image.Resampling.LANCZOS, reducing_gap=2.0)
        sheet.paste(fitted, (left + (_SIDE - fitted.width) // 2, (_SIDE - fitted.height) // 2))
    return sheet


def leave_pairs(job_folder: AnyPath, shard: str, pairs: Sequence[Image.Image]) -> None:
    """Leaves a shard's pairs in the job's folder, one below the other."""
    column = Image.new("RGB", (_WIDTH, _SIDE * len(pairs)))
    for number, each in enumerate(pairs):
        column.paste(each, (0, _SIDE * number))
    with _no_harm(f"what was cut out for {shard} will not be shown"):
        write(job_folder, job_folder / f"{shard}{_ENDING}", png(column), lasting=False)


def draw_crops(job_folder: AnyPath, shards: Sequence[str], title: str) -> bytes | None:
    """Sets out what the workers have left of `shards`, those of the whole job, as the bytes of a PNG file."""
    with _no_harm("what was cut out will not be shown"):
        pairs = list(itertools.islice(_pairs(job_folder, sorted(shards)), MOST))
        rows = -(-len(pairs) // _COLUMNS)
        columns = min(_COLUMNS, max(len(pairs), _LEAST_COLUMNS))
        wide, high = _WIDTH + _MARGIN, _SIDE + _MARGIN
        sheet = Image.new("RGB", (columns * wide + _MARGIN, _TITLE + rows * high), PAPER)
        sheet.paste(written(title, sheet.width, _TITLE, "l"))
        for number, each in enumerate(pairs):
            row, column = divmod(number, columns)
            sheet.paste(each, (_MARGIN + column * wide, _TITLE + row * high))
        return png(sheet) if pairs else None
    return None


def _pairs(job_folder: AnyPath, shards: Sequence[str]) -> Iterator[Image.Image]:
    """Yields what was left of shards, or of some where there are more than pairs are wanted."""
    count = min(MOST, len(shards))
    for number in range(count):
        place = job_folder / f"{shards[number * len(shards) // count]}{_ENDING}"
        with contextlib.suppress(FileNotFoundError):  # its images were all refused
            column = Image.open(io.BytesIO(storage.read(place)), formats=("PNG",))
            for top in range(0, column.height, _SIDE):
                yield column.crop((0, top, column.width, top + _SIDE))


@contextlib.contextmanager
def _no_harm(consequence: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        logger.warning("%s: %s", consequence, error)
