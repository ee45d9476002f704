"""What the component of evaluation runs in its container."""

from __future__ import annotations

from typing import Any

from kfp import dsl

from latentfaces.common.models import MODELS


def evaluate(
    dataset: dsl.Input[dsl.Dataset],
    destination: str,
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    **options: Any,
) -> str:
    """Renders what the models learned and measures it; returns where the report is.

    Args:
        dataset: dataset.json; its metadata tells where the shards are.
        destination: Folder for grids, report.html and metrics.json, local or gs://.
        metrics: The numbers.
        report: The report.
        **options: the models' folders, and those of `EvaluateOptions`.
    """
    from latentfaces.common.program import import_tensorflow, reporting

    with reporting():
        import_tensorflow()
        from latentfaces.components.evaluate.evaluate import evaluate
        from latentfaces.components.evaluate.publish import publish_evaluation

        models = {name: options.pop(name).path for name in MODELS}
        numbers = evaluate(dataset.metadata["location"], destination, models, **options)
        for name, value in publish_evaluation(numbers, destination, report.path).items():
            metrics.log_metric(name, value)
    return f"{destination}/report.html"
