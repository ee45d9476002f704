"""The evaluation: what the trained models learned, in pictures and numbers, in one folder.

It writes `grids/*.png`, `report.html` and, last, `metrics.json`: no `metrics.json`, no evaluation.
"""

import json
import logging
from collections.abc import Mapping
from typing import Any

from google.api_core.exceptions import GoogleAPIError

from latentfaces.common import storage
from latentfaces.common.errors import UserError
from latentfaces.common.models import MODELS
from latentfaces.common.storage import AnyPath
from latentfaces.components.evaluate.figures import FIGURES
from latentfaces.components.evaluate.inputs import Autoencoder, Inputs, RealImages, TrainedModel
from latentfaces.components.evaluate.metrics import METRICS
from latentfaces.components.evaluate.options import EvaluateOptions
from latentfaces.components.evaluate.registry import Finding
from latentfaces.components.evaluate.report import render

logger = logging.getLogger(__name__)

# Of pictures, and in metrics.json: what is about images, models that only generate, others, and all of them.
ORDER = (RealImages, TrainedModel, Autoencoder, Inputs)


def evaluate(dataset: str, output: str, models: Mapping[str, str], **options: Any) -> dict[str, Any]:
    """Evaluates models on a data set.

    On a CPU the same seed gives the same bytes.

    Args:
        dataset: the data set folder, local or `gs://`.
        output: the folder to write to, local or `gs://`; an earlier evaluation in it is replaced.
        models: the model folders by the name of their family, such as {"vae": "runs/vae"}.
        **options: those of `EvaluateOptions`.

    Returns:
        What `metrics.json` holds: `seed`; `held_out`, its `split` and number of `examples`; what the metrics
        found, under the name that each was registered with; `notes`. All shares and accuracies are in [0, 1].
        What there is nothing to measure by is left out.

    Raises:
        UserError: before any long work, if there is no data set or model, they don't fit one another, an
            option is wrong or the output can't be written.
    """
    settings = EvaluateOptions(**options)
    if not models:
        raise UserError(f"there is no model to evaluate: give --{' or --'.join(MODELS)}")
    inputs = Inputs(dataset, models, settings.seed)
    folder = _require_writable(output)

    results = list(METRICS.run(inputs))
    pictures = sorted(FIGURES.run(inputs), key=_rank)
    metrics: dict[str, Any] = {
        "seed": settings.seed,
        "held_out": {"split": inputs.real.split, "examples": len(inputs.real.held_out)},
    }
    for found in sorted(results, key=_rank):
        metrics.setdefault(found.name, {}).update(found.content.numbers)
    metrics["notes"] = inputs.notes

    logger.info("evaluate: writing %d pictures and the report to %s", len(pictures), output)
    _remove_earlier(folder)
    for picture in pictures:
        storage.write(folder / "grids" / f"{picture.name}.png", picture.content.png)
    storage.write(folder / "report.html", render(inputs, results, pictures).encode())
    storage.write(folder / "metrics.json", (json.dumps(metrics, indent=2, allow_nan=False) + "\n").encode())
    return metrics


def _rank(found: Finding[Any]) -> int:
    return max(rank for rank, kind in enumerate(ORDER) if isinstance(found.subject, kind))


def _require_writable(output: str) -> AnyPath:
    folder = storage.resolve(output)
    probe = folder / ".writable"
    try:
        storage.write(probe, b"")
        storage.delete(probe)
    except (OSError, GoogleAPIError) as error:
        raise UserError(f"the output '{output}' can't be written ({error}): give another folder") from error
    return folder


def _remove_earlier(folder: AnyPath) -> None:
    """Removes an earlier evaluation, its commit mark first, and no picture but those that figures make."""
    names = [name for name, _, _ in FIGURES.entries]
    names += [f"{{model}}_{name}" for name in names]
    grids = dict.fromkeys(f"grids/{name.format(model=model)}.png" for name in names for model in MODELS)
    for path in ("metrics.json", "report.html", *grids):
        storage.delete(folder / path)
