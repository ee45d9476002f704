"""CelebA as it is distributed: where its images lie, and lists of labels and partition, like its own."""

import csv
import io
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from latentfaces.common import storage
from latentfaces.common.dataset import check_attribute_names
from latentfaces.common.errors import UserError, printable
from latentfaces.common.storage import AnyPath
from latentfaces.preprocessing.sources.split import WORDS

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

MOST_CLASSES = 100
"""So many values at most may a column of classes have, and so many folders may be classes."""

_TRUTHS = {"1": True, "1.0": True, "true": True} | dict.fromkeys(("0", "0.0", "-1", "-1.0", "false"), False)
_PARTS = {"0": 0, "0.0": 0, "1": 1, "1.0": 1, "2": 2, "2.0": 2} | WORDS
_INDEX = ([""], ["Unnamed: 0"])  # how pandas heads a column of its own
_LIST_FOLDERS = ("", "Anno", "Eval")  # where lists lie, beside the images or in a folder further up
_LONGEST_LIST = 1 << 30  # bytes
_LONGEST_LINE = 4 << 20  # characters


class List(NamedTuple):
    """A list of labels or of the partition: its path, to be shown, and its content, untrusted."""

    path: str
    content: bytes

    @property
    def is_csv(self) -> bool:
        """Whether it is in Kaggle's form."""
        return self.path.lower().endswith(".csv")


class Lines(NamedTuple):
    """Labels or a partition: where they are, to be shown, and what reads them, as functions here do."""

    path: str
    read: Callable[[], Any]

    @property
    def name(self) -> str:
        """The file's name without the folder."""
        return self.path.rsplit("/", 1)[-1]


Labels = tuple[tuple[str, ...], dict[str, int]]
"""The names of attributes, and for each image a number whose bit i is attribute i."""


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


class _Column(dict[str, int]):
    """The texts in a column of a list of labels, numbered as they come; a new one has to fit the others."""

    def __init__(self, name: str, *, may_be_classes: bool) -> None:
        super().__init__()
        self.name = name
        self._may_be_classes = may_be_classes

    def __missing__(self, text: str) -> int:
        """Takes up a new text; raises `ValueError` if the column then holds neither truths nor classes."""
        self[text] = number = len(self)
        if len(self) > MOST_CLASSES:
            raise ValueError(
                f"{self.name} has more than {MOST_CLASSES} different ones, too many for classes: leave it out"
            )
        if not self.has_truths:
            values = {each.strip() for each in self}
            # 0 and 1 may be classes among other numbers; beside a word they would be a slip of the pen.
            is_mixed = any(each.lower() in _TRUTHS for each in values) and not all(map(str.isdecimal, values))
            if is_mixed or "" in values or not self._may_be_classes:
                raise ValueError(f"{self.name} is '{_short(text)}': correct it, or leave {self.name} out")
        return number

    @property
    def has_truths(self) -> bool:
        """Whether it holds nothing but 0 and 1, -1 and 1, or false and true."""
        return all(text.strip().lower() in _TRUTHS for text in self)

    def attributes(self) -> tuple[list[str], list[int]]:
        """Returns the names of its attributes, and for each text, in order, a number with a bit of each."""
        if self.has_truths:
            return [self.name], [int(_TRUTHS[text.strip().lower()]) for text in self]
        values = [text.strip() for text in self]
        is_number = all(map(str.isdecimal, values))
        classes = sorted(set(values), key=lambda value: (len(value) * is_number, value))
        return [f"{self.name}_{each}" for each in classes], [1 << classes.index(value) for value in values]


