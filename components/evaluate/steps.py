"""A trained network as the list of steps that `decoder.js` runs in the report."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import layers

Step = dict[str, Any]


class UnsupportedError(Exception):
    """A network that the page can't run; the message completes "…, since"."""


@dataclass
class Program:
    """A network as the page runs it.

    Attributes:
        steps: what is computed, each step of what the one before it made.
        weights: of all steps, in this order.
        multiplications: for one image, about.
    """

    steps: list[Step] = field(default_factory=list)
    weights: list[np.ndarray] = field(default_factory=list)
    multiplications: int = 0

    @property
    def bytes(self) -> int:
        """What it adds to the page."""
        return 4 * sum(array.size for array in self.weights) * 2 // 3

    def as_json(self) -> dict[str, Any]:
        """Returns what the page holds of it: `steps`, and `weights` as base64 of float16 numbers."""
        flat = np.concatenate([np.zeros(0), *(array.ravel() for array in self.weights)])
        return {"steps": self.steps, "weights": half(flat)}

    def add(self, kind: str, *weights: np.ndarray, **settings: Any) -> None:
        """Adds a step."""
        arrays = [np.asarray(array, np.float32) for array in weights]
        if any(not (np.abs(array) < np.finfo(np.float16).max).all() for array in arrays):
            raise UnsupportedError("its weights are too large for half precision")
        self.steps.append({"kind": kind, "sizes": [array.size for array in arrays], **settings})
        self.weights += arrays

    def multiply(self, kind: str, matrix: np.ndarray, bias: Any, rows: int, **others: Any) -> None:
        """Adds a step that multiplies a matrix of so many rows with this one."""
        self.multiplications += rows * matrix.size
        columns = others["given"][-1] if "given" in others else matrix.shape[1]
        bias = np.zeros(columns) if bias is None else bias
        self.add(kind, matrix, bias, matrix=list(matrix.shape), **others)


def half(numbers: np.ndarray) -> str:
    """Returns numbers as base64 of little-endian float16."""
    return base64.b64encode(numbers.astype("<f2").tobytes()).decode()


def export(model: keras.Model) -> Program:
    """Turns a functional model of one input into a list of steps, up to its first output.

    Weights are rounded to float16, eleven significant bits. Layers have to follow one another: those that
    take several arrays are not known.

    Raises:
        UnsupportedError: if it has another layer, or a setting of one that is not known here.
    """
    program = Program()
    for layer in _chain(model):
        kind = type(layer).__name__
        if kind not in _KINDS:
            raise UnsupportedError(f"the page knows no layer {kind}")
        _KINDS[kind](program, layer)
    return program


def _chain(model: keras.Model) -> list[Any]:
    """The layers from the input to the first output; of what takes several arrays, nothing before it."""
    wanted = keras.tree.flatten(model.outputs)[0]
    chain: list[Any] = []
    for layer in reversed(model.operations):
        if layer.output is wanted and not isinstance(layer, layers.InputLayer):
            chain.insert(0, layer)
            wanted = layer.input
    return chain


def _check(*conditions: bool, layer: Any) -> None:
    if not all(conditions):
        raise UnsupportedError(f"the page does not know all settings of its layer {layer.name}")


def _activation(program: Program, layer: Any) -> None:
    """Adds a layer's activation function, if it has one."""
    name = getattr(layer.activation, "__name__", "")
    if name not in ("linear", "leaky_relu", "relu", "sigmoid", "tanh"):
        raise UnsupportedError(f"the page knows no activation {name}")
    if name in ("relu", "leaky_relu"):
        _relu(program, 0.2 if name == "leaky_relu" else 0.0)
    elif name != "linear":
        program.add("activation", name=name)


def _relu(program: Program, slope: float) -> None:
    program.add("activation", name="relu", slope=float(slope))


def _dense(program: Program, layer: Any) -> None:
    rows = math.prod(layer.input.shape[1:-1])
    program.multiply("dense", np.asarray(layer.kernel), layer.bias, rows)
    _activation(program, layer)


def _convolution(program: Program, layer: Any) -> None:
    taken, given = _shapes(layer)
    _check(layer.groups == 1, layer=layer)
    totals = [
        max((made - 1) * stride + size - had, 0) if layer.padding == "same" else 0
        for had, made, stride, size in zip(taken, given, layer.strides, layer.kernel_size, strict=False)
    ]
    program.multiply(
        "convolution",
        np.asarray(layer.kernel).reshape(-1, given[-1]),
        layer.bias,
        given[0] * given[1],
        taken=taken,
        given=given,
        kernel=layer.kernel_size,
        stride=layer.strides,
        pad=[total // 2 for total in totals],
    )
    _activation(program, layer)


def _transposed(program: Program, layer: Any) -> None:
    taken, given = _shapes(layer)
    _check(layer.padding == "same", layer.output_padding is None, layer=layer)
    program.multiply(
        "transposed",
        np.asarray(layer.kernel).transpose(3, 0, 1, 2).reshape(taken[-1], -1),
        layer.bias,
        taken[0] * taken[1],
        taken=taken,
        given=given,
        kernel=layer.kernel_size,
        stride=layer.strides,
        pad=[
            max(size - stride, 0) // 2 for size, stride in zip(layer.kernel_size, layer.strides, strict=True)
        ],
    )
    _activation(program, layer)


def _shapes(layer: Any) -> tuple[list[int], list[int]]:
    """The shapes of what a convolution takes and gives, [height, width, channels] both."""
    _check(layer.data_format == "channels_last", max(layer.dilation_rate) == 1, layer=layer)
    return list(layer.input.shape[1:]), list(layer.output.shape[1:])


def _normalization(program: Program, layer: Any) -> None:
    rank, channels = len(layer.input.shape), layer.input.shape[-1]
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    _check(axes in ([-1], [rank - 1]), layer=layer)
    is_rms = isinstance(layer, layers.RMSNormalization)
    scale, shift = (layer.scale, None) if is_rms else (layer.gamma, layer.beta)
    scale = np.ones(channels) if scale is None else np.asarray(scale)
    shift = np.zeros(channels) if shift is None else np.asarray(shift)
    if isinstance(layer, layers.BatchNormalization):  # of the moments that training left
        scale = scale / np.sqrt(np.asarray(layer.moving_variance) + layer.epsilon)
        program.add("affine", scale, shift - np.asarray(layer.moving_mean) * scale)
    else:
        program.add("normalization", scale, shift, centre=not is_rms, epsilon=layer.epsilon)


def _rectifier(program: Program, layer: Any) -> None:
    _check(getattr(layer, "max_value", None) is None, not getattr(layer, "threshold", 0), layer=layer)
    _relu(program, layer.negative_slope)


def _same(program: Program, layer: Any) -> None:
    """Adds nothing: the numbers, and their order in memory, stay."""


_KINDS: dict[str, Callable[[Program, Any], None]] = {
    "Dense": _dense,
    "Conv2D": _convolution,
    "Conv2DTranspose": _transposed,
    "BatchNormalization": _normalization,
    "LayerNormalization": _normalization,
    "RMSNormalization": _normalization,
    "Activation": _activation,
    "LeakyReLU": _rectifier,
    "ReLU": _rectifier,
    "Dropout": _same,
    "Flatten": _same,
    "Reshape": _same,
}
