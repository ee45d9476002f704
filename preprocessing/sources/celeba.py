"""CelebA as it is distributed: where its images lie, and its lists of labels and partition."""

import csv
import io
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from latentfaces.common import storage
from latentfaces.common.dataset import check_attribute_names
from latentfaces.common.errors import UserError, printable
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
LISTS = frozenset(
    f"{name}.{ending}"
    for name in (
        "list_attr_celeba", "list_eval_partition", "list_bbox_celeba", "list_landmarks_celeba",
        "list_landmarks_align_celeba", "identity_CelebA",
    )
    for ending in ("txt", "csv")
)  # fmt: skip
"""All lists that come with CelebA, by name: none of them is an image, used or not."""

_LIST_FOLDERS = ("", "Anno", "Eval")  # where lists lie, beside the images or in a folder further up
_LONGEST_LIST = 1 << 30  # bytes
_LONGEST_LINE = 4 << 20  # characters


class List(NamedTuple):
    """A list of labels or of the partition: its path, to be shown, and its content, untrusted."""

    path: str
    content: bytes

    @property
    def name(self) -> str:
        """The file's name without the folder."""
        return self.path.rsplit("/", 1)[-1]

    @property
    def is_csv(self) -> bool:
        """Whether it is in Kaggle's form."""
        return self.path.lower().endswith(".csv")


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
            return images, upwards(images)
        for ending in archive_endings:
            if storage.is_file(archive := parent / f"{IMAGES_FOLDER}{ending}"):
                return archive, upwards(parent)
    return root, upwards(root)


def upwards(folder: AnyPath) -> list[AnyPath]:
    """A folder and the one above; as long as that is one of CelebA's inner folders, one more."""
    folders = [folder, folder.parent]
    while folders[-1].name in (IMAGES_FOLDER, "Img"):
        folders.append(folders[-1].parent)
    return folders


def images_folder(names: Iterable[str]) -> str:
    """The folder of CelebA's images in an archive, with a slash at its end; "" where there is not one."""
    starts = ((name, f"/{name}".rfind(f"/{IMAGES_FOLDER}/")) for name in names)
    folders = {name[: start + len(IMAGES_FOLDER) + 1] for name, start in starts if start >= 0}
    return folders.pop() if len(folders) == 1 else ""


def list_paths(images: str, usual: tuple[str, ...]) -> Iterator[str]:
    """Paths in an archive where a list may be: beside the images, and in the folders further up."""
    parts = images.split("/")[:-1]
    for depth in range(len(parts), -1, -1):
        for folder in _LIST_FOLDERS:
            for name in usual:
                yield "/".join(filter(None, (*parts[:depth], folder, name)))


def find_list(named: str, usual: tuple[str, ...], folders: list[AnyPath]) -> AnyPath | None:
    """Finds a list: the one named, or one of a usual name in one of the folders, their `Anno` or `Eval`.

    Raises:
        UserError: There is no file of the given name.
    """
    if named:
        file = storage.resolve(named)
        if not storage.is_file(file):
            raise UserError(f"there is no file {printable(named)}: correct the option")
        return file
    places = dict.fromkeys(folder / inner for folder in folders for inner in _LIST_FOLDERS)
    candidates = (place / name for place in places for name in usual)
    return next((file for file in candidates if storage.is_file(file)), None)


def read_list(file: AnyPath) -> List:
    """Reads a list.

    Raises:
        UserError: It cannot be read, or is too long.
    """
    path = printable(str(file))
    try:
        content = storage.read(file, length=_LONGEST_LIST + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > _LONGEST_LIST:
        raise UserError(f"{path} has more than {_LONGEST_LIST:,} bytes: give CelebA's .txt or .csv form")
    return List(path, content)


def read_attributes(file: List) -> tuple[tuple[str, ...], dict[str, int]]:
    """Reads labels, in CelebA's `.txt` or Kaggle's `.csv` form.

    Returns:
        The names of the attributes, and for each image a number whose bit i is attribute i.

    Raises:
        UserError: The file cannot be understood.
    """
    rows, expected = _rows(file), None
    if not file.is_csv:
        count = next(rows, (1, []))[1]
        if len(count) != 1 or not count[0].isdecimal() or len(count[0]) > 18:
            raise UserError(f"{file.path} does not begin with a count and a line of names, as CelebA's does")
        expected = int(count[0])
    names = tuple(next(rows, (1, []))[1][file.is_csv :])  # a .csv names the column of names, too
    try:
        check_attribute_names(names)
    except ValueError as error:
        raise UserError(f"the header of {file.path} cannot be used, {error}: correct it") from None
    if not names:
        raise UserError(f"{file.path} does not name its attributes in its header: correct it")
    bits = [1 << position for position in range(len(names))]
    labels: dict[str, int] = {}
    for number, (name, *values) in rows:
        if len(values) != len(names) or not all(value in ("1", "-1", "0") for value in values):
            raise UserError(
                f"{file.path} line {number}: expected a file name and {len(names)} values of 1 or -1"
            )
        if name in labels:
            raise UserError(f"{file.path} line {number}: a second line for {_short(name)}")
        labels[name] = sum(bit for bit, value in zip(bits, values, strict=True) if value == "1")
    if expected is not None and expected != len(labels):
        raise UserError(
            f"{file.path} says that it has {expected} lines and has {len(labels)}: is it complete?"
        )
    return names, labels


def read_partition(file: List) -> dict[str, int]:
    """Reads a partition, in either form: 0 train, 1 valid, 2 test for each image.

    Raises:
        UserError: The file cannot be understood.
    """
    rows = _rows(file)
    if file.is_csv:
        next(rows, None)
    parts: dict[str, int] = {}
    for number, (name, *values) in rows:
        if values not in (["0"], ["1"], ["2"]):
            raise UserError(
                f"{file.path} line {number}: expected a file name and 0 (train), 1 (valid) or 2 (test)"
            )
        if name in parts:
            raise UserError(f"{file.path} line {number}: a second line for {_short(name)}")
        parts[name] = int(values[0])
    return parts


def _short(name: str) -> str:
    return printable(name[:200])


def _rows(file: List) -> Iterator[tuple[int, list[str]]]:
    """The lines of a list that are not empty, each with its number."""
    try:
        lines = io.TextIOWrapper(io.BytesIO(file.content), "utf-8-sig")
        for number, line in enumerate(lines, 1):
            if len(line) > _LONGEST_LINE:
                raise UserError(f"{file.path} line {number} has more than {_LONGEST_LINE:,} characters")
            # One line at a time: else a quotation mark could have the rest of the file read as one field.
            row = next(csv.reader([line]), []) if file.is_csv else line.split()
            if row:
                yield number, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"{file.path} cannot be understood ({error}): give CelebA's .txt or .csv form"
        ) from None
