"""The trained networks: checked before they are made, loaded without foreign code, and run in batches.

A `.keras` file may come from anywhere. It holds Keras' description of the layers, by which few bytes can ask
for any amount of memory, and their weights in HDF5, which can be packed. So the network is first made without
weights, to compare what it would take with what the file holds.
"""

import hashlib
import io
import json
import logging
import math
import tempfile
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from latentfaces.common import storage
from latentfaces.common.errors import UserError, printable
from latentfaces.common.images import to_float
from latentfaces.common.model_folder import LONGER, brief, check_weights, read_network, read_text
from latentfaces.common.models import find_model

logger = logging.getLogger(__name__)

BATCH = 256
BATCH_BYTES = 256 << 20  # of the largest array between two layers; batches of large ones are smaller
LARGEST = 1 << 30  # bytes of one image's
LONGEST = 1 << 20  # bytes of a network's description

# Where a network's parts may come from. Keras' other layers read files, hold tables or loop.
_MODULES = ("keras.constraints", "keras.initializers", "keras.layers", "keras.regularizers",
            "keras.src.ops.nn", "keras.src.ops.numpy")  # fmt: skip
_LAYERS = tuple(
    f"keras.src.layers.{kind}."
    for kind in ("activations", "convolutional", "core", "merging", "normalization", "pooling",
                 "regularization", "reshaping")
)  # fmt: skip
_NOTATION = ("__keras_tensor__", "__slice__", "__ellipsis__")  # values, which are of no module


