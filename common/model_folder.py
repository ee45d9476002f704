"""The model folder's format: `config.json`, `history.csv` and the networks, which are written last.

A model folder may come from anywhere: what is read here is checked, and what is wrong told in a sentence.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import re
import warnings
import zipfile
from collections.abc import Container
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from latentfaces.common import storage
from latentfaces.common.config import TrainConfig
from latentfaces.common.errors import UserError, printable
from latentfaces.common.models import config_from_json, find_model
from latentfaces.common.pictures import png
from latentfaces.common.storage import AnyPath

LARGEST_NETWORK = 1 << 30  # bytes of a `.keras` file
LONGEST_TEXT = 16 << 20  # bytes of `history.csv` or `config.json`
LARGEST_PICTURE, LONGEST_SIDE = 16 << 20, 4096  # bytes and pixels of a sample picture
PICTURES, PICTURE_SIDE = 24, 400  # sample pictures that are read, and the pixels that they are reduced to
DIVERSE = 0.5  # the share of real images' diversity below which samples are called alike: mode collapse
# Lies there while a trained model is trained for longer: the networks still are the shorter training's.
LONGER = "longer.txt"
# When a run begins, whatever is promoted later; and what the data set's digest stands for.
_SETTLED = ("initial_run", "initial_digest", "examples")
_MEMBERS = ["config.json", "metadata.json", "model.weights.h5"]


def read_config(folder: AnyPath) -> TrainConfig:
    """Returns the configuration of the run in a model folder.

    Raises:
        UserError: if there is none, or it is not one of this version.
    """
    file = folder / "config.json"
    try:
        return config_from_json(read_text(file))
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError, UserError) as error:
        raise UserError(
            f"{file} does not describe a run of this version ({brief(error)}): train in another folder"
        ) from None


def refuse_other_run(folder: AnyPath, config: TrainConfig, ignored: Container[str] = ("dataset",)) -> None:
    """Makes sure that the run in a model folder is the one that is asked for.

    Args:
        folder: the model folder, which has a `config.json`.
        config: what is asked for.
        ignored: fields that may differ.

    Raises:
        UserError: if it is another run.
    """
    earlier = read_config(folder)
    for field in dict.fromkeys(each.name for it in (earlier, config) for each in dataclasses.fields(it)):
        old, new = (getattr(it, field, None) for it in (earlier, config))
        if old != new and field not in ignored and field not in _SETTLED:
            raise UserError(
                f"{folder} holds a run whose {field} is {old}, and {new} is asked for: choose another "
                "folder, or remove that one"
            )


def read_history(folder: AnyPath) -> list[dict[str, str]]:
    """Returns the rows of `history.csv` in a model folder, or none where there is none.

    Raises:
        UserError: if it is cut, or does not hold a step and numbers in every row.
    """
    file = folder / "history.csv"
    if not file.exists():
        return []
    try:
        text = read_text(file)
        if text and not text.endswith("\n"):
            raise ValueError("the last line is cut")
        rows = list(csv.DictReader(io.StringIO(text), strict=True))
        for row in rows:
            if None in row or None in row.values():
                raise ValueError("a row has another length than the first")
            if not 0 <= int(row["step"]) < 1 << 53:
                raise ValueError("a step is out of bounds")
            for value in row.values():
                float(value or "nan")
        return rows
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise UserError(
            f"{file} is damaged ({brief(error)}): remove it, and go on without the losses so far"
        ) from None


def read_network(file: AnyPath) -> bytes:
    """Returns a `.keras` file that is whole, and takes no more memory than its size when it is unpacked.

    Raises:
        OSError: if there is none, or it can't be read.
        zipfile.BadZipFile: if it is empty, cut, damaged, or has other members than Keras writes.
    """
    data = storage.read(file, 0, LARGEST_NETWORK + 1)
    try:
        if len(data) > LARGEST_NETWORK:
            raise ValueError(f"it is larger than {LARGEST_NETWORK:,} bytes")
        archive = zipfile.ZipFile(io.BytesIO(data))
        members = archive.infolist()
        if sorted(member.filename for member in members) != _MEMBERS:
            raise ValueError(f"its members are not {', '.join(_MEMBERS)}")
        if sum(member.file_size for member in members) > len(data):  # Keras compresses nothing; bombs do
            raise ValueError("it is larger when it is unpacked")
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} is damaged")
        return data
    except Exception as error:  # damaged bytes make the module raise many kinds
        raise zipfile.BadZipFile(brief(error)) from None


def check_weights(network: bytes) -> bytes:
    """Returns the weights in a whole `.keras` file, which are plain numbers, no larger than the file.

    Raises:
        ValueError: if they are not.
    """
    held = zipfile.ZipFile(io.BytesIO(network)).read("model.weights.h5")
    try:
        with h5py.File(io.BytesIO(held)) as opened:
            arrays: list[h5py.Dataset] = []
            opened.visititems(lambda _, item: arrays.append(item) if isinstance(item, h5py.Dataset) else None)
            if any(array.dtype.kind not in "biuf" for array in arrays):
                raise ValueError("its weights are not numbers")
            if sum(array.nbytes for array in arrays) > len(held):
                raise ValueError("its weights are packed")
    except ValueError:
        raise
    except Exception as error:  # damaged bytes make h5py raise many kinds
        raise ValueError(f"its weights are damaged: {brief(error)}") from None
    return held


def is_finished(folder: AnyPath, config: TrainConfig) -> bool:
    """Whether the networks, which are written last, are there and whole, and no shorter training's."""
    if (folder / LONGER).exists():
        return False
    try:
        for name in find_model(config.model, config.preset).network_names:
            read_network(folder / f"{name}.keras")
        return True
    except (OSError, zipfile.BadZipFile):
        return False


