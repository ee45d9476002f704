"""What metrics and figures work from: each part is computed when it is first asked for, and only once."""

from __future__ import annotations

import functools
import logging
import math
import weakref
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
from sklearn.metrics import pairwise_distances_argmin

from latentfaces.common import storage
from latentfaces.common.config import EvaluateOptions
from latentfaces.common.dataset import read_dataset
from latentfaces.common.errors import UserError
from latentfaces.common.examples import load_split
from latentfaces.common.images import diversity, to_float
from latentfaces.common.model_folder import read_history
from latentfaces.common.models import find_model
from latentfaces.components.evaluate import classifier, distances, latents
from latentfaces.components.evaluate.inception import load_inception
from latentfaces.components.evaluate.models import BATCH, Network, load_network, load_prior, read_settings

logger = logging.getLogger(__name__)

# How many images to work with; fewer where they are so large that all would take more bytes than `AT_ONCE`.
TRAIN_LIMIT = 10_000  # for the classifier and the concept vectors
HELD_OUT_LIMIT = 2_000
UNLABELLED_LIMIT = 4_000  # train images without labels that features are learned of
SAMPLES = 1_000  # drawn from each model and held, for pictures and numbers; only distances may take more
CONCEPT_LIMIT = 200  # images moved along a concept vector at a time
AT_ONCE = 1 << 30
STREAMED = 64 << 20  # bytes of a batch of images that are not held

LOG_VARIANCE_LIMIT = 50  # of a latent; its exponential is far from what float32 cannot hold
CALIBRATED_BY, LEAST_STD = 500, 1e-3  # train images, and what comes of images that are all the same
DIVERSITY_LIMIT = 500  # images compared pair by pair
LEAST_TRAIN, LEAST_HELD_OUT = 50, 5  # examples with an attribute, and without, to learn it and to judge it


Subject = TypeVar("Subject")
Found = TypeVar("Found")


def once(function: Callable[[Subject], Found]) -> Callable[[Subject], Found]:
    """Decorates a function of what is evaluated, whose results are kept for as long as that is.

    What several metrics and figures work from, and is no one else's concern, is such a function in a file of
    its own.
    """
    results: weakref.WeakKeyDictionary[Subject, Found] = weakref.WeakKeyDictionary()

    @functools.wraps(function)
    def find(subject: Subject) -> Found:
        if subject not in results:
            results[subject] = function(subject)
        return results[subject]

    return find


class RealImages:
    """The data set's images, and those of their attributes that can be learned and judged.

    Args:
        inputs: with the data set.

    Attributes:
        train: uint8 [N, H, W, C].
        held_out: uint8 [M, H, W, C].
        split: the held-out images'.
        attribute_names: of those that can be learned; empty where there are none.
        train_attributes: [N, A] of 0 and 1, in the order of `attribute_names`.
        held_out_attributes: [M, A].

    Raises:
        UserError: if the train split is empty, a shard is missing or damaged, or the data set was replaced.
    """

    def __init__(self, inputs: Inputs) -> None:
        uri, self.split = inputs.dataset_uri, inputs.held_out_split
        self.train, train_attributes, _ = load_split(uri, "train", inputs.train_count)
        self.held_out, held_out_attributes, _ = load_split(uri, self.split, inputs.held_out_count)
        if read_dataset(uri).digest != inputs.dataset.digest:
            raise UserError(f"the data set '{uri}' was replaced while it was read: evaluate again")
        if train_attributes is None or held_out_attributes is None:
            train_attributes, held_out_attributes = (
                np.zeros((len(images), 0), np.int64) for images in (self.train, self.held_out)
            )
        learnable = classifier.learnable(train_attributes, LEAST_TRAIN)
        learnable &= classifier.learnable(held_out_attributes, LEAST_HELD_OUT)
        names = inputs.dataset.attribute_names
        self.attribute_names = [name for name, kept in zip(names, learnable, strict=True) if kept]
        self.train_attributes = train_attributes[:, learnable]
        self.held_out_attributes = held_out_attributes[:, learnable]

    @functools.cached_property
    def diversity(self) -> float:
        """The held-out images', as `latentfaces.common.images.diversity`."""
        return diversity(to_float(self.held_out[:DIVERSITY_LIMIT]))