def read_attributes(file: List) -> Labels:
    """Reads labels, in CelebA's `.txt` form, or a `.csv` with file names in the first column, as Kaggle's.

    A column of a `.csv` that holds neither 0 and 1, -1 and 1, nor false and true is one of classes: each of
    its values is an attribute, named `column_value`. A first column without a name that counts from 0 is
    passed over: pandas writes it. A `.csv` without a header is read if it has 40 values a line: CelebA's.

    Raises:
        UserError: The file cannot be understood.
    """
    rows, expected = _rows(file), None
    if not file.is_csv:
        count = next(rows, (1, []))[1]
        if len(count) != 1 or not count[0].isdecimal() or len(count[0]) > 18:
            raise UserError(f"{file.path} does not begin with a count and a line of names, as CelebA's does")
        expected = int(count[0])
    number, header = next(rows, (1, []))
    if file.is_csv and len(header) > 1 and all(cell.strip().lower() in _TRUTHS for cell in header[1:]):
        if len(header) != 1 + len(ATTRIBUTES):
            raise UserError(f"{file.path} has no header that names its attributes: put one in front")
        rows, header = itertools.chain([(number, header)], rows), ["", *ATTRIBUTES]
    first = list(itertools.islice(rows, 1))
    has_index = file.is_csv and header[:1] in _INDEX and [row[0] for _, row in first] == ["0"]
    names = [name.strip() for name in header[file.is_csv + has_index :]]
    _check_names(file, names)
    columns = [_Column(name, may_be_classes=file.is_csv) for name in names]
    wanted = f"a file name and {len(names)} values of 1 or -1{', 1 or 0, or classes' * file.is_csv}"
    codes: dict[str, bytes] = {}  # of each image, the numbers of the texts in its line
    for number, row in itertools.chain(first, rows):
        name, *values = row[has_index:] or row
        name = name.strip() if has_index else name
        if len(values) != len(names):
            raise UserError(f"{file.path} line {number}: expected {wanted}")
        if name in codes:
            raise UserError(f"{file.path} line {number}: a second line for {_short(name)}")
        try:
            codes[name] = bytes([column[value] for column, value in zip(columns, values, strict=True)])
        except ValueError as error:
            raise UserError(f"{file.path} line {number}: expected {wanted}, and {error}") from None
    if expected is not None and expected != len(codes):
        raise UserError(
            f"{file.path} says that it has {expected} lines and has {len(codes)}: is it complete?"
        )
    attributes: list[str] = []
    bits = []  # of each column, what its texts are worth
    for column in columns:
        own, values_of_texts = column.attributes()
        bits.append([value << len(attributes) for value in values_of_texts])
        attributes += own
    _check_names(file, attributes)
    labels = {name: sum(map(list.__getitem__, bits, numbers)) for name, numbers in codes.items()}
    return tuple(attributes), labels


def class_labels(classes: Mapping[str, int]) -> Labels:
    """Makes an attribute of each class, such as `class_3`, from the classes of images.

    Raises:
        ValueError: There are too many classes.
    """
    found = sorted(set(classes.values()))
    if len(found) > MOST_CLASSES:
        raise ValueError(f"more than {MOST_CLASSES} classes")
    bits = {each: 1 << position for position, each in enumerate(found)}
    return tuple(f"class_{each}" for each in found), {name: bits[each] for name, each in classes.items()}


def _check_names(file: List, names: Sequence[str]) -> None:
    """Checks the names of attributes, or of columns; raises `UserError`."""
    try:
        check_attribute_names(names)
    except ValueError as error:
        raise UserError(f"the attributes of {file.path} cannot be used, {error}: rename them") from None
    if not names:
        where = "header, between commas" if file.is_csv else "header"
        raise UserError(f"{file.path} does not name its attributes in its {where}: correct it")


def read_partition(file: List) -> dict[str, int]:
    """Reads a partition, in either form: 0 train, 1 valid, 2 test for each image, or these words.

    A `.csv` may have a header.

    Raises:
        UserError: The file cannot be understood.
    """
    parts: dict[str, int] = {}
    has_index = False
    for row, (number, cells) in enumerate(_rows(file)):
        if row == 0:
            has_index = file.is_csv and len(cells) == 3 and cells[:1] in _INDEX
        name, *values = cells[has_index:] or cells
        name = name.strip() if has_index else name
        part = _PARTS.get(values[0].strip().lower()) if len(values) == 1 else None
        if part is None and row == 0 and file.is_csv:
            continue  # its header
        if part is None:
            raise UserError(
                f"{file.path} line {number}: expected a file name and 0 (train), 1 (valid) or 2 (test)"
            )
        if name in parts:
            raise UserError(f"{file.path} line {number}: a second line for {_short(name)}")
        parts[name] = part
    return parts


def match(lines: Mapping[str, int], names: Collection[str]) -> Mapping[str, int]:
    """Returns a list's lines under images' names, where it names the same images with another ending.

    Copies of CelebA come as `.png`, beside lists that name `.jpg`. A list that names any of the images as it
    is called is left as it is.
    """
    if not lines.keys().isdisjoint(names):
        return lines
    stems = {_stem(name): value for name, value in lines.items()}
    found = {name: stems[_stem(name)] for name in names if _stem(name) in stems}
    if not found or len(stems) < len(lines):
        return lines
    rest = stems.keys() - map(_stem, found)
    return found | {stem: stems[stem] for stem in rest}


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


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
