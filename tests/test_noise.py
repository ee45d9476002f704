import numpy as np
import pytest
import tensorflow as tf

from latentfaces.components.train.dropout import Dropout
from latentfaces.components.train.noise import GlobalBatchNoise

BATCH = 12


def noise(start=0, size=BATCH, seed=3, step=5, batch=BATCH):
    return GlobalBatchNoise(seed, tf.constant(step, tf.int64), tf.constant(start, tf.int64), size, batch)


def shares(replicas):
    size = BATCH // replicas
    return [noise(start, size) for start in range(0, BATCH, size)]


@pytest.mark.parametrize("replicas", [2, 3, 4])
def test_replicas_draw_the_rows_of_one_global_batch(replicas):
    whole, parts = noise(), shares(replicas)
    for _ in range(2):
        rows = np.concatenate([part.normal(5) for part in parts])
        np.testing.assert_array_equal(rows, whole.normal(5))
        rows = np.concatenate([part.uniform(2, 3) for part in parts])
        np.testing.assert_array_equal(rows, whole.uniform(2, 3))


def test_copies_are_the_replicas_fakes_then_its_reals():
    whole = noise().uniform(1, copies=2).numpy().reshape(2, BATCH, 1)
    for start, part in zip(range(0, BATCH, 4), shares(3), strict=True):
        rows = part.uniform(1, copies=2).numpy().reshape(2, 4, 1)
        np.testing.assert_array_equal(rows, whole[:, start : start + 4])


def test_every_seed_step_and_draw_is_another():
    source = noise()
    draws = [source.normal(50), source.normal(50), noise(seed=4).normal(50), noise(step=6).normal(50)]
    flat = [np.ravel(draw) for draw in draws]
    assert np.abs(np.corrcoef(flat) - np.eye(4)).max() < 0.15
    np.testing.assert_array_equal(noise().normal(50), draws[0])


def test_the_distributions_are_standard():
    big = noise(size=2000, batch=2000)
    normal, uniform = big.normal(20).numpy(), big.uniform(20).numpy()
    assert abs(normal.mean()) < 0.02 and abs(normal.std() - 1) < 0.02
    assert abs((np.abs(normal) < 1.96).mean() - 0.95) < 0.005
    assert 0 <= uniform.min() and uniform.max() < 1
    np.testing.assert_allclose(np.quantile(uniform, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.01)


def test_dropout_drops_its_share_and_scales_the_rest():
    inputs = tf.ones((200, 500))
    layer = Dropout(0.2)
    np.testing.assert_array_equal(layer(inputs, training=False), inputs)
    with noise(size=200, batch=200):
        once, again = layer(inputs, training=True).numpy(), layer(inputs, training=True).numpy()
    assert set(np.unique(once)) == {0.0, np.float32(1.25)}
    assert abs((once == 0).mean() - 0.2) < 0.01
    assert abs(((once == 0) & (again == 0)).mean() - 0.04) < 0.01  # the second mask is independent


def test_dropout_masks_do_not_depend_on_the_replicas():
    with noise() as source:
        whole = Dropout(0.5)(tf.ones((2 * BATCH, 7)), training=True).numpy().reshape(2, BATCH, 7)
    for start, source in zip(range(0, BATCH, 3), shares(4), strict=True):
        with source:
            part = Dropout(0.5)(tf.ones((6, 7)), training=True).numpy().reshape(2, 3, 7)
        np.testing.assert_array_equal(part, whole[:, start : start + 3])
