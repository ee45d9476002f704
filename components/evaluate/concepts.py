"""Concept vectors: the direction in latent space that adds a smile (the book, section 12.4.2)."""

from dataclasses import dataclass

import numpy as np

from latentfaces.components.evaluate.inputs import CONCEPT_LIMIT, CONCEPT_STEPS, Autoencoder, once

CONCEPT = "Smiling"
STEPS = np.linspace(-1.5, 1.5, CONCEPT_STEPS)  # along its vector; the middle one is none


@dataclass(frozen=True)
class Concept:
    """A stand-in, until the concepts are measured."""

    name: str
    vector: np.ndarray
    strength: float
    works: bool


@once
def concepts(model: Autoencoder) -> list[Concept]:
    """A stand-in, until the concepts are measured."""
    real = model.inputs.real
    return [
        Concept(name, concept_vector(model.train_means, real.train_attributes, index), 2.0, True)
        for index, name in enumerate(real.attribute_names)
    ]


@once
def concept_images(model: Autoencoder) -> np.ndarray | None:
    """Held-out images moved along the vector of `CONCEPT`, float32 [at most `CONCEPT_LIMIT`, S, H, W, C].

    S are the `STEPS` along it. None where the concept can't be learned.
    """
    real = model.inputs.real
    if CONCEPT not in real.attribute_names:
        return None
    index = real.attribute_names.index(CONCEPT)
    vector = concept_vector(model.train_means, real.train_attributes, index)
    start = model.means[: model.inputs.fitting(CONCEPT_LIMIT)]
    return model.generate(move(start, vector, STEPS))


def concept_vector(latents: np.ndarray, attributes: np.ndarray, index: int) -> np.ndarray:
    """The change of the latent vector that goes with one attribute while the others stay as they are.

    It is the attribute's coefficient in the linear least squares fit of the latents to all attributes.
    With one attribute that is the mean latent of those who have it minus the mean of those who have not
    (Larsen et al., 2016, arXiv:1512.09300). With several, what goes with others is taken out: in CelebA
    more women than men smile, and a plain difference of means would add lipstick with the smile.

    Args:
        latents: float [N, D].
        attributes: [N, A] of 0 and 1.
        index: the concept's column in them.

    Returns:
        float32 [D].
    """
    design = np.column_stack([np.ones(len(latents)), attributes])
    coefficients = np.linalg.lstsq(design, latents.astype(np.float64), rcond=None)[0]
    return coefficients[1 + index].astype(np.float32)


def move(latents: np.ndarray, vector: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Moves latents [N, D] along a vector [D] by each of the steps [S]: returns [N, S, D]."""
    return latents[:, None] + steps[None, :, None].astype(np.float32) * vector
