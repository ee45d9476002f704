import numpy as np

from latentfaces.components.evaluate.concepts import concept_vector, move


def confounded_examples():
    """Latents that are linear in two attributes, of which the second mostly goes with the first."""
    rng = np.random.default_rng(0)
    first = rng.random(2000) < 0.5
    second = np.where(rng.random(2000) < 0.8, first, ~first)
    directions = np.array([[2.0, 0, 0, 1], [0, 3, 0, -1]])
    attributes = np.column_stack([first, second]).astype(np.int64)
    return rng.normal(0, 0.1, (2000, 4)) + attributes @ directions, attributes, directions


def test_one_attribute_gives_the_difference_of_means():
    latents, attributes, _ = confounded_examples()
    has = attributes[:, 0] == 1
    difference = latents[has].mean(axis=0) - latents[~has].mean(axis=0)
    np.testing.assert_allclose(concept_vector(latents, attributes[:, :1], 0), difference, atol=1e-5)


def test_what_goes_with_another_attribute_is_taken_out():
    latents, attributes, directions = confounded_examples()
    for index in (0, 1):
        np.testing.assert_allclose(concept_vector(latents, attributes, index), directions[index], atol=0.03)
    assert abs(concept_vector(latents, attributes[:, :1], 0)[1]) > 1  # the difference of means keeps it


def test_move_adds_multiples_of_the_vector():
    latents, vector = np.array([[1.0, 2], [3, 4]], np.float32), np.array([10, 100], np.float32)
    moved = move(latents, vector, np.array([-1.0, 0, 2]))
    assert moved.dtype == np.float32
    np.testing.assert_array_equal(moved[1], [[-7, -96], [3, 4], [23, 204]])
