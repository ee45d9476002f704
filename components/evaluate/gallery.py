"""The pictures of an evaluation: what each shows, and in what words."""

from dataclasses import dataclass

import numpy as np

from components.evaluate import latents, pictures
from components.evaluate.models import Vae

COLUMNS = 8
SAMPLES = COLUMNS * COLUMNS
_FACES = 6  # rows of the pictures that change a face from left to right
_INTERPOLATION_STEPS = 9
_MANIFOLD_POINTS = 30


@dataclass(frozen=True)
class Picture:
    """A picture of the report.

    Attributes:
        name: of its file in `grids/`, without `.png`.
        title: its heading.
        caption: what one sees, and how it was made.
        width: in pixels.
        height: in pixels.
        png: the file's bytes.
    """

    name: str
    title: str
    caption: str
    width: int
    height: int
    png: bytes


def real(images: np.ndarray, split: str) -> Picture:
    """Real images of a split."""
    caption = f"Images of the data set's split “{split}”, to compare the generated ones with."
    return _picture("real", "Real images", caption, pictures.in_rows(images[:SAMPLES], COLUMNS))


def gan_samples(images: np.ndarray) -> Picture:
    """Images that a GAN's generator made."""
    caption = "What the generator makes of random latent vectors: the first ones drawn, none chosen."
    return _picture("gan_samples", "GAN samples", caption, pictures.in_rows(images[:SAMPLES], COLUMNS))


def vae_samples(images: np.ndarray) -> Picture:
    """Images that a VAE's decoder made of random latents."""
    caption = "What the decoder makes of random latent vectors: the first ones drawn, none chosen."
    return _picture("vae_samples", "VAE samples", caption, pictures.in_rows(images[:SAMPLES], COLUMNS))


def reconstructions(originals: np.ndarray, decoded: np.ndarray, split: str) -> Picture:
    """Rows of originals, each above the row of their reconstructions."""
    above, below = (
        pictures.in_rows(pictures.to_uint8(images[: COLUMNS * 4]), COLUMNS) for images in (originals, decoded)
    )
    rows = np.stack([above, below], axis=1).reshape(-1, *above.shape[1:])
    caption = f"Above: images of the split “{split}”. Below each: the same after encoder and decoder."
    return _picture("reconstructions", "Reconstructions", caption, rows, rows_in_group=2)


def interpolations(vae: Vae, means: np.ndarray) -> Picture:
    """The way in latent space from one image to another, of encoded images [N, D]."""
    count = max(min(_FACES, len(means) // 2), 1)
    ways = latents.interpolate(means[:count], means[-count:], _INTERPOLATION_STEPS)
    caption = "From one held-out image (left) to another (right): spherical interpolation of their latents."
    return _picture("interpolations", "Interpolations", caption, _decode(vae, ways))


def manifold(vae: Vae, means: np.ndarray) -> Picture:
    """The plane of two latent dimensions, the book's listing 12.28.

    The book's coordinates are 30 from -1 to 1. These are the quantiles from 2.5 % to 97.5 % of the encoded
    images' means [N, 2], so that every part of the data gets its share of the picture (as in Kingma & Welling
    2014, appendix A, with the prior's quantiles, which the book's VAE does not keep to: it averages the KL
    term over the dimensions).
    """
    x, y = np.quantile(means, np.linspace(0.025, 0.975, _MANIFOLD_POINTS), axis=0).T
    caption = (
        "The decoder's image for each point of the latent plane: the first dimension grows to the right, "
        f"{x[0]:.2g} to {x[-1]:.2g}, the second upwards, {y[0]:.2g} to {y[-1]:.2g}, both by the quantiles of "
        "the held-out images."
    )
    images = _decode(vae, latents.manifold(x, y))
    return _picture("manifold", "Latent manifold", caption, images, tight=True)


def concept(name: str, images: np.ndarray, steps: np.ndarray) -> Picture:
    """Images [N, S, H, W, C] moved along a concept vector by steps [S] from below 0 to above."""
    caption = (
        f"Held-out images moved along the latent direction of “{name}”, from −{-steps[0]:g} (left) "
        f"to +{steps[-1]:g} (right) times the concept vector; the middle column is not moved."
    )
    title = f"Concept vector: {name}"
    return _picture(f"concept_{name.lower()}", title, caption, images[:_FACES])


def _decode(vae: Vae, points: np.ndarray) -> np.ndarray:
    """Decodes latents [R, C, D], all in one sweep of batches."""
    images = vae.decoder(points.reshape(-1, points.shape[-1]))
    return images.reshape(*points.shape[:2], *images.shape[1:])


def _picture(
    name: str, title: str, caption: str, images: np.ndarray, *, tight: bool = False, rows_in_group: int = 1
) -> Picture:
    sheet = pictures.grid(images, tight=tight, rows_in_group=rows_in_group)
    return Picture(name, title, caption, sheet.width, sheet.height, pictures.png(sheet))
