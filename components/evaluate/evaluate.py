"""The evaluation: what the trained models learned, in pictures and numbers, in one folder.

It writes `grids/*.png`, `report.html` and, last, `metrics.json`: no `metrics.json`, no evaluation.
"""

import json
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.api_core.exceptions import GoogleAPIError

from components.evaluate import classifier, concepts, distances, gallery, latents, report
from components.evaluate.gallery import Picture
from components.evaluate.models import Network, Vae, load_network, load_vae, read_config
from components.evaluate.pictures import to_float
from components.train.input import load_split
from components.train.monitor import read_history
from preprocessing import storage
from preprocessing.dataset import Dataset, read_dataset
from preprocessing.errors import UserError
from preprocessing.storage import AnyPath

logger = logging.getLogger("latentfaces")

CONCEPT = "Smiling"
CONCEPT_STEPS = np.linspace(-1.5, 1.5, 7)
GRIDS = (
    "real",
    "gan_samples",
    "vae_samples",
    "reconstructions",
    "interpolations",
    "manifold",
    f"concept_{CONCEPT.lower()}",
)

_TRAIN_LIMIT = 10_000  # images for the classifier and the concept vector
_HELD_OUT_LIMIT = 2_000
_SAMPLES = 1_000  # drawn from each model for the numbers; the pictures show the first of them
_DIVERSITY_LIMIT = 500  # images compared pair by pair
_CONCEPT_LIMIT = 200  # images moved along the concept vector
_LEAST_TRAIN, _LEAST_HELD_OUT = 50, 5  # examples with an attribute, and without, to learn it and to judge it


@dataclass(frozen=True)
class _Real:
    """The real images, and those of their attributes that can be learned and judged.

    `train` and `held_out` are uint8 [N, H, W, C], their attributes [N, A] of 0 and 1 in the order of `names`.
    """

    train: np.ndarray
    train_attributes: np.ndarray
    held_out: np.ndarray
    held_out_attributes: np.ndarray
    split: str
    names: list[str]


@dataclass
class _Findings:
    """What was found: pictures, numbers by topic, and for each set of images the attributes read off it."""

    pictures: list[Picture]
    metrics: dict[str, Any]
    readings: dict[str, np.ndarray]


def evaluate(
    dataset: str, output: str, vae: str | None = None, gan: str | None = None, seed: int = 0
) -> dict[str, Any]:
    """Evaluates a VAE, a GAN or both on a data set.

    Args:
        dataset: the data set folder, local or `gs://`.
        output: the folder to write to, local or `gs://`; an earlier evaluation in it is replaced.
        vae: model folder with `config.json`, `encoder.keras` and `decoder.keras`.
        gan: model folder with `config.json` and `generator.keras`.
        seed: of the samples and of the attribute classifier; on a CPU the same seed gives the same bytes.

    Returns:
        What `metrics.json` holds. `seed`; `held_out`: its `split` and number of `examples`; `real`: its
        `diversity`; `vae`: `reconstruction_mse`, `reconstruction_psnr_db`, `diversity` of samples and
        `diversity_ratio` to that of real images; `gan`: the latter two; `attributes`: for each, `real_share`,
        `guessing` (the accuracy of always giving the commoner answer), `real_accuracy`,
        `reconstruction_accuracy`, `vae_share` and `gan_share`; `concept`: its `name`, the `steps` along it
        and the `shares` of images that the classifier sees it in; `notes`. All shares and accuracies are
        in [0, 1]. Topics without a model or attributes to measure them by are left out.

    Raises:
        UserError: before any long work, if there is no data set or model, they don't fit one another, or
            the output can't be written.
    """
    if vae is None and gan is None:
        raise UserError("There is no model to evaluate: give --vae, --gan or both.")
    description = read_dataset(dataset)
    runs = [
        report.Run(
            kind.upper(),
            read_config(model, kind, description.image_shape),
            read_history(storage.resolve(model)),
        )
        for kind, model in (("vae", vae), ("gan", gan))
        if model is not None
    ]
    folder = _require_writable(output)
    real = _load_real(dataset, description)
    vae_model = None if vae is None else load_vae(vae)
    generator = None if gan is None else load_network(gan, "generator.keras")
    _remove_earlier(folder)

    reader = None
    if real.names:
        logger.info("evaluate: training the attribute classifier on %d real images", len(real.train))
        reader = classifier.train_classifier(real.train, real.train_attributes, seed)
    metrics = {
        "seed": seed,
        "held_out": {"split": real.split, "examples": len(real.held_out)},
        "real": {"diversity": distances.diversity(to_float(real.held_out[:_DIVERSITY_LIMIT]))},
    }
    found = _Findings([gallery.real(real.held_out, real.split)], metrics, readings={})
    if generator is not None:
        logger.info("evaluate: sampling the GAN")
        _look_at_gan(found, generator, reader, seed)
    if vae_model is not None:
        logger.info("evaluate: reconstructing, sampling and interpolating with the VAE")
        _look_at_vae(found, real, vae_model, reader, seed)
    if reader is not None:
        found.metrics["attributes"] = _attribute_table(real, reader(real.held_out), found.readings)
    found.metrics["notes"] = _notes(real, description)

    logger.info("evaluate: writing %d pictures and the report to %s", len(found.pictures), output)
    for picture in found.pictures:
        storage.write(folder / "grids" / f"{picture.name}.png", picture.png)
    page = report.render(description, dataset, runs, found.pictures, found.metrics)
    storage.write(folder / "report.html", page.encode())
    text = json.dumps(found.metrics, indent=2, allow_nan=False) + "\n"
    storage.write(folder / "metrics.json", text.encode())
    return found.metrics