class TrainedModel:
    """A model that was trained; every one makes images of latents.

    Args:
        inputs: what it is evaluated with.
        name: of the model family.
        folder: the model folder, local or `gs://`.

    Attributes:
        title: as people write it.
        settings: its `config.json`.
        history: the rows of its `history.csv`.
        generator: latents [N, D] to images [N, H, W, C].
        generator_name: what the family calls that network.
        latent_dim: D.
        prior: makes latents such as the images' of normally distributed noise, [N, D]; None where N(0, I) is
            the prior.
        landmark_name: what one of the `landmarks` is.

    Raises:
        UserError: as `read_settings` and `load_network` do.
    """

    landmark_name = "random latent vector"

    def __init__(self, inputs: Inputs, name: str, folder: str) -> None:
        family = find_model(name)
        self.inputs, self.name, self.folder, self.title = inputs, name, folder, family.title
        self.settings = read_settings(folder, name, inputs.dataset.image_shape)
        self.history = read_history(storage.resolve(folder))
        self.generator_name = family.generator
        shape = inputs.dataset.image_shape
        self.generator = load_network(folder, f"{family.generator}.keras", takes=(None,), gives=shape)
        self.latent_dim: int = self.generator.input_shape[0]
        self.prior = load_prior(folder, self.settings, self.latent_dim)

    def from_prior(self, noise: np.ndarray) -> np.ndarray:
        """Returns latents from the model's prior, made of normally distributed noise, float32 [N, D]."""
        return self.prior(noise) if self.prior else noise

    def generate(self, points: np.ndarray) -> np.ndarray:
        """Returns the images, float32 [..., H, W, C], of latents [..., D], all in one sweep of batches."""
        images = self.generator(points.reshape(-1, self.latent_dim))
        return images.reshape(*points.shape[:-1], *images.shape[1:])

    @property
    def landmarks(self) -> np.ndarray:
        """Latents of good images, which ways lead from and to: those of the `samples`, float32 [N, D]."""
        return self.sample_latents

    @functools.cached_property
    def sample_latents(self) -> np.ndarray:
        """Random latents, float32 [at most `SAMPLES`, D]."""
        count = self.inputs.fitting(SAMPLES)
        return self.from_prior(latents.sample(count, self.latent_dim, self.inputs.seed))

    @functools.cached_property
    def samples(self) -> np.ndarray:
        """Images of random latents, float32 [at most `SAMPLES`, H, W, C]."""
        logger.info("evaluate: sampling the %s", self.title)
        return self.generate(self.sample_latents)

    @functools.cached_property
    def sample_features(self) -> np.ndarray:
        """The samples' features, float32 [N, F]."""
        return self.inputs.feature_network(self.samples)

    @functools.cached_property
    def sample_predictions(self) -> np.ndarray:
        """What the attribute classifier reads off the samples, float32 [N, A]."""
        return self.inputs.classifier(self.samples)


