"""What the component of evaluation runs in its container."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kfp import dsl

from latentfaces.common import promoted, storage
from latentfaces.common.models import MODELS


def evaluate(
    dataset: dsl.Input[dsl.Dataset],
    root: str,
    run_id: str,
    destination: str,
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    **options: Any,
) -> str:
    """Renders what the models learned and measures it; returns where the report is.

    Args:
        dataset: dataset.json; its metadata tells where the shards are.
        root: The pipeline's folder, local or gs://.
        run_id: The run.
        destination: Folder for grids, report.html and metrics.json, local or gs://; "" for the run's own.
        metrics: The numbers.
        report: The report.
        **options: the models' folders, and those of `EvaluateOptions`.
    """
    from latentfaces.common.program import reporting
    from latentfaces.common.root import run_folder
    from latentfaces.components.evaluate.evaluate import evaluate

    with reporting():
        destination = (destination or f"{run_folder(root, run_id)}/evaluation").rstrip("/")
        models = {name: options.pop(name).path for name in MODELS}
        runs = {name: run for name, run in promoted.read(root).models.items() if run != run_id}
        earlier = {name: f"{run_folder(root, run)}/evaluation" for name, run in runs.items()}
        numbers = evaluate(dataset.metadata["location"], destination, models, earlier or None, **options)
        storage.write(Path(report.path), storage.read(storage.resolve(destination) / "report.html"))
        _log(metrics, numbers)
    return f"{destination}/report.html"


def _log(metrics: dsl.Metrics, numbers: Mapping[str, object], prefix: str = "") -> None:
    for name, value in numbers.items():
        if isinstance(value, Mapping):
            _log(metrics, value, f"{prefix}{name}.")
        elif isinstance(value, int | float):
            metrics.log_metric(prefix + name, float(value))
