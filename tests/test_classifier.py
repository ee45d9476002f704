import numpy as np

from latentfaces.components.evaluate.classifier import accuracy, learnable, sides, train_classifier
from latentfaces.components.evaluate.distances import frechet_distance


def striped(count, seed):
    """Noise with a bright bar on top (first attribute) and a dark one below (second), each at random."""
    rng = np.random.default_rng(seed)
    images = rng.integers(60, 200, (count, 16, 16, 3), np.uint8)
    attributes = rng.integers(0, 2, (count, 2))
    images[attributes[:, 0] == 1, 2:5] = 255
    images[attributes[:, 1] == 1, 11:14] = 0
    return images, attributes


def test_it_learns_what_can_be_seen_and_repeats_itself():
    images, attributes = striped(400, seed=0)
    others, truth = striped(200, seed=1)
    first, again, other = (
        train_classifier(images, attributes, seed, steps=60)[0](others) for seed in (3, 3, 4)
    )
    assert first.shape == (200, 2) and accuracy(first, truth).min() > 0.98
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_bytes_and_floats_are_read_alike():
    images, attributes = striped(100, seed=0)
    read, features = train_classifier(images, attributes, seed=0, steps=2)
    np.testing.assert_allclose(read(images), read(images / np.float32(255)), atol=1e-6)
    assert features(images).shape == (100, 128) and features(images).min() >= 0


def test_accuracy_and_learnable_columns():
    attributes = np.array([[1, 0, 1], [1, 0, 0], [1, 1, 1], [1, 0, 0]])
    assert learnable(attributes, 1).tolist() == [False, True, True]
    assert learnable(attributes, 2).tolist() == [False, False, True]
    probabilities = np.array([[0.9, 0.6, 0.6], [0.8, 0.1, 0.6], [0.7, 0.7, 0.6], [0.6, 0.2, 0.6]])
    assert accuracy(probabilities, attributes).tolist() == [1, 0.75, 0.5]


def test_large_images_are_read_at_a_smaller_size():
    images = np.random.default_rng(0).integers(0, 256, (50, 128, 64, 3), np.uint8)
    attributes = np.random.default_rng(1).integers(0, 2, (50, 1))
    read, _ = train_classifier(images, attributes, seed=0, steps=1)
    larger = images.repeat(3, axis=1).repeat(3, axis=2)
    read_larger, _ = train_classifier(larger, attributes, seed=0, steps=1)
    np.testing.assert_allclose(read_larger(larger), read(images), atol=1e-3)


def test_without_labels_there_are_sides_that_can_be_told_and_show_what_is_missing():
    images, attributes = striped(400, seed=0)
    labels = sides(images)
    assert labels.shape == (400, 16) and (labels.sum(axis=0) == 200).all()
    np.testing.assert_array_equal(labels, sides(images))
    top = np.abs(np.corrcoef(labels.T, attributes.T)[:16, 16:]).max(axis=0)
    assert (top > 0.9).all()  # the bars are what the images mostly differ in
    _, features = train_classifier(images, labels, seed=0, steps=60)
    others, truth = striped(400, seed=1)
    found, real = features(others), features(images)
    barred = found[truth[:, 0] == 1]
    assert frechet_distance(real, barred) > 3 * frechet_distance(real, found[: len(barred)])


def test_the_sides_of_few_or_equal_images_are_some():
    for count in (1, 2, 5):
        assert len(sides(striped(count, seed=0)[0])) == count
    assert not sides(np.full((6, 64, 48, 1), 7, np.uint8)).any()