def _require_writable(output: str) -> AnyPath:
    folder = storage.resolve(output)
    probe = folder / ".writable"
    try:
        storage.write(probe, b"")
        storage.delete(probe)
    except (OSError, GoogleAPIError) as error:
        raise UserError(f"The output '{output}' can't be written ({error}): give another folder.") from error
    return folder


def _remove_earlier(folder: AnyPath) -> None:
    """Removes an earlier evaluation, its commit mark first."""
    for name in ("metrics.json", "report.html", *(f"grids/{name}.png" for name in GRIDS)):
        storage.delete(folder / name)


def _load_real(dataset: str, description: Dataset) -> _Real:
    train, train_attributes, _ = load_split(dataset, "train", _TRAIN_LIMIT)
    filled = {name for name, split in description.splits.items() if split.examples}
    split = next(name for name in ("test", "valid", "train") if name in filled)
    held_out, held_out_attributes, _ = load_split(dataset, split, _HELD_OUT_LIMIT)
    if train_attributes is None or held_out_attributes is None:
        train_attributes, held_out_attributes = (np.zeros((len(images), 0)) for images in (train, held_out))
    usable = classifier.learnable(train_attributes, _LEAST_TRAIN)
    usable &= classifier.learnable(held_out_attributes, _LEAST_HELD_OUT)
    return _Real(
        train,
        train_attributes[:, usable],
        held_out,
        held_out_attributes[:, usable],
        split,
        [name for name, kept in zip(description.attribute_names, usable, strict=True) if kept],
    )


def _look_at_gan(found: _Findings, generator: Network, reader: Network | None, seed: int) -> None:
    samples = generator(latents.sample(_SAMPLES, generator.input_shape[-1], seed))
    found.metrics["gan"] = _diversity(found, samples)
    found.pictures.append(gallery.gan_samples(samples))
    if reader is not None:
        found.readings["gan"] = reader(samples)


def _look_at_vae(found: _Findings, real: _Real, vae: Vae, reader: Network | None, seed: int) -> None:
    means = vae.encoder(real.held_out)
    decoded = vae.decoder(means)
    samples = vae.decoder(latents.sample(_SAMPLES, vae.latent_dim, seed))
    error = distances.mean_squared_error(to_float(real.held_out), decoded)
    found.metrics["vae"] = {
        "reconstruction_mse": error,
        "reconstruction_psnr_db": distances.psnr(error),
        **_diversity(found, samples),
    }
    found.pictures += [
        gallery.reconstructions(real.held_out, decoded, real.split),
        gallery.vae_samples(samples),
        gallery.interpolations(vae, means),
    ]
    if vae.latent_dim == 2:
        found.pictures.append(gallery.manifold(vae, means))
    if reader is not None:
        found.readings |= {"vae": reader(samples), "reconstruction": reader(decoded)}
        if CONCEPT in real.names:
            _look_at_concept(found, real, vae, means, reader)


def _look_at_concept(found: _Findings, real: _Real, vae: Vae, means: np.ndarray, reader: Network) -> None:
    index = real.names.index(CONCEPT)
    vector = concepts.concept_vector(vae.encoder(real.train), real.train_attributes, index)
    moved = concepts.move(means[:_CONCEPT_LIMIT], vector, CONCEPT_STEPS)
    images = vae.decoder(moved.reshape(-1, vae.latent_dim))
    seen = reader(images)[:, index].reshape(moved.shape[:2]) > 0.5
    found.metrics["concept"] = {
        "name": CONCEPT,
        "steps": CONCEPT_STEPS.tolist(),
        "shares": seen.mean(axis=0).tolist(),
    }
    found.pictures.append(
        gallery.concept(CONCEPT, images.reshape(*moved.shape[:2], *images.shape[1:]), CONCEPT_STEPS)
    )


def _diversity(found: _Findings, samples: np.ndarray) -> dict[str, float | None]:
    own, real = distances.diversity(samples[:_DIVERSITY_LIMIT]), found.metrics["real"]["diversity"]
    return {"diversity": own, "diversity_ratio": own / real if real else None}


def _attribute_table(
    real: _Real, real_reading: np.ndarray, readings: dict[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    labels = real.held_out_attributes
    share = labels.mean(axis=0)
    columns = {
        "real_share": share,
        "guessing": np.maximum(share, 1 - share),
        "real_accuracy": classifier.accuracy(real_reading, labels),
    }
    if "reconstruction" in readings:
        columns["reconstruction_accuracy"] = classifier.accuracy(readings["reconstruction"], labels)
    for kind in ("vae", "gan"):
        if kind in readings:
            columns[f"{kind}_share"] = np.mean(readings[kind] > 0.5, axis=0)
    return {
        name: {column: float(values[index]) for column, values in columns.items()}
        for index, name in enumerate(real.names)
    }


def _notes(real: _Real, description: Dataset) -> list[str]:
    notes = []
    if real.split == "train":
        notes.append("The data set has only a train split: the models have seen what they are judged by.")
    elif real.split != "test":
        notes.append(f"The data set has no test split: the held-out images are those of '{real.split}'.")
    if not description.attribute_names:
        notes.append("The data set has no attributes: there is no classifier and no concept vector.")
    elif CONCEPT not in real.names:
        notes.append(f"There are too few labelled examples for the concept vector of {CONCEPT}.")
    return notes