class Autoencoder(TrainedModel):
    """A trained model that also has an encoder, images [N, H, W, C] to the means of their latents [N, D].

    Attributes:
        encoder: that.
    """

    landmark_name = "held-out image"

    def __init__(self, inputs: Inputs, name: str, folder: str) -> None:
        super().__init__(inputs, name, folder)
        shape, latents = inputs.dataset.image_shape, (self.latent_dim,)
        self.encoder = load_network(folder, f"{find_model(name).encoder}.keras", takes=shape, gives=latents)
        self._log_variances = self.encoder.second()
        std = self.settings.get("likelihood_std") or 0
        if not isinstance(std, int | float) or (std and not 1e-6 < std < 1e6):
            raise UserError(
                f"'{folder}/config.json' gives a likelihood_std that is no standard deviation: train again"
            )
        self._likelihood_std = float(std)

    @functools.cached_property
    def likelihood_std(self) -> float:
        """Standard deviation of the Gaussian likelihood of pixels around what the decoder gives.

        0 for Bernoulli's. Of a calibrated VAE (Rybkin et al. 2021) it is the root mean square error of train
        images that are decoded from draws of their posteriors.
        """
        images = self.inputs.real.train[:CALIBRATED_BY]
        if not self.settings.get("calibrated") or (variances := self.log_variances(images)) is None:
            return self._likelihood_std
        drawn = np.random.default_rng(self.inputs.seed).standard_normal(variances.shape, np.float32)
        made = self.generate(self.train_means[: len(images)] + np.exp(variances / 2) * drawn)
        return max(float(np.sqrt(np.mean(np.square(made - to_float(images))))), LEAST_STD)

    def log_variances(self, images: np.ndarray) -> np.ndarray | None:
        """The logarithms of the variances of images' latents, float32 [N, D].

        None where the encoder does not give them.

        Raises:
            UserError: if they are none of a trained model.
        """
        if self._log_variances is None or self._log_variances.output_shape != (self.latent_dim,):
            return None
        found = self._log_variances(images)
        if np.abs(found).max() > LOG_VARIANCE_LIMIT:
            raise UserError(
                f"the encoder of the {self.title} gives log variances beyond ±{LOG_VARIANCE_LIMIT}: "
                "train it again"
            )
        return found

    @functools.cached_property
    def train_means(self) -> np.ndarray:
        """The train images' latents, float32 [N, D]."""
        return self.encoder(self.inputs.real.train)

    @functools.cached_property
    def means(self) -> np.ndarray:
        """The held-out images' latents, float32 [M, D]."""
        return self.encoder(self.inputs.real.held_out)

    @property
    def landmarks(self) -> np.ndarray:
        """The held-out images' latents, `means`."""
        return self.means

    @functools.cached_property
    def reconstructions(self) -> np.ndarray:
        """The held-out images after encoder and decoder, float32 [M, H, W, C]."""
        logger.info("evaluate: reconstructing images with the %s", self.title)
        return self.generate(self.means)

    @functools.cached_property
    def reconstruction_features(self) -> np.ndarray:
        """The reconstructions' features, float32 [M, F]."""
        return self.inputs.feature_network(self.reconstructions)

    @functools.cached_property
    def reconstruction_predictions(self) -> np.ndarray:
        """What the attribute classifier reads off the reconstructions, float32 [M, A]."""
        return self.inputs.classifier(self.reconstructions)


