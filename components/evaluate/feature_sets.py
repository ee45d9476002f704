"""The sets of images that are compared, as features that are computed as they are asked for.

What is held is given first, and only what is asked for beyond it is read or made, batch by batch.
"""

from collections.abc import Iterator

import numpy as np

from latentfaces.common.examples import read_images
from latentfaces.common.principal_components import PrincipalComponents
from latentfaces.components.evaluate import latents
from latentfaces.components.evaluate.inputs import Autoencoder, Inputs, TrainedModel
from latentfaces.components.evaluate.mixture import mixture_latents
from latentfaces.components.evaluate.principal_components import principal_components

Features = Iterator[np.ndarray]  # float32 [n, F] a batch


def held_out_features(inputs: Inputs, count: int) -> Features:
    """The features of at least `count` held-out images."""
    yield inputs.held_out_features
    for images in _images(inputs, inputs.held_out_split, len(inputs.held_out_features), count):
        yield inputs.feature_network(images)


def feature_sets(inputs: Inputs, count: int) -> dict[str, tuple[str, Features]]:
    """Returns what is compared with held-out images, each by its key in `metrics.json`.

    Returns:
        What the images are called, and the features of at least `count` of them: train images, and of each
        model the samples, of an autoencoder also reconstructions of held-out images, those by as many
        principal components, and samples from the mixture, where there are such.

    Raises:
        UserError: as they are asked for, if the data set was replaced, or a shard is missing or damaged.
    """
    sets: dict[str, tuple[str, Features]] = {"train": ("train images", _train(inputs, count))}
    for model in inputs.models:
        name, title = model.name, model.title
        sets[f"{name}_samples"] = (f"{title} samples", _samples(model, count))
        if isinstance(model, Autoencoder):
            sets[f"{name}_reconstructions"] = (f"{title} reconstructions", _reconstructions(model, count))
            if line := principal_components(model):
                by_line = f"the same by {model.latent_dim} principal components"
                sets[f"{name}_principal_components"] = (by_line, _linear_reconstructions(model, line, count))
            if (points := mixture_latents(model, count)) is not None:
                from_mixture = f"{title} samples from the Gaussian mixture"
                sets[f"{name}_mixture_samples"] = (from_mixture, _mixture_samples(model, points))
    return sets


def _images(inputs: Inputs, split: str, start: int, stop: int) -> Iterator[np.ndarray]:
    """Yields the images of a split from one index to another, uint8 [n, H, W, C]."""
    return read_images(inputs.dataset_uri, inputs.dataset, split, range(start, stop), inputs.streamed)


def _train(inputs: Inputs, count: int) -> Features:
    yield inputs.train_features
    for images in _images(inputs, "train", len(inputs.train_features), count):
        yield inputs.feature_network(images)


def _samples(model: TrainedModel, count: int) -> Features:
    yield model.sample_features
    start, rows = len(model.samples), model.inputs.streamed
    for points in latents.stream(start, count, rows, model.latent_dim, model.inputs.seed):
        yield model.inputs.feature_network(model.generate(model.from_prior(points)))


def _reconstructions(model: Autoencoder, count: int) -> Features:
    yield model.reconstruction_features
    inputs = model.inputs
    for images in _images(inputs, inputs.held_out_split, len(model.reconstruction_features), count):
        yield inputs.feature_network(model.generate(model.encoder(images)))


def _linear_reconstructions(model: Autoencoder, line: PrincipalComponents, count: int) -> Features:
    inputs = model.inputs
    held_out = inputs.real.held_out
    for start in range(0, len(held_out), inputs.streamed):
        yield inputs.feature_network(line.reconstruct(held_out[start : start + inputs.streamed]))
    for images in _images(inputs, inputs.held_out_split, len(held_out), count):
        yield inputs.feature_network(line.reconstruct(images))


def _mixture_samples(model: Autoencoder, points: np.ndarray) -> Features:
    rows = model.inputs.streamed
    for start in range(0, len(points), rows):
        yield model.inputs.feature_network(model.generate(points[start : start + rows]))
