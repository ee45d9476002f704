"""A trained network as the list of steps that `decoder.js` runs in the report."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Sequence
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
        steps: what is computed, one array after the other; `from` holds the places of what a step takes.
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
        flat = np.concatenate([array.ravel() for array in self.weights]) if self.weights else np.zeros(0)
        return {"steps": self.steps, "weights": half(flat)}

    def add(self, kind: str, sources: Sequence[int], *weights: np.ndarray, **settings: Any) -> int:
        """Adds a step; returns its place."""
        arrays = [np.asarray(array, np.float32) for array in weights]
        if any(not (np.abs(array) < np.finfo(np.float16).max).all() for array in arrays):
            raise UnsupportedError("its weights are too large for half precision")
        self.steps.append(
            {"kind": kind, "from": list(sources), "sizes": [array.size for array in arrays], **settings}
        )
        self.weights += arrays
        return len(self.steps) - 1

    def multiply(
        self, kind: str, source: int, matrix: np.ndarray, bias: Any, rows: int, **others: Any
    ) -> int:
        """Adds a step that multiplies a matrix of so many rows with this one; returns its place."""
        self.multiplications += rows * matrix.size
        columns = others["given"][-1] if "given" in others else matrix.shape[1]
        bias = np.zeros(columns) if bias is None else bias
        return self.add(kind, [source], matrix, bias, matrix=list(matrix.shape), **others)


def half(numbers: np.ndarray) -> str:
    """Returns numbers as base64 of little-endian float16; what is too large becomes its largest."""
    largest = np.finfo(np.float16).max
    return base64.b64encode(numbers.clip(-largest, largest).astype("<f2").tobytes()).decode()


def export(model: keras.Model) -> Program:
    """Turns a functional model of one input into a list of steps, up to its first output.

    Weights are rounded to float16, eleven significant bits. Of Keras' layers those are known that make images
    of latents and the other way around, however they are connected.

    Raises:
        UnsupportedError: if it has another layer, or a setting of one that is not known here.
    """
    program = Program()
    places: dict[int, int] = {}
    for operation in _needed(model):
        kind = type(operation).__name__
        if kind not in _KINDS:
            raise UnsupportedError(f"the page knows no layer {kind}")
        sources = [places[id(each)] for each in _tensors(operation)]
        places[id(operation.output)] = _KINDS[kind](program, operation, sources)
    return program


def _tensors(operation: Any) -> list[Any]:
    """The arrays that an operation takes; an input takes none."""
    is_input = isinstance(operation, layers.InputLayer)
    return [] if is_input else keras.tree.flatten(operation.input)


def _needed(model: keras.Model) -> list[Any]:
    """The operations that lead to the first output, in the order in which they are computed."""
    wanted = {id(keras.tree.flatten(model.outputs)[0])}
    needed = []
    for operation in reversed(model.operations):
        if id(operation.output) in wanted:
            needed.append(operation)
            wanted |= {id(each) for each in _tensors(operation)}
    return needed[::-1]


def _check(*conditions: bool, layer: Any) -> None:
    if not all(conditions):
        raise UnsupportedError(f"the page does not know all settings of its layer {layer.name}")


def _activate(program: Program, source: int, layer: Any) -> int:
    """Adds a layer's activation function, if it has one."""
    name = getattr(layer.activation, "__name__", "")
    if name in ("linear", "sigmoid", "tanh", "silu", "swish"):
        name = {"swish": "silu"}.get(name, name)
        return source if name == "linear" else program.add("activation", [source], name=name)
    if name in ("relu", "leaky_relu"):
        return _relu(program, source, slope=0.2 if name == "leaky_relu" else 0.0)
    raise UnsupportedError(f"the page knows no activation {name}")


def _relu(program: Program, source: int, slope: float, most: float | None = None) -> int:
    most = float(np.finfo(np.float32).max) if most is None else float(most)
    return program.add("activation", [source], name="relu", slope=float(slope), most=most)


