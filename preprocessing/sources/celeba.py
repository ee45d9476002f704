"""CelebA as it is distributed: where its images lie, and its lists of labels and partition."""

import csv
from collections.abc import Iterable, Iterator
from typing import Any

from latentfaces.common import storage
from latentfaces.common.errors import UserError
from latentfaces.common.storage import AnyPath

ATTRIBUTES = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips",
    "Big_Nose", "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin",
    "Eyeglasses", "Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open",
    "Mustache", "Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline",
    "Rosy_Cheeks", "Sideburns", "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat",
    "Wearing_Lipstick", "Wearing_Necklace", "Wearing_Necktie", "Young",
)  # fmt: skip
"""CelebA's 40 attributes, in the order of `list_attr_celeba.txt`."""

IMAGES_FOLDER = "img_align_celeba"
ATTRIBUTE_FILES = ("list_attr_celeba.txt", "list_attr_celeba.csv")
PARTITION_FILES = ("list_eval_partition.txt", "list_eval_partition.csv")


def locate(root: AnyPath, archive_endings: Iterable[str]) -> tuple[AnyPath, list[AnyPath]]:
    """Finds the images below a folder: in a folder or an archive of CelebA's, or in the folder itself.

    Args:
        root: The folder.
        archive_endings: How the names of archives end, such as ".zip".

    Returns:
        The folder or archive that holds the images, and the folders where lists may be.
    """
    for parent in (root, root / "Img"):
        folder = parent / IMAGES_FOLDER
        if storage.is_folder(folder):
            nested = folder / IMAGES_FOLDER  # Kaggle's download has the folder twice
            images = nested if storage.is_folder(nested) else folder
            return images, [images, images.parent, root]
        for ending in archive_endings:
            if storage.is_file(archive := parent / f"{IMAGES_FOLDER}{ending}"):
                return archive, [parent, root]
    return root, [root, root.parent]


def without_images_folder(entries: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Takes CelebA's folder off (name, place) pairs, where all names begin with it, as in its zip."""
    prefix = f"{IMAGES_FOLDER}/"
    if not all(name.startswith(prefix) for name, _ in entries):
        return entries
    return [(name.removeprefix(prefix), place) for name, place in entries]


def find_list(named: str, usual: tuple[str, ...], folders: list[AnyPath]) -> AnyPath | None:
    """Finds a list: the one named, or one of a usual name in one of the folders, their `Anno` or `Eval`.

    Raises:
        UserError: There is no file of the given name.
    """
    if named:
        file = storage.resolve(named)
        if not storage.is_file(file):
            raise UserError(f"there is no file {named}: correct the option")
        return file
    places = dict.fromkeys(
        place for folder in folders for place in (folder, folder / "Anno", folder / "Eval")
    )
    candidates = (place / name for place in places for name in usual)
    return next((file for file in candidates if storage.is_file(file)), None)


def read_attributes(file: AnyPath) -> tuple[tuple[str, ...], dict[str, int]]:
    """Reads labels, in CelebA's `.txt` or Kaggle's `.csv` form.

    Returns:
        The names of the attributes, and for each image a number whose bit i is attribute i.

    Raises:
        UserError: The file cannot be understood.
    """
    rows, expected = _rows(file), None
    if not _is_csv(file):
        count = next(rows, (1, []))[1]
        if len(count) != 1 or not count[0].isdecimal():
            raise UserError(f"{file} does not begin with a count and a line of names, as CelebA's does")
        expected = int(count[0])
    names = tuple(next(rows, (1, []))[1][_is_csv(file) :])  # a .csv names the column of names, too
    if not names or len(set(names)) != len(names):
        raise UserError(f"{file} does not name its attributes, each once, in its header")
    bits = [1 << position for position in range(len(names))]
    labels: dict[str, int] = {}
    for number, (name, *values) in rows:
        if len(values) != len(names) or not all(value in ("1", "-1", "0") for value in values):
            raise UserError(f"{file} line {number}: expected a file name and {len(names)} values of 1 or -1")
        if name in labels:
            raise UserError(f"{file} line {number}: a second line for {name}")
        labels[name] = sum(bit for bit, value in zip(bits, values, strict=True) if value == "1")
    if expected is not None and expected != len(labels):
        raise UserError(f"{file} says that it has {expected} lines and has {len(labels)}: is it complete?")
    return names, labels


def read_partition(file: AnyPath) -> dict[str, int]:
    """Reads a partition, in either form: 0 train, 1 valid, 2 test for each image.

    Raises:
        UserError: The file cannot be understood.
    """
    rows = _rows(file)
    if _is_csv(file):
        next(rows, None)
    parts: dict[str, int] = {}
    for number, (name, *values) in rows:
        if values not in (["0"], ["1"], ["2"]):
            raise UserError(
                f"{file} line {number}: expected a file name and 0 (train), 1 (valid) or 2 (test)"
            )
        if name in parts:
            raise UserError(f"{file} line {number}: a second line for {name}")
        parts[name] = int(values[0])
    return parts


def _is_csv(file: AnyPath) -> bool:
    return file.suffix.lower() == ".csv"


def _rows(file: AnyPath) -> Iterator[tuple[int, list[str]]]:
    """The lines of a list that are not empty, each with its number."""
    try:
        lines = storage.read(file).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file} is not a text file ({error.reason}): give CelebA's .txt or .csv form"
        ) from None
    rows = csv.reader(lines) if _is_csv(file) else map(str.split, lines)
    return ((number, row) for number, row in enumerate(rows, 1) if row)
