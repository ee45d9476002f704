"""The trained networks: model folders checked, loaded without running foreign code, and run in batches."""

import json
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from components.evaluate.pictures import to_float
from preprocessing import storage
from preprocessing.errors import UserError

BATCH = 256
FILES = {"vae": ("encoder.keras", "decoder.keras"), "gan": ("generator.keras",)}


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


@dataclass(frozen=True)
class Vae:
    """`encoder` maps images to the means of their latent distributions, `decoder` latents to images."""

    encoder: Network
    decoder: Network

    @property
    def latent_dim(self) -> int:
        """The length of a latent vector."""
        return self.decoder.input_shape[-1]


def read_config(folder: str, kind: str, image_shape: tuple[int, ...]) -> dict[str, Any]:
    """Reads a model folder's `config.json` and checks that the folder can be evaluated on a data set.

    Args:
        folder: local or `gs://`.
        kind: "vae" or "gan".
        image_shape: (height, width, channels) of the data set.

    Raises:
        UserError: if a file is missing, or the model is of another kind or for another image shape.
    """
    root = storage.resolve(folder)
    for name in ("config.json", *FILES[kind]):
        if not (root / name).exists():
            raise UserError(f"Model folder '{folder}' has no {name}: give one of a finished training run.")
    try:
        config = json.loads(storage.read(root / "config.json"))
        model, shape = config["model"], tuple(config["image_shape"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"'{folder}/config.json' does not say which model it is: train again.") from None
    if model != kind:
        raise UserError(f"Model folder '{folder}' holds a {model}, not a {kind}: give it as --{model}.")
    if shape != tuple(image_shape):
        raise UserError(
            f"Model '{folder}' was trained for images of {_by(shape)}, and the data set's are "
            f"{_by(image_shape)}: evaluate it on the data set that it was trained on."
        )
    return config


def load_vae(folder: str) -> Vae:
    """Loads `encoder.keras` and `decoder.keras` of a model folder; raises as `load_network` does."""
    return Vae(*(load_network(folder, name) for name in FILES["vae"]))


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