def _dense(program: Program, layer: Any, sources: Sequence[int]) -> int:
    matrix = np.asarray(layer.kernel)
    rows = math.prod(layer.input.shape[1:-1])
    place = program.multiply("dense", sources[0], matrix, layer.bias, rows)
    return _activate(program, place, layer)


def _convolution(program: Program, layer: Any, sources: Sequence[int]) -> int:
    taken, given = (list(each.shape[1:]) for each in (layer.input, layer.output))
    plain = layer.groups == 1 and max(layer.dilation_rate) == 1
    _check(layer.data_format == "channels_last", plain, layer=layer)
    totals = [
        max((made - 1) * stride + size - had, 0) if layer.padding == "same" else 0
        for had, made, stride, size in zip(taken, given, layer.strides, layer.kernel_size, strict=False)
    ]
    place = program.multiply(
        "convolution",
        sources[0],
        np.asarray(layer.kernel).reshape(-1, given[-1]),
        layer.bias,
        given[0] * given[1],
        taken=taken,
        given=given,
        kernel=layer.kernel_size,
        stride=layer.strides,
        pad=[total // 2 for total in totals],
    )
    return _activate(program, place, layer)


def _transposed(program: Program, layer: Any, sources: Sequence[int]) -> int:
    taken, given = (list(each.shape[1:]) for each in (layer.input, layer.output))
    plain = layer.output_padding is None and max(layer.dilation_rate) == 1
    _check(layer.data_format == "channels_last", layer.padding == "same", plain, layer=layer)
    place = program.multiply(
        "transposed",
        sources[0],
        np.asarray(layer.kernel).transpose(3, 0, 1, 2).reshape(taken[-1], -1),
        layer.bias,
        taken[0] * taken[1],
        taken=taken,
        given=given,
        kernel=layer.kernel_size,
        stride=layer.strides,
        pad=[max(s - t, 0) // 2 for s, t in zip(layer.kernel_size, layer.strides, strict=True)],
    )
    return _activate(program, place, layer)


def _normalization(program: Program, layer: Any, sources: Sequence[int]) -> int:
    rank, channels = len(layer.input.shape), layer.input.shape[-1]
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    _check(axes in ([-1], [rank - 1]), layer=layer)
    kind = type(layer)
    scale, shift = (getattr(layer, name, None) for name in ("gamma", "beta"))
    if kind is layers.RMSNormalization:
        scale = layer.scale
    scale = np.ones(channels) if scale is None else np.asarray(scale)
    shift = np.zeros(channels) if shift is None else np.asarray(shift)
    if kind is layers.BatchNormalization:  # of the moments that training left
        mean, variance = (np.asarray(each) for each in (layer.moving_mean, layer.moving_variance))
        scale = scale / np.sqrt(variance + layer.epsilon)
        return program.add("affine", sources, scale, shift - mean * scale)
    return program.add(
        "normalization",
        sources,
        scale,
        shift,
        channels=channels,
        groups=layer.groups if kind is layers.GroupNormalization else 1,
        whole=kind is layers.GroupNormalization,
        centre=kind is not layers.RMSNormalization,
        epsilon=layer.epsilon,
    )


def _activation(program: Program, layer: Any, sources: Sequence[int]) -> int:
    if isinstance(layer, layers.LeakyReLU):
        return _relu(program, sources[0], layer.negative_slope)
    if isinstance(layer, layers.ReLU):
        _check(not layer.threshold, layer=layer)
        return _relu(program, sources[0], layer.negative_slope, layer.max_value)
    return _activate(program, sources[0], layer)


def _affine(program: Program, source: int, operation: Any, scale: Any, shift: Any) -> int:
    width = operation.output.shape[-1]
    _check(all(np.shape(each) in ((), (1,), (width,)) for each in (scale, shift)), layer=operation)
    return program.add("affine", [source], *(np.broadcast_to(each, width) for each in (scale, shift)))


def _rescaling(program: Program, layer: Any, sources: Sequence[int]) -> int:
    return _affine(program, sources[0], layer, layer.scale, layer.offset)


def _merge(kind: str) -> Callable[[Program, Any, Sequence[int]], int]:
    def add(program: Program, operation: Any, sources: Sequence[int]) -> int:
        if len(sources) == 1:  # with a number
            numbers = [each for each in operation._inbound_nodes[0].arguments.args if np.isscalar(each)]
            _check(len(numbers) == 1, layer=operation)
            scale, shift = (1.0, numbers[0]) if kind == "add" else (numbers[0], 0.0)
            return _affine(program, sources[0], operation, scale, shift)
        _check(all(each.shape == operation.output.shape for each in operation.input), layer=operation)
        return program.add(kind, sources)

    return add


def _concatenate(program: Program, layer: Any, sources: Sequence[int]) -> int:
    _check(layer.axis in (-1, len(layer.output.shape) - 1), layer=layer)
    return program.add("concatenate", sources, widths=[each.shape[-1] for each in layer.input])


def _permute(program: Program, layer: Any, sources: Sequence[int]) -> int:
    order = [axis - 1 for axis in layer.dims]
    return program.add("permute", sources, shape=list(layer.input.shape[1:]), order=order)


def _depth_to_space(program: Program, operation: Any, sources: Sequence[int]) -> int:
    height, width, channels = operation.output.shape[1:]
    size = operation.block_size
    _check(operation.data_format != "channels_first", layer=operation)
    shape = [height // size, width // size, size, size, channels]
    return program.add("permute", sources, shape=shape, order=[0, 2, 1, 3, 4])


def _upsampling(program: Program, layer: Any, sources: Sequence[int]) -> int:
    known = layer.interpolation in ("nearest", "bilinear") and layer.data_format == "channels_last"
    _check(known, layer=layer)
    taken, given = (list(each.shape[1:]) for each in (layer.input, layer.output))
    return program.add(
        "resize", sources, taken=taken, given=given, bilinear=layer.interpolation == "bilinear"
    )


def _pooling(program: Program, layer: Any, sources: Sequence[int]) -> int:
    # halfway between two pixels is their mean
    _check(layer.pool_size == layer.strides == (2, 2), layer.data_format == "channels_last", layer=layer)
    taken, given = (list(each.shape[1:]) for each in (layer.input, layer.output))
    _check(taken[:2] == [2 * given[0], 2 * given[1]], layer=layer)
    return program.add("resize", sources, taken=taken, given=given, bilinear=True)


def _clip(program: Program, operation: Any, sources: Sequence[int]) -> int:
    _check(np.isscalar(operation.x_min), np.isscalar(operation.x_max), layer=operation)
    least, most = float(operation.x_min), float(operation.x_max)
    return program.add("activation", sources, name="clip", least=least, most=most)


def _same(program: Program, layer: Any, sources: Sequence[int]) -> int:
    _check(getattr(layer, "data_format", "") != "channels_first", layer=layer)
    return sources[0]  # the numbers, and their order in memory, stay


_KINDS: dict[str, Callable[[Program, Any, Sequence[int]], int]] = {
    "InputLayer": lambda program, layer, sources: program.add("input", []),
    "Dense": _dense,
    "Conv2D": _convolution,
    "Conv2DTranspose": _transposed,
    **dict.fromkeys(
        ("BatchNormalization", "GroupNormalization", "LayerNormalization", "RMSNormalization"), _normalization
    ),
    **dict.fromkeys(("Activation", "LeakyReLU", "ReLU"), _activation),
    "Rescaling": _rescaling,
    "Add": _merge("add"),
    "Multiply": _merge("multiply"),
    "Concatenate": _concatenate,
    "Permute": _permute,
    "DepthToSpace": _depth_to_space,
    "UpSampling2D": _upsampling,
    "AveragePooling2D": _pooling,
    "Clip": _clip,
    **dict.fromkeys(("Dropout", "Flatten", "Reshape"), _same),
}
