"""A convolution to few channels as one matrix product, which CPUs do several times as fast."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf
from keras import layers


class Conv2D(keras.layers.Conv2D):
    """Keras' `Conv2D` for stride 1, padding "same" and few filters, such as the channels of an image.

    oneDNN's convolutions compute 16 channels at once, however few are wanted. On GPUs this is Keras' layer.
    """

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """Returns the convolution [N, H, W, filters] of inputs [N, H, W, C], without bias and activation."""
        if tf.config.list_physical_devices("GPU"):
            return super().convolution_op(inputs, kernel)
        return convolve(inputs, tf.convert_to_tensor(kernel))


@tf.custom_gradient
def convolve(
    images: tf.Tensor, kernel: tf.Tensor
) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]]:
    """Convolves with stride 1 and padding "same".

    Every pixel is multiplied with the weights of all places that it can have in a window, in one matrix
    product; the products are moved to the windows' centres and summed. The gradients do the same backwards:
    those that the automatic ones would do too, without transposing large matrices.

    Args:
        images: [N, H, W, C]; N may be unknown, H, W and C not; H and W at least half the kernel's.
        kernel: [rows, columns, C, filters], of the same dtype.

    Returns:
        [N, H, W, filters] and its gradients; the sum is made in Keras' `floatx`, as oneDNN does.
    """
    height, width, channels = images.shape[1:]
    rows, columns, _, filters = kernel.shape
    places = [
        (row - (rows - 1) // 2, column - (columns - 1) // 2)
        for row in range(rows)
        for column in range(columns)
    ]
    pixels = tf.reshape(images, [-1, channels])
    weights = tf.reshape(tf.transpose(kernel, [2, 0, 1, 3]), [channels, -1])
    # as planes, [place, filter, N, H, W], moving is cheap
    products = tf.reshape(tf.transpose(pixels @ weights), [len(places), filters, -1, height, width])
    planes = tf.unstack(tf.cast(products, keras.config.floatx()))
    moved = [_move(plane, -down, -right) for plane, (down, right) in zip(planes, places, strict=True)]

    def gradients(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        plane = tf.transpose(upstream, [3, 0, 1, 2])
        windows = tf.reshape(
            tf.stack([_move(plane, *place) for place in places]), [len(places) * filters, -1]
        )
        of_pixels = tf.matmul(windows, weights, transpose_a=True, transpose_b=True)
        of_weights = tf.reshape(windows @ pixels, [rows, columns, filters, channels])
        return tf.reshape(of_pixels, tf.shape(images)), tf.transpose(of_weights, [0, 1, 3, 2])

    return tf.cast(tf.transpose(tf.add_n(moved), [1, 2, 3, 0]), images.dtype), gradients


def _move(plane: tf.Tensor, down: int, right: int) -> tf.Tensor:
    """Returns images [filters, N, H, W] moved within their edges; what comes in is 0."""
    filters, _, height, width = plane.shape
    rest = tf.slice(
        plane, [0, 0, max(-down, 0), max(-right, 0)], [filters, -1, height - abs(down), width - abs(right)]
    )
    return tf.pad(rest, [[0, 0], [0, 0], [max(down, 0), max(-down, 0)], [max(right, 0), max(-right, 0)]])


def to_pixels(features: keras.KerasTensor, channels: int, kernel_size: int) -> keras.KerasTensor:
    """Ends a network that makes images: a convolution and a sigmoid, which is never in low precision."""
    x = Conv2D(channels, kernel_size, padding="same")(features)
    return layers.Activation("sigmoid", dtype=keras.config.floatx())(x)


def portable(network: keras.Model) -> keras.Model:
    """Returns a copy in Keras' own layers, which can be saved and loaded without this package.

    Our layers compute what those of Keras' with the same names do.
    """
    copy = keras.models.clone_model(
        network,
        clone_function=lambda layer: getattr(keras.layers, type(layer).__name__).from_config(
            layer.get_config()
        ),
    )
    copy.set_weights(network.get_weights())
    return copy
