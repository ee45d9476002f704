"""What metrics and figures work from: each part is computed when it is first asked for, and only once."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping

import numpy as np

from latentfaces.common import storage
from latentfaces.common.dataset import Dataset, read_dataset
from latentfaces.common.examples import load_split
from latentfaces.common.images import diversity, to_float
from latentfaces.common.model_folder import read_history
from latentfaces.common.models import find_model
from latentfaces.components.evaluate import classifier, concepts, latents
from latentfaces.components.evaluate.models import Network, load_network, read_settings

logger = logging.getLogger(__name__)

TRAIN_LIMIT = 10_000  # images for the classifier and the concept vector
HELD_OUT_LIMIT = 2_000
SAMPLES = 1_000  # drawn from each model for the numbers; the pictures show the first of them
DIVERSITY_LIMIT = 500  # images compared pair by pair
CONCEPT_LIMIT = 200  # images moved along the concept vector
LEAST_TRAIN, LEAST_HELD_OUT = 50, 5  # examples with an attribute, and without, to learn it and to judge it


class RealImages:
    """The data set's images, and those of their attributes that can be learned and judged.

    Args:
        dataset_uri: the data set folder.
        dataset: its `dataset.json`.

    Attributes:
        train: uint8 [N, H, W, C].
        held_out: uint8 [M, H, W, C].
        split: the held-out images': "test", or where it is empty the next best.
        attribute_names: of those that can be learned; empty where there are none.
        train_attributes: [N, A] of 0 and 1, in the order of `attribute_names`.
        held_out_attributes: [M, A].

    Raises:
        UserError: if the train split is empty, or a shard is missing or damaged.
    """

    def __init__(self, dataset_uri: str, dataset: Dataset) -> None:
        self.train, train_attributes, _ = load_split(dataset_uri, "train", TRAIN_LIMIT)
        filled = {name for name, split in dataset.splits.items() if split.examples}
        self.split = next(name for name in ("test", "valid", "train") if name in filled)
        self.held_out, held_out_attributes, _ = load_split(dataset_uri, self.split, HELD_OUT_LIMIT)
        if train_attributes is None or held_out_attributes is None:
            train_attributes, held_out_attributes = (
                np.zeros((len(images), 0), np.int64) for images in (self.train, self.held_out)
            )
        learnable = classifier.learnable(train_attributes, LEAST_TRAIN)
        learnable &= classifier.learnable(held_out_attributes, LEAST_HELD_OUT)
        self.attribute_names = [
            name for name, kept in zip(dataset.attribute_names, learnable, strict=True) if kept
        ]
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

    Raises:
        UserError: as `read_settings` and `load_network` do.
    """

    def __init__(self, inputs: Inputs, name: str, folder: str) -> None:
        family = find_model(name)
        self.inputs, self.name, self.title = inputs, name, family.title
        self.settings = read_settings(folder, name, inputs.dataset.image_shape)
        self.history = read_history(storage.resolve(folder))
        self.generator_name = family.generator
        self.generator = load_network(folder, f"{family.generator}.keras")
        self.latent_dim: int = self.generator.input_shape[-1]

    def generate(self, points: np.ndarray) -> np.ndarray:
        """Returns the images, float32 [..., H, W, C], of latents [..., D], all in one sweep of batches."""
        images = self.generator(points.reshape(-1, self.latent_dim))
        return images.reshape(*points.shape[:-1], *images.shape[1:])

    @functools.cached_property
    def samples(self) -> np.ndarray:
        """Images of random latents, float32 [`SAMPLES`, H, W, C]."""
        logger.info("evaluate: sampling the %s", self.title)
        return self.generate(latents.sample(SAMPLES, self.latent_dim, self.inputs.seed))

    @functools.cached_property
    def sample_predictions(self) -> np.ndarray:
        """What the attribute classifier reads off the samples, float32 [`SAMPLES`, A]."""
        return self.inputs.classifier(self.samples)


