"""What the component of promotion runs in its container."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kfp import dsl

from latentfaces.common.models import MODELS


def promote(
    dataset: dsl.Input[dsl.Dataset],
    root: str,
    run_id: str,
    evaluation: str,
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    **options: Any,
) -> None:
    """Makes the run's models the promoted ones, each if it is not worse than the one that is.

    Args:
        dataset: dataset.json; its metadata tells where the shards are.
        root: The pipeline's folder, local or gs://.
        run_id: The run.
        evaluation: Where the evaluation's report is, local or gs://; it is told there.
        metrics: Whether each model was promoted, the distances, and why.
        report: The report.
        **options: the models that were trained, and those of `EvaluateOptions` and `PromoteOptions`.
    """
    from latentfaces.common import storage
    from latentfaces.common.program import reporting
    from latentfaces.common.promoted import PROMOTED
    from latentfaces.components.promote.promote import promote

    with reporting():
        for name in MODELS:
            options.pop(name)  # trained they are: what counts is what lies in the root
        for each in promote(dataset.metadata["location"], root, run_id, evaluation, **options):
            numbers = {
                "promoted": float(each.decision == PROMOTED),
                "distance": each.distance,
                "promoted_distance": each.against_distance,
                "standard_error": each.standard_error,
            }
            for name, number in numbers.items():
                if number is not None:
                    metrics.log_metric(f"{each.model}.{name}", number)
            metrics.metadata[f"{each.model}.why"] = each.why
        storage.write(Path(report.path), storage.read(storage.resolve(evaluation)))
