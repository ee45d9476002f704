from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.decomposition import PCA

from latentfaces.components.evaluate.principal_components import principal_components


class Model:
    def __init__(self, train, latent_dim):
        self.latent_dim, self.inputs = latent_dim, SimpleNamespace(real=SimpleNamespace(train=train))


def images(count, seed):
    rng = np.random.default_rng(0)
    ways = rng.standard_normal((6, 64))
    rows = np.random.default_rng(seed).standard_normal((count, 6)) @ ways * 0.04 + 0.5
    rows += np.random.default_rng(seed + 1).normal(0, 0.02, rows.shape)
    return np.rint(255 * rows.clip(0, 1)).astype(np.uint8).reshape(count, 8, 8, 1)


def test_reconstructions_and_likelihood_are_those_of_probabilistic_pca():
    train, others = images(500, 1), images(50, 2)
    line = principal_components(Model(train, 5))
    fitted = PCA(5, svd_solver="full").fit(train.reshape(500, -1) / 255)
    rows = others.reshape(50, -1) / 255
    made = fitted.inverse_transform(fitted.transform(rows)).clip(0, 1)
    np.testing.assert_allclose(line.reconstruct(others).reshape(50, -1), made, atol=1e-4)
    np.testing.assert_allclose(line.log_likelihood(others), fitted.score_samples(rows), atol=0.01)
    assert line.reconstruct(others).dtype == np.float32


@pytest.mark.parametrize(("count", "latents"), [(5, 5), (100, 64)])
def test_there_are_none_of_fewer_images_or_values(count, latents):
    assert principal_components(Model(images(count, 0), latents)) is None


def test_images_that_are_all_the_same_have_some():
    line = principal_components(Model(np.full((20, 8, 8, 1), 100, np.uint8), 3))
    same = np.full((2, 8, 8, 1), 100, np.uint8)
    np.testing.assert_allclose(line.reconstruct(same), 100 / 255, atol=1e-6)
    assert np.isfinite(line.log_likelihood(same)).all()
