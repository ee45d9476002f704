"""Concept vectors: directions in latent space that add a smile, take glasses off (the book, section 12.4.2).

Each is found on train images, and tried on held-out ones: a classifier tells what has changed.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import pdist
from sklearn.linear_model import LogisticRegression

from latentfaces.common.concepts import Concept
from latentfaces.components.evaluate.inputs import CONCEPT_LIMIT, DIVERSITY_LIMIT, Autoencoder, once

logger = logging.getLogger(__name__)

STRENGTHS = np.array([1, 1.25, 1.5, 2, 3])  # times a vector; the best of them is chosen
STEPS = np.concatenate([-STRENGTHS[::-1], [0], STRENGTHS])
BAR = 0.5  # see `MeasuredConcept`
BOOK = ("Smiling", "Eyeglasses", "Male")  # the book's smile, glasses on and off, man and woman

_MOVES = 6000  # images that are made of all concepts together, where that leaves each `_LEAST` held-out ones
_LEAST = 20
_PENALTY = 0.03  # beside the variance of an attribute, at most 0.25


@dataclass(frozen=True)
class MeasuredConcept(Concept):
    """A concept, and what it does to images.

    Held-out images are moved towards change: those that the classifier reads the attribute off are moved
    against the vector, the others along it. What it reads then is compared with what it reads off their
    reconstructions, which are the same without the move. The `strength`, one of `STRENGTHS`, is what makes
    `success - leakage` largest. A concept `works` if that, and of the classifier's reading of real images its
    true less its false positive rate, are at least `BAR`: one that can't read an attribute can't judge it.

    Attributes:
        images: how many were so moved.
        success: share of them whose reading of the attribute changes.
        leakage: that of any other attribute, averaged over the others.
        identity: how much an image stays itself, in features: 1 where it does not move, 0 where it goes as
            far as from one real image to another.
        effects: the share of images whose reading changes, for each attribute, float64 [A].
        shares: of images moved by each of the `STEPS`, those that the attribute is read off, float64 [S].
    """

    images: int
    success: float
    leakage: float
    identity: float
    effects: np.ndarray
    shares: np.ndarray


@once
def concepts(model: Autoencoder) -> list[MeasuredConcept]:
    """The concepts of all attributes that can be learned, in their order.

    None where there are no labels, or all held-out images are the same.
    """
    inputs, real = model.inputs, model.inputs.real
    names = real.attribute_names
    if not names:
        return []
    apart = float(pdist(inputs.held_out_features[:DIVERSITY_LIMIT]).mean())
    if not apart:
        return []
    logger.info("evaluate: trying %d concepts of the %s", len(names), model.title)
    vectors = ESTIMATORS[inputs.options.concepts](model.train_means, real.train_attributes)
    seen, labels = inputs.real_predictions > 0.5, real.held_out_attributes == 1
    count = inputs.fitting(min(CONCEPT_LIMIT, max(_LEAST, _MOVES // (len(names) * len(STEPS)))))
    found = []
    for index, (name, vector) in enumerate(zip(names, vectors, strict=True)):
        has = labels[:, index]
        is_readable = seen[has, index].mean() - seen[~has, index].mean() >= BAR
        found.append(_try(model, name, index, vector, count, apart, is_readable))
    return found


def working(model: Autoencoder) -> list[MeasuredConcept]:
    """Those of the concepts that work."""
    return [each for each in concepts(model) if each.works]


def two_concepts(model: Autoencoder) -> tuple[MeasuredConcept, MeasuredConcept] | None:
    """Two concepts that work, the book's first, whose vectors span a plane; None where there are fewer."""
    found = sorted(working(model), key=lambda each: BOOK.index(each.name) if each.name in BOOK else len(BOOK))
    return (found[0], found[1]) if len(found) > 1 else None


