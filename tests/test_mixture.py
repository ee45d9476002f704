import numpy as np
import pytest
from PIL import Image

from latentfaces.components.evaluate import feature_sets
from latentfaces.components.evaluate.figures.mixture_samples import mixture_samples
from latentfaces.components.evaluate.mixture import mixture_latents


class Seeded:
    seed, streamed = 0, 30

    @staticmethod
    def fitting(count):
        return count

    @staticmethod
    def feature_network(images):
        return images[:, 0, 0]


class VAE:
    """Whose decoder shows the signs of the latents as black and white."""

    name, title, generator_name, inputs = "vae", "VAE", "decoder", Seeded

    def __init__(self, means):
        self.train_means, self.latent_dim = means.astype(np.float32), means.shape[1]

    def generate(self, points):
        return np.repeat((points[:, :1, None, None] > 0) * 1.0, 8, axis=2).repeat(8, axis=1)


def two_clusters(count, latents):
    """Two narrow clusters, far apart, where the prior has little between; a quarter is in the first one."""
    rng = np.random.default_rng(0)
    where = np.where(np.arange(count) % 4 == 0, -3.0, 3.0)
    return 1000 * (where[:, None] + rng.normal(size=(count, latents)) * np.linspace(0.2, 0.4, latents))


def test_latents_are_drawn_where_the_data_is():
    means = two_clusters(3000, 3)
    drawn = mixture_latents(VAE(means), 1000)
    assert drawn.shape == (1000, 3) and drawn.dtype == np.float32
    assert np.mean(np.abs(drawn) < 1000) < 0.005
    for side in (-1, 1):
        mine, real = (rows[side * rows[:, 0] > 0] for rows in (drawn, means))
        assert abs(len(mine) / 1000 - len(real) / 3000) < 0.05
        np.testing.assert_allclose(mine.mean(axis=0), real.mean(axis=0), atol=100)
        np.testing.assert_allclose(mine.std(axis=0), real.std(axis=0), rtol=0.15)


def test_components_are_mixed_and_follow_from_the_seed(monkeypatch):
    means = two_clusters(400, 2)
    first, again = (mixture_latents(VAE(means), 500) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose(mixture_latents(VAE(means), 70), first[:70], rtol=1e-5)
    assert 5 < np.sum(first[:64, 0] < 0) < 30
    monkeypatch.setattr(Seeded, "seed", 1)
    assert not np.array_equal(mixture_latents(VAE(means), 500), first)


def test_a_latent_that_is_always_the_same_stays_so():
    means = two_clusters(400, 2)
    means[:, 1] = 7
    np.testing.assert_allclose(mixture_latents(VAE(means), 100)[:, 1], 7, atol=0.1)


@pytest.mark.filterwarnings("error")
def test_an_encoder_that_gives_one_latent_for_all_is_no_reason_to_warn():
    np.testing.assert_allclose(mixture_latents(VAE(np.full((100, 2), 7.0)), 100), 7, atol=0.1)


def test_a_seed_may_be_of_any_size(monkeypatch):
    monkeypatch.setattr(Seeded, "seed", 1 << 40)
    assert mixture_latents(VAE(two_clusters(100, 2)), 9).shape == (9, 2)


def test_little_data_has_fewer_components_or_none():
    few = two_clusters(5, 4)
    drawn = mixture_latents(VAE(few), 1000)  # one normal distribution
    np.testing.assert_allclose(drawn.mean(axis=0), few.mean(axis=0), atol=400)
    assert mixture_latents(VAE(few[:4]), 9) is None and mixture_samples(VAE(few[:4])) is None


def test_features_are_those_of_the_samples_batch_by_batch():
    vae = VAE(two_clusters(400, 2))
    points = mixture_latents(vae, 100)
    batches = list(feature_sets._mixture_samples(vae, points))
    assert [len(each) for each in batches] == [30, 30, 30, 10]
    np.testing.assert_array_equal(np.concatenate(batches), points[:, :1] > 0)


def test_the_picture_shows_the_first_of_them():
    vae = VAE(two_clusters(400, 2))
    picture = mixture_samples(vae)
    assert picture.title == "VAE samples: Gaussian mixture" and "Gaussian mixture" in picture.caption
    small = picture.image.convert("L").resize((8, 8), Image.Resampling.BOX)
    np.testing.assert_array_equal(np.asarray(small).ravel() > 127, mixture_latents(vae, 64)[:, 0] > 0)
