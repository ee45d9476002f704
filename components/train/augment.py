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
