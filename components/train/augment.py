"""Changes of train images that leave them as likely as they were."""

from __future__ import annotations

import tensorflow as tf

from latentfaces.components.train.noise import GlobalBatchNoise


def mirror(images: tf.Tensor, noise: GlobalBatchNoise) -> tf.Tensor:
    """Mirrors about half of the images left to right: a face is as likely the other way round.

    Args:
        images: [local batch size, H, W, C].
        noise: decides which.
    """
    return tf.where(noise.uniform(1, 1, 1) < 0.5, images[:, :, ::-1], images)


def translate(images: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
    """Moves images by up to a pixel for every 32 begun, differentiably (Zhao et al. 2020, arXiv:2006.10738).

    A discriminator that sees real and made images so can't learn the real ones by heart. What comes in is
    black.

    Args:
        images: [N, H, W, C].
        places: [N, 2], uniform in [0, 1): down and to the right, where a half is no move.
    """
    for axis, move in enumerate(("nab,nbwc->nawc", "nab,nhbc->nhac")):
        size = images.shape[1 + axis]
        most = -(-size // 32)
        by = tf.cast(tf.floor(places[:, axis : axis + 1] * (2 * most + 1)), tf.int32) - most
        # As a product with a matrix: a gather's gradient is not deterministic on GPUs.
        images = tf.einsum(move, tf.one_hot(tf.range(size) - by, size, dtype=images.dtype), images)
    return images