def _try(
    model: Autoencoder, name: str, index: int, vector: np.ndarray, count: int, apart: float, is_readable: bool
) -> MeasuredConcept:
    """Moves held-out images along a vector, at most `count` at a time; only what is read off them is kept."""
    read = model.reconstruction_predictions > 0.5
    halves = (np.flatnonzero(read[:, index] == has)[: -(-count // 2)] for has in (False, True))
    rows = np.concatenate(list(halves))
    start, before = model.means[rows], read[rows]
    after = {0.0: before}
    for step in STEPS[STEPS != 0]:
        images = model.generate(start + np.float32(step) * vector)
        after[step] = model.inputs.classifier(images) > 0.5
    has = before[:, [index]]
    effects = [np.mean(np.where(has, after[-by], after[by]) != before, axis=0) for by in STRENGTHS]
    others = np.arange(before.shape[1]) != index
    leakages = [float(effect[others].mean()) if others.any() else 0.0 for effect in effects]
    best = int(np.argmax([effect[index] - leak for effect, leak in zip(effects, leakages, strict=True)]))
    moves = np.where(has, -STRENGTHS[best], STRENGTHS[best]).astype(np.float32) * vector
    moved = model.inputs.feature_network(model.generate(start + moves))
    distance = np.linalg.norm(moved - model.reconstruction_features[rows], axis=1).mean()
    success = float(effects[best][index])
    return MeasuredConcept(
        name=name,
        vector=vector,
        strength=float(STRENGTHS[best]),
        works=bool(is_readable and success - leakages[best] >= BAR),
        images=len(rows),
        success=success,
        leakage=leakages[best],
        identity=float(1 - distance / apart),
        effects=effects[best],
        shares=np.array([after[step][:, index].mean() for step in STEPS]),
    )


def least_squares(latents: np.ndarray, attributes: np.ndarray) -> np.ndarray:
    """The change of the latent vector that goes with one attribute while the others stay as they are.

    These are the coefficients of the linear least squares fit of the latents to all attributes. With one
    attribute that is the difference of means. With several, what goes with others is taken out: in CelebA
    more women than men smile, and a plain difference of means would add lipstick with the smile. But blond
    hair while black hair stays black is nowhere to be seen, so there is a penalty (ridge regression; Hastie
    et al. 2009, section 3.4.1): where attributes together hardly vary, one goes with what it excludes.
    What it takes off each attribute's own coefficient is then given back.

    By success less leakage, averaged over the 14 attributes of the demo's VAE, and with train images drawn
    so that four pairs of attributes go together in 85 % of them: 0.80 and 0.79; without penalty 0.75 and
    0.74, differences of means 0.82 and 0.74 (0.15 leak, not 0.11), logistic regression 0.55 and 0.59.

    Args:
        latents: float [N, D].
        attributes: [N, A] of 0 and 1, each of both.

    Returns:
        float32 [A, D], a vector for each attribute.
    """
    centred = attributes - attributes.mean(axis=0)
    products = centred.T @ centred
    penalty = _PENALTY * len(latents) * np.eye(len(products))
    shrunk = np.linalg.solve(products + penalty, centred.T @ latents.astype(np.float64))
    kept = np.diag(np.linalg.solve(products + penalty, products))  # of own coefficients
    return (shrunk / kept[:, None]).astype(np.float32)


def means(latents: np.ndarray, attributes: np.ndarray) -> np.ndarray:
    """The mean latent of those who have an attribute minus that of those who have not.

    (Larsen et al., 2016, arXiv:1512.09300.) Arguments and result are those of `least_squares`.
    """
    latents = latents.astype(np.float64)
    differences = [latents[has].mean(axis=0) - latents[~has].mean(axis=0) for has in attributes.T == 1]
    return np.stack(differences).astype(np.float32)


def logistic(latents: np.ndarray, attributes: np.ndarray) -> np.ndarray:
    """The normal of the plane by which logistic regression tells with from without.

    (As InterFaceGAN's, Shen et al., 2020, arXiv:1907.10786.) It is as long as the difference of means is in
    its direction. Arguments and result are those of `least_squares`.
    """
    vectors = []
    for has, difference in zip(attributes.T, means(latents, attributes), strict=True):
        normal = LogisticRegression(max_iter=1000).fit(latents, has).coef_[0]
        vectors.append(normal * (difference @ normal) / max(normal @ normal, 1e-12))
    return np.stack(vectors).astype(np.float32)


ESTIMATORS: Mapping[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "least_squares": least_squares,
    "logistic": logistic,
    "means": means,
}
