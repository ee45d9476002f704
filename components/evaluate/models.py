"""The trained networks: model folders checked, loaded without running foreign code, and run in batches."""

import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from latentfaces.common import storage
from latentfaces.common.errors import UserError
from latentfaces.common.images import to_float
from latentfaces.common.models import find_model

BATCH = 256


class Network:
    """A Keras model as a function of NumPy arrays, run in large batches through one compiled graph.

    Args:
        model: with one input of known shape; of several outputs, the first is kept.
    """

    def __init__(self, model: keras.Model) -> None:
        """Wraps the model; its graph is built with the first batch."""
        self.input_shape = tuple(model.input_shape[1:])
        outputs = model.output_shape
        self.output_shape = tuple(outputs[0] if isinstance(outputs, list) else outputs)[1:]

        @tf.function(input_signature=[tf.TensorSpec([None, *self.input_shape], tf.float32)])
        def run(batch: tf.Tensor) -> tf.Tensor:
            result = model(batch, training=False)
            return tf.cast(result[0] if isinstance(result, list | tuple) else result, tf.float32)

        self._run = run

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Runs the network.

        Args:
            inputs: [N, ...]; uint8 images are scaled to [0, 1], floats taken as they are.

        Returns:
            float32 [N, ...].
        """
        batches = (inputs[start : start + BATCH] for start in range(0, len(inputs), BATCH))
        return np.concatenate([self._run(to_float(batch)).numpy() for batch in batches])


def read_settings(folder: str, name: str, image_shape: tuple[int, ...]) -> dict[str, Any]:
    """Reads a model folder's `config.json`, of any version, and checks that the model fits a data set.

    Args:
        folder: local or `gs://`.
        name: of the model family.
        image_shape: (height, width, channels) of the data set.

    Raises:
        UserError: if a file is missing, or the model is of another family or for another image shape.
    """
    root, family = storage.resolve(folder), find_model(name)
    networks = [f"{network}.keras" for network in (family.encoder, family.generator) if network]
    for file in ("config.json", *networks):
        if not storage.is_file(root / file):
            raise UserError(f"the model folder '{folder}' has no {file}: give one of a finished training run")
    try:
        settings: dict[str, Any] = json.loads(storage.read(root / "config.json"))
        model, shape = settings["model"], tuple(settings["image_shape"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"'{folder}/config.json' does not say which model it is: train again") from None
    if model != name:
        raise UserError(f"the model folder '{folder}' holds a {model}, not a {name}: give it as --{model}")
    if shape != tuple(image_shape):
        raise UserError(
            f"the model '{folder}' was trained for images of {_by(shape)}, and the data set's are "
            f"{_by(image_shape)}: evaluate it on the data set that it was trained on"
        )
    return settings


def load_network(folder: str, name: str) -> Network:
    """Loads one `.keras` file with `keras.saving.load_model` in safe mode, from a temporary local copy.

    Raises:
        UserError: if it is damaged, or asks for code that safe mode does not run.
    """
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / name
        copy.write_bytes(storage.read(storage.resolve(folder) / name))
        try:
            return Network(keras.saving.load_model(copy, compile=False, safe_mode=True))
        except (ValueError, TypeError, KeyError, OSError, zipfile.BadZipFile) as error:
            reason = str(error).strip().split("\n")[0]
            raise UserError(f"'{folder}/{name}' can't be loaded as a safe Keras model: {reason}") from error


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
