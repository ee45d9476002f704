import numpy as np
import pytest
import tensorflow as tf
from conftest import NUMBER_SHAPE, NUMBERS

from latentfaces.common.examples import Examples
from latentfaces.components.train.batches import batches


@pytest.fixture(scope="module")
def examples(numbers):
    return Examples(sorted(numbers.glob("train-*")))


def take(examples, *, batch, steps, first_step=0, seed=1, workers=1, replicas_on_worker=1):
    """The numbers in the order of training, [steps, batch], and each element's start, [steps, replicas]."""
    per_worker = []
    for worker in range(workers):
        context = tf.distribute.InputContext(workers, worker, workers * replicas_on_worker)
        elements = list(
            batches(
                examples,
                NUMBER_SHAPE,
                seed=seed,
                first_step=first_step,
                global_batch_size=batch,
                context=context,
                replicas_on_worker=replicas_on_worker,
            )
            .take((steps - first_step) * replicas_on_worker)
            .as_numpy_iterator()
        )
        assert [element["step"] for element in elements] == list(
            np.repeat(range(first_step, steps), replicas_on_worker)
        )
        shape = (steps - first_step, replicas_on_worker, -1)
        numbers = np.array([element["images"][:, 0, 0, 0] for element in elements]).reshape(shape)
        per_worker.append((numbers, np.array([element["start"] for element in elements]).reshape(shape)))
    numbers, starts = (np.concatenate(arrays, axis=1) for arrays in zip(*per_worker, strict=True))
    return numbers.reshape(steps - first_step, -1), starts[..., 0]


def test_an_epoch_is_a_permutation_of_the_whole_split_and_the_next_is_another(examples):
    numbers, _ = take(examples, batch=10, steps=16)
    flat = numbers.ravel()[: 3 * NUMBERS].reshape(3, NUMBERS)  # batches run on across the ends of epochs
    for epoch in flat:
        assert sorted(epoch) == list(range(NUMBERS))
    correlations = np.corrcoef([range(NUMBERS), *flat]) - np.eye(4)  # with the order in the shards, too
    assert np.abs(correlations).max() < 0.45
    assert not np.array_equal(numbers, take(examples, batch=10, steps=16, seed=2)[0])


@pytest.mark.parametrize(("workers", "replicas"), [(2, 1), (3, 1), (6, 1), (1, 3), (2, 3)])
def test_the_replicas_slices_are_the_global_batch(examples, workers, replicas):
    # Six workers are more than there are shards.
    whole, _ = take(examples, batch=12, steps=14)
    numbers, starts = take(examples, batch=12, steps=14, workers=workers, replicas_on_worker=replicas)
    np.testing.assert_array_equal(numbers, whole)
    share = 12 // (workers * replicas)
    np.testing.assert_array_equal(starts, np.tile(np.arange(0, 12, share), (14, 1)))


def test_a_batch_may_be_larger_than_the_split(examples):
    numbers, _ = take(examples, batch=2 * NUMBERS + 3, steps=3)
    sequence, _ = take(examples, batch=3, steps=(2 * NUMBERS + 3))
    np.testing.assert_array_equal(numbers.ravel(), sequence.ravel()[: numbers.size])
    assert sorted(numbers[0, :NUMBERS]) == sorted(numbers[0, NUMBERS : 2 * NUMBERS]) == list(range(NUMBERS))


def test_reading_can_begin_at_any_step(examples):
    whole, _ = take(examples, batch=8, steps=20)
    np.testing.assert_array_equal(take(examples, batch=8, steps=20, first_step=13)[0], whole[13:])