def read_samples(folder: AnyPath) -> tuple[dict[int, Image.Image], int]:
    """Reads the pictures that a run left of its samples.

    Returns:
        by epoch, in order, those of at most `PICTURES` epochs, evenly spaced from the first to the last: mode
        "RGBA", at most `PICTURE_SIDE` pixels a side. And how many more there are of these epochs, which are
        left out, because they are damaged, too large, no PNG or of another size than the last.
    """
    names = storage.list_files(folder / "samples")
    epochs = sorted(
        {int(found[1]) for name in names if (found := re.fullmatch(r"epoch-(\d{4,9})\.png", name))}
    )
    chosen = np.unique(np.linspace(0, len(epochs) - 1, min(len(epochs), PICTURES)).round().astype(int))
    pictures = {}
    for epoch in [epochs[place] for place in chosen]:
        with contextlib.suppress(
            OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning
        ):
            pictures[epoch] = _read_picture(folder / "samples" / f"epoch-{epoch:04d}.png")
    sizes = [picture.size for picture in pictures.values()]
    alike = {epoch: picture for epoch, picture in pictures.items() if picture.size == sizes[-1]}
    return alike, len(chosen) - len(alike)


def _read_picture(file: AnyPath) -> Image.Image:
    data = storage.read(file, 0, LARGEST_PICTURE + 1)
    with (
        warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning),
        Image.open(io.BytesIO(data), formats=["PNG"]) as picture,
    ):
        if len(data) > LARGEST_PICTURE or max(picture.size) > LONGEST_SIDE:
            raise ValueError("it is too large")
        reduced = picture.convert("RGBA")
        reduced.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
        return reduced


def copy_model(folder: str, target: str) -> None:
    """Copies a trained model's few files, and small sample pictures, to a folder that a pipeline passes on.

    Args:
        folder: the model folder, local or `gs://`.
        target: the local folder.
    """
    source = storage.resolve(folder)
    config = read_config(source)
    networks = (f"{name}.keras" for name in find_model(config.model, config.preset).network_names)
    for name in ("config.json", "history.csv", *networks):
        storage.write(Path(target) / name, storage.read(source / name))
    for epoch, picture in read_samples(source)[0].items():
        storage.write(Path(target) / "samples" / f"epoch-{epoch:04d}.png", png(picture))


def read_text(file: AnyPath) -> str:
    """Returns a text of no great length; raises `OSError` or `ValueError`."""
    data = storage.read(file, 0, LONGEST_TEXT + 1)
    if len(data) > LONGEST_TEXT:
        raise ValueError(f"it is longer than {LONGEST_TEXT:,} bytes")
    return data.decode()


def brief(error: Exception) -> str:
    """Returns the beginning of what an error says of a file that may be anyone's."""
    return printable(str(error).strip().split("\n")[0][:200])