class Network:
    """A Keras model as a function of NumPy arrays, run in large batches through one compiled graph.

    Args:
        model: with one input of known shape; of several outputs, the first is given.
        name: for messages.
        sha256: of the file that it was read from, where there is one.

    Attributes:
        model: the Keras model.
        input_shape: of one input.
        output_shape: of one output.
        batch: inputs that are run at once.
    """

    def __init__(self, model: keras.Model, name: str, sha256: str = "") -> None:
        self.model, self.sha256 = model, sha256
        self.input_shape, self.output_shape, values = _sizes(model)
        self._name, self.batch = name, max(1, min(BATCH, BATCH_BYTES // (4 * values)))

        @tf.function(input_signature=[tf.TensorSpec([None, *self.input_shape], tf.float32)])
        def run(batch: tf.Tensor) -> tf.Tensor:
            return tf.cast(keras.tree.flatten(model(batch, training=False))[0], tf.float32)

        self._run = run

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Runs the network.

        Args:
            inputs: [N, ...]; uint8 images are scaled to [0, 1], floats taken as they are.

        Returns:
            float32 [N, ...].

        Raises:
            UserError: if the network gives values that are not finite.
        """
        outputs = np.empty((len(inputs), *self.output_shape), np.float32)
        for start in range(0, len(inputs), self.batch):
            rows = slice(start, start + self.batch)
            outputs[rows] = self._run(to_float(inputs[rows])).numpy()
            if not np.isfinite(outputs[rows]).all():
                raise UserError(f"{self._name} gives values that are not finite: train it again")
        return outputs

    def second(self) -> "Network | None":
        """Returns the network that gives the second output, or None where there is none."""
        if len(self.model.outputs) < 2:
            return None
        return Network(keras.Model(self.model.inputs, self.model.outputs[1:]), self._name)


def read_settings(folder: str, name: str | None, image_shape: tuple[int, ...] | None) -> dict[str, Any]:
    """Reads a model folder's `config.json`, of any version, and checks that the model fits a data set.

    Args:
        folder: local or `gs://`.
        name: of the model family; None for any.
        image_shape: (height, width, channels) of the data set; None where there is none.

    Raises:
        UserError: if there is none, or the model is of another family or for another image shape.
    """
    try:
        settings: dict[str, Any] = json.loads(read_text(storage.resolve(folder) / "config.json"))
        json.dumps(settings, allow_nan=False)
        model, shape = settings["model"], settings["image_shape"]
        if not isinstance(model, str) or [type(side) for side in shape] != [int] * 3:
            raise TypeError
    except (FileNotFoundError, NotADirectoryError):
        raise _missing(folder, "config.json") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"'{folder}/config.json' does not say which model it is: train again") from None
    if name is not None and model != name:
        model = printable(model)
        raise UserError(f"the model folder '{folder}' holds a {model}, not a {name}: give it as --{model}")
    if image_shape and shape != list(image_shape):
        raise UserError(
            f"the model '{folder}' was trained for images of {_by(shape)}, and the data set's are "
            f"{_by(image_shape)}: evaluate it on the data set that it was trained on"
        )
    if (storage.resolve(folder) / LONGER).exists():
        logger.warning(
            "the model '%s' is being trained for longer: until that is finished, its networks are those of "
            "the shorter training",
            folder,
        )
    return settings


def _missing(folder: str, file: str) -> UserError:
    return UserError(f"the model folder '{folder}' has no {file}: give one of a finished training run")


def load_network(
    folder: str, name: str, takes: tuple[int | None, ...], gives: tuple[int | None, ...]
) -> Network:
    """Loads one `.keras` file with `keras.saving.load_model` in safe mode, from a temporary local copy.

    Args:
        folder: local or `gs://`.
        name: of the file.
        takes: the input's shape, without that of the batch; None stands for any number.
        gives: the first output's.

    Raises:
        UserError: if it is damaged, is no network of Keras' own layers, asks for more memory than its weights
            fill, has other shapes or gives values that are not finite.
        OSError: if it can't be read, which is no fault of the model's.
    """
    file = f"'{folder}/{name}'"
    try:
        data = read_network(storage.resolve(folder) / name)
    except (FileNotFoundError, NotADirectoryError):
        raise _missing(folder, name) from None
    except zipfile.BadZipFile as error:
        raise UserError(f"{file} can't be loaded as a safe Keras model: {brief(error)}") from None
    try:
        with tempfile.TemporaryDirectory() as temporary:
            copy = Path(temporary) / name
            _copy(data, copy, takes, gives)
            model = keras.saving.load_model(copy, compile=False, safe_mode=True)
            network = Network(model, file, hashlib.sha256(data).hexdigest())
        network(np.zeros((1, *network.input_shape), np.float32))
        return network
    except UserError:
        raise
    except Exception as error:  # a file that may be anyone's makes Keras raise any kind
        raise UserError(f"{file} can't be loaded as a safe Keras model: {brief(error)}") from error


def load_model(
    folder: str, name: str, image_shape: tuple[int, int, int] | None = None
) -> tuple[Network, Network | None]:
    """Loads every network of a model folder; returns the one that makes images of latents, and the prior.

    Args:
        folder: local or `gs://`.
        name: of the model family.
        image_shape: (height, width, channels) of the images that it has to make; None for any.

    Raises:
        UserError: as `read_settings` and `load_network` do.
    """
    settings = read_settings(folder, name, image_shape)
    image_shape = tuple(settings["image_shape"])
    family = find_model(name)
    for other in family.network_names:
        if other != family.generator:  # it reads images
            load_network(folder, f"{other}.keras", takes=image_shape, gives=(None,))
    generator = load_network(folder, f"{family.generator}.keras", takes=(None,), gives=image_shape)
    return generator, load_prior(folder, settings, generator.input_shape[0])


def load_prior(folder: str, settings: dict[str, Any], latent_dim: int) -> Network | None:
    """Loads the network that makes a model's latents of normally distributed noise, if it has one.

    Args:
        folder: local or `gs://`.
        settings: what `read_settings` gave.
        latent_dim: how many numbers it takes and gives.

    Raises:
        UserError: as `load_network` does.
    """
    prior = find_model(settings["model"]).prior
    if prior is None or not settings.get("learned_prior"):
        return None
    return load_network(folder, f"{prior}.keras", takes=(latent_dim,), gives=(latent_dim,))


def _copy(data: bytes, copy: Path, takes: tuple[int | None, ...], gives: tuple[int | None, ...]) -> None:
    """Copies a network that is safe to load; raises an error where it is not, or has other shapes."""
    archive = zipfile.ZipFile(io.BytesIO(data))
    if archive.getinfo("config.json").file_size > LONGEST:
        raise ValueError(f"its config.json is longer than {LONGEST:,} bytes")
    config = json.loads(archive.read("config.json"))
    kind = tuple(config.get(key) for key in ("module", "class_name", "registered_name"))
    if kind != ("keras.src.models.functional", "Functional", "Functional"):
        raise ValueError("it is not a functional model")
    _check_parts(config["config"])
    text = json.dumps({**config, "compile_config": None})
    with ThreadPoolExecutor(1) as other:  # Keras' list of variables without values is a thread's own
        weights, (has_taken, has_given, values) = other.submit(_plan, text).result()
    for does, shape, wanted in (("takes", has_taken, takes), ("gives", has_given, gives)):
        if len(shape) != len(wanted) or any(b not in (None, a) for a, b in zip(shape, wanted, strict=True)):
            raise ValueError(f"it {does} {_by(shape)}, and {_by(wanted)} is needed")
    held = check_weights(data)
    if weights > len(held):
        raise ValueError("it holds fewer weights than its layers need")
    if 4 * values > LARGEST:
        raise ValueError(f"it makes arrays of {values:,} numbers of one image")
    with zipfile.ZipFile(copy, "w") as checked:
        checked.writestr("config.json", text)
        checked.writestr("metadata.json", archive.read("metadata.json"))
        checked.writestr("model.weights.h5", held)


def _check_parts(part: Any) -> None:
    """Raises `ValueError` where a network's description names what is not a plain part of Keras.

    Weights are to begin as zeros: they are read anyway, and random ones would take their memory twice.
    """
    if isinstance(part, dict):
        if "class_name" in part and part["class_name"] not in _NOTATION:
            module, name = part.get("module"), part["class_name"]
            is_known = module in _MODULES or (module, name) == ("keras", "DTypePolicy")
            is_known &= part.get("registered_name") in (None, name)
            if module == "keras.layers":
                is_known &= getattr(keras.layers, name).__module__.startswith(_LAYERS)
            if not is_known:
                raise ValueError(f"{module}.{name} is not a layer that is known to be safe")
            if module == "keras.initializers":
                part.update(class_name="Zeros", config={})
        if len(part.get("inbound_nodes", ())) > 1:  # its sizes would be those of the first use only
            raise ValueError("it uses a layer twice")
        part = list(part.values())
    for each in part if isinstance(part, list) else ():
        _check_parts(each)


def _plan(text: str) -> tuple[int, tuple[Any, ...]]:
    """Makes a network without weights; returns the bytes that they take, and its sizes."""
    with keras.StatelessScope(initialize_variables=False):
        model = keras.saving.deserialize_keras_object(json.loads(text), safe_mode=True)
        weights = sum(math.prod(each.shape) * tf.as_dtype(each.dtype).size for each in model.variables)
        return weights, _sizes(model)


def _sizes(model: keras.Model) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Returns the shapes of input and first output, and the most numbers between two layers, of an image."""
    (taken,), given = model.inputs, model.outputs[0]
    arrays = [array for step in model.operations for array in keras.tree.flatten(step.output)]
    return taken.shape[1:], given.shape[1:], max(math.prod(array.shape[1:]) for array in arrays)


def _by(shape: Sequence[int | None]) -> str:
    return "x".join("any" if side is None else str(side) for side in shape)
