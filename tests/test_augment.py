import numpy as np
import tensorflow as tf

from latentfaces.components.train.augment import mirror, translate
from latentfaces.components.train.noise import GlobalBatchNoise


def test_half_of_the_images_are_mirrored_whoever_has_them():
    images = tf.constant(np.random.default_rng(0).random((200, 4, 6, 3), np.float32))

    def mirrored(start, size):
        noise = GlobalBatchNoise(3, tf.constant(9, tf.int64), tf.constant(start, tf.int64), size, 200)
        return mirror(images[start : start + size], noise).numpy()

    whole, as_they_were = mirrored(0, 200), images.numpy()
    changed = np.any(whole != as_they_were, axis=(1, 2, 3))
    assert 70 < changed.sum() < 130
    np.testing.assert_array_equal(whole[changed], as_they_were[changed][:, :, ::-1])
    np.testing.assert_array_equal(np.concatenate([mirrored(0, 50), mirrored(50, 150)]), whole)


def test_images_are_moved_by_up_to_a_pixel_in_32():
    image = tf.constant(np.random.default_rng(0).random((1, 32, 48, 3)))
    for places, (down, right) in (
        ((0.0, 0.0), (-1, -2)),
        ((0.5, 0.5), (0, 0)),
        ((0.99, 0.7), (1, 1)),
    ):
        moved = translate(image, tf.constant([places], tf.float64)).numpy()
        padded = np.pad(image.numpy(), [(0, 0), (8, 8), (8, 8), (0, 0)])
        np.testing.assert_array_equal(moved, padded[:, 8 - down : 40 - down, 8 - right : 56 - right])