class Autoencoder(TrainedModel):
    """A trained model that also has an encoder, images [N, H, W, C] to the means of their latents [N, D]."""

    def __init__(self, inputs: Inputs, name: str, folder: str) -> None:
        super().__init__(inputs, name, folder)
        self.encoder = load_network(folder, f"{find_model(name).encoder}.keras")

    @functools.cached_property
    def train_means(self) -> np.ndarray:
        """The train images' latents, float32 [N, D]."""
        return self.encoder(self.inputs.real.train)

    @functools.cached_property
    def means(self) -> np.ndarray:
        """The held-out images' latents, float32 [M, D]."""
        return self.encoder(self.inputs.real.held_out)

    @functools.cached_property
    def reconstructions(self) -> np.ndarray:
        """The held-out images after encoder and decoder, float32 [M, H, W, C]."""
        logger.info("evaluate: reconstructing images with the %s", self.title)
        return self.generate(self.means)

    @functools.cached_property
    def reconstruction_predictions(self) -> np.ndarray:
        """What the attribute classifier reads off the reconstructions, float32 [M, A]."""
        return self.inputs.classifier(self.reconstructions)

    @functools.cached_property
    def concept_images(self) -> np.ndarray | None:
        """Held-out images moved along the vector of `CONCEPT`, float32 [at most `CONCEPT_LIMIT`, S, H, W, C].

        S are the `STEPS` along it. None where the concept can't be learned.
        """
        real = self.inputs.real
        if concepts.CONCEPT not in real.attribute_names:
            return None
        index = real.attribute_names.index(concepts.CONCEPT)
        vector = concepts.concept_vector(self.train_means, real.train_attributes, index)
        return self.generate(concepts.move(self.means[:CONCEPT_LIMIT], vector, concepts.STEPS))


class Inputs:
    """All that is evaluated: the data set's images and the models.

    Args:
        dataset_uri: the data set folder, local or `gs://`.
        models: model folders by the name of their family.
        seed: of samples and classifier.

    Attributes:
        dataset: its `dataset.json`.
        models: in the order in which they are given.

    Raises:
        UserError: if there is no data set or model, or they don't fit one another.
    """

    def __init__(self, dataset_uri: str, models: Mapping[str, str], seed: int) -> None:
        self.dataset_uri, self.seed = dataset_uri, seed
        self.dataset = read_dataset(dataset_uri)
        self.models = [
            (TrainedModel if find_model(name).encoder is None else Autoencoder)(self, name, folder)
            for name, folder in models.items()
        ]

    @functools.cached_property
    def real(self) -> RealImages:
        """The real images; raises `UserError` as `RealImages` does."""
        return RealImages(self.dataset_uri, self.dataset)

    @functools.cached_property
    def classifier(self) -> Network:
        """Images to probabilities of the attributes, float32 [N, A]; only where there are attributes."""
        real = self.real
        logger.info("evaluate: training the attribute classifier on %d real images", len(real.train))
        return classifier.train_classifier(real.train, real.train_attributes, self.seed)

    @functools.cached_property
    def real_predictions(self) -> np.ndarray:
        """What the attribute classifier reads off the held-out images, float32 [M, A]."""
        return self.classifier(self.real.held_out)

    @property
    def notes(self) -> list[str]:
        """What the reader of the numbers should know of the data set."""
        notes = []
        if self.real.split == "train":
            notes.append("The data set has only a train split: the models have seen what they are judged by.")
        elif self.real.split != "test":
            notes.append(
                f"The data set has no test split: the held-out images are those of '{self.real.split}'."
            )
        if not self.dataset.attribute_names:
            notes.append("The data set has no attributes: there is no classifier and no concept vector.")
        elif concepts.CONCEPT not in self.real.attribute_names:
            notes.append(f"There are too few labelled examples for the concept vector of {concepts.CONCEPT}.")
        return notes
