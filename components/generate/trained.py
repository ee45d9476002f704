"""A trained model, ready for use: `latentfaces.load(folder)`."""

from __future__ import annotations

import functools
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
from etils import epy
from google.api_core.exceptions import GoogleAPIError
from scipy.special import ndtr, ndtri

from latentfaces.common import storage
from latentfaces.common.concepts import Concept, read_concepts
from latentfaces.common.errors import UserError, printable
from latentfaces.common.images import to_uint8
from latentfaces.common.model_folder import brief
from latentfaces.common.models import MODELS, find_model
from latentfaces.common.program import import_tensorflow
from latentfaces.components.evaluate import latents
from latentfaces.preprocessing.resize import MAX_FILE_BYTES, RefusedImage, decode, smart_resize

with epy.lazy_imports():
    from latentfaces.components.evaluate import models

if TYPE_CHECKING:
    from latentfaces.components.evaluate.models import Network

logger = logging.getLogger(__name__)

_AT_ONCE = 16  # rows of a batch; larger ones are no faster on CPUs
_STRONGEST = 100.0  # times a concept vector, far beyond anything that looks like an image


def load(folder: str, concepts: str = "") -> Trained:
    """Loads a trained model, of whichever family it is.

    Args:
        folder: the model folder, local or `gs://`. It may be a stranger's: no foreign code is run.
        concepts: the file of its concept vectors; by default `../evaluation/concepts.npz` as seen from the
            folder, where a run's evaluation has written it. It is read when it is first needed.

    Raises:
        UserError: if there is no such model, it is damaged, or it makes other than grey or RGB images.
    """
    import_tensorflow()  # which sets up Keras, and so precedes what imports it
    return Trained(folder, concepts)


