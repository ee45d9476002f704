"""The evaluation: what the trained models learned, in pictures and numbers, in one folder.

It writes `grids/`, `report.html` and, last, `metrics.json`: no `metrics.json`, no evaluation.
"""

import json
import logging
import operator
from collections.abc import Mapping
from typing import Any

from latentfaces.common import storage
from latentfaces.common.config import EvaluateOptions
from latentfaces.common.errors import UserError
from latentfaces.common.lease import hold
from latentfaces.common.models import MODELS
from latentfaces.common.program import import_tensorflow
from latentfaces.components.evaluate import folder

_NOT_JUDGED = "Nothing was measured by which to judge; that needs some tens of held-out images."

logger = logging.getLogger(__name__)


def evaluate(
    dataset: str,
    output: str,
    models: Mapping[str, str],
    promoted: Mapping[str, str] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Evaluates models on a data set.

    On a CPU the same seed gives the same bytes.

    Args:
        dataset: the data set folder, local or `gs://`.
        output: the folder to write to, local or `gs://`; an earlier evaluation in it stays whole until this
            one is complete.
        models: the model folders by the name of their family, such as {"vae": "runs/vae"}.
        promoted: the folder of the promoted model's evaluation, by the name of its family, that each is
            compared with; by default what the output held before.
        **options: those of `EvaluateOptions`.

    Returns:
        What `metrics.json` holds: `seed`; `dataset`, its digest; `held_out`, its `split` and number of
        `examples`; what the metrics found, under the name that each was registered with; `notes`;
        `judgement`, the sentence on top of the report; `files`, the SHA-256 of each file beside it but the
        report, by name. All shares and accuracies are in [0, 1].
        What there is nothing to measure by is left out.

    Raises:
        UserError: before any long work, if there is no data set or model, they don't fit one another, an
            option is wrong, or the output can't be written, is in use or holds other things; and if a network
            gives values that are not finite.
        RunError: if there is no room for what is written.
    """
    settings = EvaluateOptions(**options)
    if not models:
        raise UserError(f"there is no model to evaluate: give --{' or --'.join(MODELS)}")
    import_tensorflow()  # which sets up Keras, and so precedes what imports it
    from latentfaces.components.evaluate.figures import FIGURES
    from latentfaces.components.evaluate.inputs import Inputs
    from latentfaces.components.evaluate.judgement import judge, read_earlier
    from latentfaces.components.evaluate.metrics import METRICS
    from latentfaces.components.evaluate.report import render

    inputs = Inputs(dataset, models, settings)
    place = storage.resolve(output)
    with hold(place) as lease:
        folder.claim(place, lease)
        folders = dict.fromkeys(models, output) if promoted is None else promoted
        earlier = {name: read_earlier(each) for name, each in folders.items()}
        results = list(METRICS.run(inputs))
        logger.info("evaluate: drawing the pictures")
        pictures = sorted(FIGURES.run(inputs), key=operator.attrgetter("rank"))
        metrics: dict[str, Any] = {
            "seed": settings.seed,
            "dataset": inputs.dataset.digest,
            "held_out": {"split": inputs.real.split, "examples": len(inputs.real.held_out)},
        }
        for found in sorted(results, key=operator.attrgetter("rank")):
            metrics.setdefault(found.name, {}).update(found.content.numbers)
        metrics["notes"] = inputs.notes
        titles = {model.name: model.title for model in inputs.models}
        than = "the evaluation before" if promoted is None else "the promoted model"
        judgement = judge(metrics, titles, earlier, than)
        metrics["judgement"] = judgement or _NOT_JUDGED
        logger.info("evaluate: writing %d pictures and the report to %s", len(pictures), output)
        files = {
            f"grids/{picture.name}{ending}": content
            for picture in pictures
            for ending, content in picture.content.files.items()
        }
        for found in results:
            files = {**found.content.files, **files}  # of one name, that of the first model
        metrics["files"] = folder.checksums(files)
        page = render(inputs, results, pictures, metrics["judgement"])
        files[folder.REPORT] = page.encode(errors="backslashreplace")
        files[folder.MARK] = (json.dumps(metrics, indent=2, allow_nan=False) + "\n").encode()
        folder.replace(place, files, lease)
    return metrics
