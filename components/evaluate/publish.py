"""What the pipeline passes on of an evaluation: the report, and the numbers that its page shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from latentfaces.common import storage


def publish_evaluation(numbers: Mapping[str, object], folder: str, report: str) -> dict[str, float]:
    """Copies the report to a local file and returns the evaluation's numbers by dotted name.

    Args:
        numbers: what `evaluate` returned.
        folder: the evaluation's folder, local or `gs://`.
        report: the local file.
    """
    storage.write(Path(report), storage.read(storage.resolve(folder) / "report.html"))
    return dict(_flatten(numbers, ""))


def _flatten(numbers: Mapping[str, object], prefix: str) -> list[tuple[str, float]]:
    flat = []
    for name, value in numbers.items():
        if isinstance(value, Mapping):
            flat += _flatten(value, f"{prefix}{name}.")
        elif isinstance(value, int | float):
            flat.append((prefix + name, float(value)))
    return flat
