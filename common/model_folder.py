"""The model folder's format: `config.json`, `history.csv` and the networks, which are written last."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from latentfaces.common import storage
from latentfaces.common.config import TrainConfig
from latentfaces.common.models import config_from_json, find_model
from latentfaces.common.storage import AnyPath


def read_config(folder: AnyPath) -> TrainConfig:
    """Returns the configuration of the run in a model folder; raises as `config_from_json` does."""
    return config_from_json(storage.read(folder / "config.json").decode())


def read_history(folder: AnyPath) -> list[dict[str, str]]:
    """Returns the rows of `history.csv` in a model folder, or none where there is none."""
    file = folder / "history.csv"
    return list(csv.DictReader(io.StringIO(file.read_text()))) if file.exists() else []


def is_finished(folder: AnyPath, config: TrainConfig) -> bool:
    """Whether the networks, which are written last, are there."""
    return all((folder / f"{name}.keras").exists() for name in find_model(config.model).network_names)


def copy_model(model: str, folder: str, target: str) -> None:
    """Copies a trained model's few files to a local folder that a pipeline passes on.

    Args:
        model: name of the model family.
        folder: the model folder, local or `gs://`.
        target: the local folder.
    """
    source = storage.resolve(folder)
    networks = (f"{name}.keras" for name in find_model(model).network_names)
    for name in ("config.json", "history.csv", *networks):
        storage.write(Path(target) / name, storage.read(source / name))
