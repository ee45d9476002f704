"""What the component of promotion runs in its container."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kfp import dsl


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
        **options: those of `PromoteOptions`.
    """
    from latentfaces.common import storage
    from latentfaces.common.program import reporting
    from latentfaces.common.promoted import PROMOTED
    from latentfaces.components.promote.promote import promote

    with reporting():
        for each in promote(dataset.metadata["location"], root, run_id, evaluation, **options):
            metrics.log_metric(f"{each.model}.promoted", float(each.decision == PROMOTED))
            for name in ("distance", "against_distance", "standard_error"):
                if (number := getattr(each, name)) is not None:
                    metrics.log_metric(f"{each.model}.{name}", number)
            metrics.metadata[f"{each.model}.why"] = each.why
        storage.write(Path(report.path), storage.read(storage.resolve(evaluation)))
