"""How one model is judged against another: by the same images and features, of the same noise."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from latentfaces.common import storage
from latentfaces.common.config import EvaluateOptions
from latentfaces.common.errors import UserError, printable
from latentfaces.common.model_folder import DIVERSE, read_history
from latentfaces.common.promoted import PROMOTED, REJECTED, Decision, model_folder
from latentfaces.components.evaluate import latents
from latentfaces.components.evaluate.classifier import FEATURES
from latentfaces.components.evaluate.distances import compare, feature_network, frechet_distance
from latentfaces.components.evaluate.inputs import SAMPLES, Inputs
from latentfaces.components.evaluate.models import load_model

_AT_ONCE = 64 << 20  # bytes of samples
_LEAST = 20  # images; by fewer, standard errors come out too small, and noise is promoted


class Judge:
    """Decides about the models of one run; what was computed once is kept.

    Args:
        dataset: the data set folder, whose held-out images are what models are to be near.
        root: the pipeline's folder.
        run: the run.
        tolerance: standard errors by which a model may be worse than the promoted one.
        seed: of the samples' noise and of the resampling.

    Raises:
        UserError: if there is no data set.
    """

    def __init__(self, dataset: str, root: str, run: str, tolerance: float, seed: int) -> None:
        self._inputs = Inputs(dataset, {}, EvaluateOptions(seed=seed))
        self._root, self._run, self._tolerance, self._seed = root, run, tolerance, seed
        self._features: dict[tuple[str, str], np.ndarray] = {}
        self._decisions: dict[tuple[str, str], Decision] = {}

    @property
    def basis(self) -> dict[str, Any]:
        """What the decisions rest on, for people to read."""
        return {
            "split": self._inputs.held_out_split,
            "held_out": self._inputs.held_out_count,
            "samples": SAMPLES,
            "features": FEATURES,
            "tolerance": self._tolerance,
            "seed": self._seed,
        }

    def decide(self, model: str, against: str) -> Decision:
        """Decides about a model of the run.

        Args:
            model: name of the model family.
            against: the run whose model is the promoted one; "" where there is none.

        Raises:
            UserError: if the data set can't be read.
        """
        if (model, against) not in self._decisions:
            verdict = self._verdict(model, against)
            self._decisions[model, against] = Decision(run=self._run, model=model, against=against, **verdict)
        return self._decisions[model, against]

    def _verdict(self, model: str, against: str) -> dict[str, Any]:
        real = self._real  # an error of the data set's is no model's
        try:
            self._refuse_collapse(model)
            features = self._measure(self._run, model)
        except (UserError, IsADirectoryError) as error:
            return {"decision": REJECTED, "why": _sentence(error)}
        distance = frechet_distance(real, features)
        if not against:
            why = "there was no promoted model; its files load and no collapse was flagged"
            return {"decision": PROMOTED, "why": why, "distance": distance}
        try:
            others = self._measure(against, model)
        except (UserError, IsADirectoryError) as error:
            why = f"it can't be compared with the promoted model, and takes its place: {_sentence(error)}"
            return {"decision": PROMOTED, "why": why, "distance": distance}
        split = self._inputs.held_out_split
        if len(real) < _LEAST:
            why = (
                f"the promoted model stays, since the images to compare it by are too few: the {split} split "
                f"has {len(real)}, and {_LEAST} are needed"
            )
            return {"decision": REJECTED, "why": why, "distance": distance}
        found = compare(real, features, others, self._seed)
        difference = found.distance - found.other
        is_worse = difference > self._tolerance * found.standard_error
        relation = "as good"
        if difference:
            errors = abs(difference) / found.standard_error if found.standard_error else math.inf
            relation = f"{'worse' if difference > 0 else 'better'} by {errors:.1f} standard errors"
            if difference > 0:
                relation += f", and {self._tolerance:g} are tolerated"
        images = "train images, since none are held out," if split == "train" else "held-out images"
        return {
            "decision": REJECTED if is_worse else PROMOTED,
            "why": f"its distance from {len(real):,} {images} is {found.distance:.4g}, and the "
            f"promoted model's {found.other:.4g}: it is {relation}",
            "distance": found.distance,
            "against_distance": found.other,
            "standard_error": found.standard_error,
        }

    @functools.cached_property
    def _network(self) -> Any:
        return feature_network(self._inputs.dataset.image_shape)

    @functools.cached_property
    def _real(self) -> np.ndarray:
        """The held-out images' features, float32 [N, FEATURES]."""
        features: np.ndarray = self._network(self._inputs.real.held_out)
        return features

    def _measure(self, run: str, model: str) -> np.ndarray:
        """Returns the features of a model's samples, float32 [SAMPLES, FEATURES].

        Raises:
            UserError: if a file is missing or damaged, the model makes other images than the data set's, or
                values that are not finite.
            OSError: if a file can't be read.
        """
        if (run, model) not in self._features:
            folder, shape = model_folder(self._root, run, model), self._inputs.dataset.image_shape
            generator, prior = load_model(folder, model, shape)
            points = latents.sample(SAMPLES, generator.input_shape[0], self._seed)
            if prior:
                points = prior(points)
            rows = max(1, _AT_ONCE // (4 * int(np.prod(shape))))
            parts = [points[start : start + rows] for start in range(0, SAMPLES, rows)]
            self._features[run, model] = np.concatenate([self._network(generator(part)) for part in parts])
        return self._features[run, model]

    def _refuse_collapse(self, model: str) -> None:
        """Raises `UserError` if the run's samples were alike at its end, or nothing tells."""
        folder = model_folder(self._root, self._run, model)
        history = read_history(storage.resolve(folder))
        ratio = history[-1].get("diversity_ratio", "") if history else ""
        if not ratio:
            raise UserError(f"{folder}/history.csv does not say how diverse its samples were")
        if not float(ratio) >= DIVERSE:
            raise UserError(
                f"its samples are alike, a sign of mode collapse: at the end of training they differed "
                f"{float(ratio):.3g} times as much as real images, which is less than {DIVERSE:g}"
            )


def _sentence(error: UserError | IsADirectoryError) -> str:
    text = f"{error.filename} is a folder" if isinstance(error, IsADirectoryError) else str(error)
    return printable(text)[:900]