class Inputs:
    """All that is evaluated: the data set's images and the models.

    Args:
        dataset_uri: the data set folder, local or `gs://`.
        models: model folders by the name of their family.
        options: of the evaluation.

    Attributes:
        options: those.
        seed: theirs, of all random numbers.
        dataset: its `dataset.json`.
        models: in the order in which they are given.
        train_count: train images that are worked with; they take a quarter of `AT_ONCE` at most.
        held_out_split: "test", or where it is empty the next best.
        held_out_count: its images that are worked with.
        share: of other images that one would work with, those that are; all these take the rest.
        is_bounded: whether these are fewer than one would work with.
        streamed: images of a batch of those that are not held.
        compared: images of each kind that distances are measured with.

    Raises:
        UserError: if there is no data set or model, they don't fit one another, or the network of the
            features can't be loaded.
    """

    def __init__(self, dataset_uri: str, models: Mapping[str, str], options: EvaluateOptions) -> None:
        self.dataset_uri, self.options, self.seed = dataset_uri, options, options.seed
        self.dataset = read_dataset(dataset_uri)
        self._inception = load_inception(options.inception) if options.inception else None
        self.models = [
            (TrainedModel if find_model(name).encoder is None else Autoencoder)(self, name, folder)
            for name, folder in models.items()
        ]
        filled = [name for name, split in self.dataset.splits.items() if split.examples]
        self.held_out_split = next((name for name in ("test", "valid") if name in filled), "train")
        train = min(TRAIN_LIMIT, self.dataset.splits["train"].examples)
        held_out = min(HELD_OUT_LIMIT, self.dataset.splits[self.held_out_split].examples)
        size = of_train = math.prod(self.dataset.image_shape)  # bytes of an image
        others = size * held_out
        for model in self.models:  # whose arrays are of float32
            made = SAMPLES
            if isinstance(model, Autoencoder):
                made += held_out + CONCEPT_LIMIT
                of_train += 4 * model.latent_dim
            others += 4 * (size + model.latent_dim) * made
        self.train_count = min(train, max(1, AT_ONCE // 4 // of_train))
        self.share = min(1.0, AT_ONCE * 3 / 4 / max(others, 1))
        self.held_out_count = self.fitting(held_out)
        self.is_bounded = self.share < 1 or self.train_count < train
        self.streamed = max(1, min(BATCH, STREAMED // (4 * size)))
        splits = (self.dataset.splits[name].examples for name in ("train", self.held_out_split))
        self.compared = min(options.samples, *splits)

    def fitting(self, count: int) -> int:
        """Returns how many images to work with where one would take `count`."""
        return max(1, int(self.share * count))

    @functools.cached_property
    def real(self) -> RealImages:
        """The real images; raises `UserError` as `RealImages` does."""
        return RealImages(self)

    @functools.cached_property
    def _classifier(self) -> tuple[Network, Network]:
        real = self.real
        logger.info("evaluate: training the attribute classifier on %d real images", len(real.train))
        return classifier.train_classifier(real.train, real.train_attributes, self.seed)

    @property
    def classifier(self) -> Network:
        """Images to probabilities of the attributes, float32 [N, A]; only where there are attributes."""
        return self._classifier[0]

    @property
    def feature_source(self) -> str:
        """Where features come from: as asked for, but "components" for "attributes" that there are not."""
        is_missing = self.options.features == "attributes" and not self.real.attribute_names
        return "components" if is_missing else self.options.features

    @functools.cached_property
    def feature_network(self) -> Callable[[np.ndarray], np.ndarray]:
        """Images, uint8 or float32 in [0, 1], to the features that they are compared by, float32 [N, F]."""
        if self._inception:
            return self._inception
        if self.feature_source == "attributes":
            return self._classifier[1]
        if self.feature_source == "components":
            some = self.real.train[:UNLABELLED_LIMIT]
            logger.info("evaluate: training the feature network on %d real images without labels", len(some))
            return classifier.train_classifier(some, classifier.sides(some), self.seed)[1]
        return distances.feature_network(self.dataset.image_shape)

    @functools.cached_property
    def train_features(self) -> np.ndarray:
        """The train images' features, float32 [N, F]."""
        return self.feature_network(self.real.train)

    @functools.cached_property
    def held_out_features(self) -> np.ndarray:
        """The held-out images' features, float32 [M, F]."""
        return self.feature_network(self.real.held_out)

    def nearest_train(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the row of the nearest train image of each of [N, F] features, and how far it is, [N]."""
        rows = pairwise_distances_argmin(features, self.train_features)
        return rows, np.linalg.norm(features - self.train_features[rows], axis=1)

    @functools.cached_property
    def real_predictions(self) -> np.ndarray:
        """What the attribute classifier reads off the held-out images, float32 [M, A]."""
        return self.classifier(self.real.held_out)

    @property
    def notes(self) -> list[str]:
        """What the reader of the numbers should know of the data set."""
        notes = []
        if self.is_bounded:
            notes.append(
                f"The images are large: all numbers but the distances are of {len(self.real.train):,} train "
                f"and {len(self.real.held_out):,} held-out images and {self.fitting(SAMPLES):,} samples of "
                f"each model, so that all of them take no more than {AT_ONCE / 2**30:g} GiB."
            )
        if self.real.split == "train":
            notes.append("The data set has only a train split: the models have seen what they are judged by.")
        elif self.real.split != "test":
            notes.append(
                f"The data set has no test split: the held-out images are those of '{self.real.split}'."
            )
        if not self.dataset.attribute_names:
            notes.append("The data set has no attributes: there is no classifier and no concept vector.")
        elif not self.real.attribute_names:
            notes.append("There are too few labelled examples of every attribute to learn it.")
        return notes
