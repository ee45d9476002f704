import numpy as np
import pytest
from sklearn.linear_model import Ridge

from latentfaces.common.config import EvaluateOptions
from latentfaces.components.evaluate.concepts import (
    ESTIMATORS,
    STEPS,
    concepts,
    least_squares,
    logistic,
    means,
)
from latentfaces.components.evaluate.inputs import CONCEPT_LIMIT


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
    for estimate in (least_squares, means):
        np.testing.assert_allclose(estimate(latents, attributes[:, :1]), [difference], atol=1e-5)


def test_least_squares_are_those_of_ridge_regression_with_the_shrinking_given_back():
    latents, attributes, _ = confounded_examples()
    ridge = Ridge(alpha=0.03 * len(latents)).fit(attributes, np.column_stack([latents, attributes]))
    shrunk, kept = ridge.coef_[:4].T, ridge.coef_[4:].T
    expected = shrunk / np.diag(kept)[:, None]
    np.testing.assert_allclose(least_squares(latents, attributes), expected, rtol=1e-5)


def test_what_goes_with_another_attribute_is_taken_out_by_least_squares_only():
    latents, attributes, directions = confounded_examples()
    found, differences = (estimate(latents, attributes) for estimate in (least_squares, means))
    for index, other in ((0, 1), (1, 0)):
        kept, leak = np.linalg.lstsq(directions[[index, other]].T, found[index], rcond=None)[0]
        assert kept == pytest.approx(1, abs=0.02) and 0 < leak < 0.15
        assert np.linalg.lstsq(directions[[index, other]].T, differences[index], rcond=None)[0][1] > 0.55


def test_what_excludes_an_attribute_goes_when_it_comes():
    """Three colours of hair, of which one in ten heads has none."""
    colour = np.random.default_rng(0).choice(4, 5000, p=(0.3, 0.3, 0.3, 0.1))
    attributes = np.eye(4, dtype=np.int64)[colour][:, :3]
    vectors = least_squares(attributes.astype(np.float32), attributes)
    for index in range(3):
        assert vectors[index, index] == pytest.approx(1, abs=0.01)
        assert (np.delete(vectors[index], index) < -0.15).all()
    complete = attributes[colour < 3]  # where one of them is always there, it is no question
    assert (least_squares(complete.astype(np.float32), complete)[0, 1:] < -0.4).all()


@pytest.mark.parametrize("estimate", ESTIMATORS.values())
def test_of_latents_that_are_all_the_same_there_is_no_direction(estimate):
    attributes = np.random.default_rng(0).integers(0, 2, (100, 3))
    vectors = estimate(np.ones((100, 5), np.float32), attributes)
    assert vectors.shape == (3, 5) and vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, 0, atol=1e-6)


def test_logistic_regression_gives_the_normal_between_two_normal_distributions():
    """That of the best plane is the difference of means times the inverse covariance (Bishop 2006, 4.2.1)."""
    rng = np.random.default_rng(0)
    mix = np.array([[1.0, 0, 0], [0.8, 0.6, 0], [0, 0, 2]])
    has = rng.random(20_000) < 0.5
    difference = np.array([1.0, 0, 1])
    latents = rng.normal(size=(20_000, 3)) @ mix.T + has[:, None] * difference
    (vector,) = logistic(latents, has[:, None].astype(np.int64))
    normal = np.linalg.solve(mix @ mix.T, difference)
    normal *= difference @ normal / (normal @ normal)
    np.testing.assert_allclose(vector, normal, atol=0.05)
    (apart,) = means(latents, has[:, None].astype(np.int64))
    assert vector @ vector == pytest.approx(apart @ vector, rel=1e-5)  # as long as that in its direction