class Trained:
    """A trained model as functions of NumPy arrays.

    Images are uint8 [N, H, W, C]; floats in [0, 1] are taken, too. What becomes of one does not depend on the
    others that are given with it. All methods raise `UserError`, in one sentence, for arrays of other shapes
    or types, and where the model lacks what they need.

    Args:
        folder: as `load`.
        concepts: as `load`.

    Attributes:
        family: name of the model family, such as "vae".
        image_shape: (H, W, C).
        latent_dim: D.
    """

    def __init__(self, folder: str, concepts: str = "") -> None:
        settings = models.read_settings(folder, None, None)
        self.family: str = settings["model"]
        if self.family not in MODELS:
            raise UserError(
                f"the model folder '{folder}' holds a {printable(self.family)}: give one that holds a "
                f"{' or a '.join(MODELS)}"
            )
        self.image_shape: tuple[int, int, int] = tuple(settings["image_shape"])
        channels = self.image_shape[-1]
        if channels not in (1, 3):
            raise UserError(f"the model '{folder}' makes images of {channels} channels: give one with 1 or 3")
        self._folder, self._concepts_file = folder, concepts
        self._file = f"{find_model(self.family).generator}.keras"
        self._generator = models.load_network(folder, self._file, takes=(None,), gives=self.image_shape)
        self.latent_dim: int = self._generator.input_shape[0]
        self._prior = models.load_prior(folder, settings, self.latent_dim)

    @functools.cached_property
    def _encoder(self) -> Network:
        file = f"{self._require_encoder()}.keras"
        return models.load_network(self._folder, file, takes=self.image_shape, gives=(self.latent_dim,))

    def _require_encoder(self) -> str:
        family = find_model(self.family)
        if family.encoder is None:
            raise UserError(
                f"the model '{self._folder}' is a {family.title}, which has no encoder: give a VAE"
            )
        return family.encoder

    @functools.cached_property
    def concepts(self) -> dict[str, Concept]:
        """The concept vectors that the evaluation found, by name, in its order."""
        self._require_encoder()
        place = storage.resolve(self._folder)
        beside = place.absolute().parent / "evaluation" / "concepts.npz"
        file = storage.resolve(self._concepts_file) if self._concepts_file else beside
        return read_concepts(file, storage.read(place / self._file), self.latent_dim)

    def sample_latents(self, count: int, seed: int = 0, truncation: float | None = None) -> np.ndarray:
        """Draws latents from the model's prior, each from a seed of its own.

        That is the standard normal distribution, or what the model's `prior.keras` makes of it.

        Args:
            count: how many.
            seed: of the first, the next number of the second, and so on.
            truncation: as `truncated`, of the normal distribution; None for the whole of it.

        Returns:
            float32 [count, D].
        """
        each = [latents.sample(1, self.latent_dim, seed + number)[0] for number in range(count)]
        drawn = np.array(each, np.float32).reshape(count, self.latent_dim)
        drawn = drawn if truncation is None else truncated(drawn, truncation)
        return np.concatenate([drawn[:0], *_batches(self._prior, drawn)]) if self._prior else drawn

    def sample(self, count: int, seed: int = 0, truncation: float | None = None) -> np.ndarray:
        """Returns the images of `sample_latents`, uint8 [count, H, W, C]."""
        return self.decode(self.sample_latents(count, seed, truncation))

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Returns images' latents, the means of their posteriors, float32 [N, D]."""
        is_known = images.dtype == np.uint8 or (
            np.issubdtype(images.dtype, np.floating) and bool(np.all((images >= 0) & (images <= 1)))
        )
        if images.shape[1:] != self.image_shape or not is_known:
            raise UserError(
                f"the model '{self._folder}' reads images of shape {_shape('N', *self.image_shape)}, "
                f"uint8 or floats in [0, 1], and these are {images.dtype} of shape {_shape(*images.shape)}: "
                "convert them"
            )
        return np.concatenate([np.empty((0, self.latent_dim), np.float32), *_batches(self._encoder, images)])

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Returns the images of latents [N, D], uint8 [N, H, W, C]."""
        self._check_latents(latents)
        made = map(to_uint8, _batches(self._generator, latents))
        return np.concatenate([np.empty((0, *self.image_shape), np.uint8), *made])

    def direction(self, strengths: Mapping[str, float]) -> np.ndarray:
        """Returns what is added to latents, float32 [D]: each named concept's vector, so many times.

        What the evaluation found not to work is warned of.

        Args:
            strengths: by name of the concept, such as {"Smiling": 2}; from -100 to 100.
        """
        total = np.zeros(self.latent_dim, np.float32)
        for name, strength in strengths.items():
            if name not in self.concepts:
                raise UserError(f"the concept {name} is unknown: choose among {', '.join(self.concepts)}")
            if not abs(strength) <= _STRONGEST:
                raise UserError(
                    f"the strength {strength} of {name} is out of bounds: "
                    f"give a number from -{_STRONGEST:g} to {_STRONGEST:g}"
                )
            if not self.concepts[name].works:
                logger.warning("the evaluation found that the concept %s does not work in this model", name)
            total += np.float32(strength) * self.concepts[name].vector
        return total

    def edit(self, images: np.ndarray, strengths: Mapping[str, float]) -> np.ndarray:
        """Moves images along concept vectors (the book, section 12.4.2): z + 2 v is {"Smiling": 2}.

        Args:
            images: [N, H, W, C].
            strengths: as `direction`.

        Returns:
            uint8 [N, H, W, C].
        """
        return self.decode(self.encode(images) + self.direction(strengths))

    def interpolate(self, a: np.ndarray, b: np.ndarray, steps: int) -> np.ndarray:
        """Returns images on the ways from latents to others, by spherical interpolation (White 2016).

        Args:
            a: [N, D], from `encode` or `sample_latents`.
            b: [N, D].
            steps: images on each way, both ends among them.

        Returns:
            uint8 [N, steps, H, W, C].
        """
        self._check_latents(a)
        self._check_latents(b)
        if len(a) != len(b):
            raise UserError(f"{len(a)} latents can't be paired with {len(b)}: give as many of both")
        ways = latents.slerp(a, b, steps).reshape(-1, self.latent_dim)
        return self.decode(ways).reshape(len(a), steps, *self.image_shape)

    def _check_latents(self, given: np.ndarray) -> None:
        is_number = given.dtype.kind in "iuf" and bool((np.abs(given) < np.finfo(np.float32).max).all())
        if given.shape[1:] != (self.latent_dim,) or not is_number:
            raise UserError(
                f"the model '{self._folder}' decodes finite latents of shape {_shape('N', self.latent_dim)}, "
                f"and these are of shape {_shape(*given.shape)}: take those of this model"
            )

    def read(self, photograph: str) -> np.ndarray:
        """Reads a photograph, cropped and resized as the training data were.

        Args:
            photograph: an image file, local or `gs://`. It may be a stranger's.

        Returns:
            uint8 [H, W, C].

        Raises:
            UserError: if it can't be read or is no image.
        """
        height, width, channels = self.image_shape
        if height != width:
            raise UserError(
                f"the model '{self._folder}' is not for square images, and photographs become such"
            )
        try:
            data = storage.read(storage.resolve(photograph), length=MAX_FILE_BYTES + 1)
            with warnings.catch_warnings(action="ignore"):  # of damage that does no harm
                return smart_resize(decode(data, channels), height)
        except (OSError, GoogleAPIError, RefusedImage) as error:
            reason = (isinstance(error, OSError) and error.strerror) or brief(error)
            raise UserError(f"the photograph {photograph} can't be used: {reason}") from None


def truncated(points: np.ndarray, threshold: float) -> np.ndarray:
    """Latents of the normal distribution without its tails: the fewer of them, the more usual the faces.

    This is the distribution of the truncation trick (Brock et al. 2019, arXiv:1809.11096, section 3.1), which
    draws values beyond the threshold again. Here each value takes the place in the truncated distribution
    that it had in the whole one, so that a seed stays much the same face at each threshold.

    Args:
        points: from the standard normal distribution, [N, D].
        threshold: the largest absolute value, at least 0.

    Returns:
        float32 [N, D].
    """
    if not threshold >= 0:
        raise UserError(f"the truncation {threshold} can't be: give a number of at least 0, such as 1")
    if math.isinf(threshold):
        return points
    low, high = ndtr([-threshold, threshold])
    inside = ndtri(low + ndtr(points.astype(np.float64)) * (high - low))
    return np.clip(inside, -threshold, threshold).astype(np.float32)


def _batches(network: Network, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Runs a network in batches of one size, which may change the last bit of a result."""
    size = min(_AT_ONCE, network.batch)
    for start in range(0, len(rows), size):
        batch = rows[start : start + size]
        filler = np.zeros((size - len(batch), *rows.shape[1:]), rows.dtype)
        yield network(np.concatenate([batch, filler]))[: len(batch)]


def _shape(*sides: int | str) -> str:
    return f"[{', '.join(map(str, sides))}]"