class Transparent:
    """A model whose latents are its images, attributes and features: corners of a cube, of side 1.

    Attribute i is read where coordinate i plus what leaks from others is above 0.5.
    """

    def __init__(self, names, leaks, count=400, is_readable=True):
        rng = np.random.default_rng(0)
        self.inputs = self.real = self
        self.leaks, self.options, self.title = leaks, EvaluateOptions(), "VAE"
        self.attribute_names, self.moved = names, []
        self.train_attributes = rng.integers(0, 2, (1000, len(names)))
        self.held_out_attributes = rng.integers(0, 2, (count, len(names)))
        self.train_means, self.means = (
            labels.astype(np.float32) for labels in (self.train_attributes, self.held_out_attributes)
        )
        self.held_out_features = self.reconstruction_features = self.means
        self.real_predictions = self.means if is_readable else rng.random(self.means.shape)
        self.reconstruction_predictions = self.classifier(self.means)

    def fitting(self, count):
        return count

    def generate(self, points):
        assert points.dtype == np.float32
        self.moved.append(len(points))
        return points

    def classifier(self, images):
        return images @ (np.eye(len(self.leaks)) + self.leaks)

    def feature_network(self, images):
        return images


def test_what_is_read_off_moved_images_is_what_was_put_in():
    # A step of 1 changes the first attribute's reading, and the second's by 0.6: over the bar or back under
    # it where the second is not there, which is in half of the images.
    leaks = np.zeros((3, 3))
    leaks[0, 1] = 0.6
    model = Transparent(["Smiling", "Male", "Hat"], leaks)
    smile, male, hat = concepts(model)
    np.testing.assert_allclose(smile.vector, [1, 0, 0], atol=0.01)
    assert (smile.name, smile.strength, smile.success, smile.works) == ("Smiling", 1, 1, True)
    assert smile.vector.dtype == np.float32 and smile.effects[[0, 2]].tolist() == [1, 0]
    assert smile.leakage == pytest.approx(smile.effects[1] / 2)
    assert smile.effects[1] == pytest.approx(0.5, abs=0.1)
    assert hat.leakage == 0 and hat.effects.tolist() == [0, 0, 1]
    shares = dict(zip(STEPS, hat.shares, strict=True))
    assert shares[-1] == 0 and shares[1] == 1 and shares[0] == pytest.approx(0.5, abs=0.01)
    apart = np.mean([np.linalg.norm(a - b) for a in model.means for b in model.means]) * 400 / 399
    assert hat.identity == pytest.approx(1 - 1 / apart, rel=0.01)
    assert male.works and concepts(model) is concepts(model)


def test_a_concept_that_does_nothing_and_one_that_can_not_be_judged_do_not_work():
    still = Transparent(["Smiling", "Male"], -np.diag([1.0, 0]))
    still.reconstruction_predictions[0] = 1
    smile, male = concepts(still)
    assert smile.success < 0.1 and not smile.works and male.works
    unread = Transparent(["Smiling", "Male"], np.zeros((2, 2)), is_readable=False)
    assert all(each.success == 1 and not each.works for each in concepts(unread))


def test_a_concept_alone_leaks_nothing_and_without_labels_there_is_none():
    (alone,) = concepts(Transparent(["Smiling"], np.zeros((1, 1))))
    assert alone.leakage == 0 and alone.works
    assert concepts(Transparent([], np.zeros((0, 0)))) == []


def test_images_that_are_all_the_same_have_no_concepts():
    same = Transparent(["Smiling"], np.zeros((1, 1)))
    same.held_out_features = np.ones_like(same.means)
    assert concepts(same) == []


def test_an_attribute_that_is_read_off_no_reconstruction_is_only_added():
    model = Transparent(["Glasses", "Male"], np.zeros((2, 2)))
    model.means = model.means * np.array([0, 1], np.float32)
    model.reconstruction_predictions = model.classifier(model.means)
    glasses, _ = concepts(model)
    assert glasses.success == 1 and glasses.shares[-1] == 1 and glasses.shares[0] == 0


@pytest.mark.parametrize(("attributes", "most"), [(1, 2200), (14, 6000), (40, 8800)])
def test_images_at_once_and_in_all_are_bounded(attributes, most):
    names = [f"{index}" for index in range(attributes)]
    model = Transparent(names, np.zeros((attributes, attributes)), count=1000)
    assert [each.works for each in concepts(model)] == [True] * attributes
    assert max(model.moved) <= CONCEPT_LIMIT and sum(model.moved) <= most
