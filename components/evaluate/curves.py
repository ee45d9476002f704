"""Loss curves as lines for an SVG: what the page shows of a run's `history.csv`."""

import math
from dataclasses import dataclass

import numpy as np

WIDTH, HEIGHT = 320.0, 150.0  # of the plot in the SVG's own units
_MOST = 1e300  # the mean of larger values may be infinite
_POINTS = 300  # a longer history is averaged down to as many
_DECADES = 1.3  # a loss that spans more powers of ten than this is drawn on a logarithmic axis


@dataclass(frozen=True)
class Curve:
    """One loss over the steps.

    Attributes:
        name: the column's name.
        points: of an SVG polyline, "x,y x,y ...", in a box of `WIDTH` by `HEIGHT`.
        steps: of each point.
        values: of each point, with four significant digits.
        low: the value at the bottom edge.
        high: the value at the top edge.
        last_step: the step at the right edge; the left edge is step 0.
        last: the last value.
        logarithmic: whether the vertical axis is.
    """

    name: str
    points: str
    steps: list[int]
    values: list[float]
    low: float
    high: float
    last_step: int
    last: float
    logarithmic: bool


def loss_curves(history: list[dict[str, str]]) -> list[Curve]:
    """Returns a curve for each column whose name contains `loss`, of all values but infinite and huge ones.

    Args:
        history: rows of `history.csv`: `step` and the losses, as text.
    """
    names = [name for name in (history[0] if history else []) if name and "loss" in name]
    series = [(name, _finite([(row["step"], row[name]) for row in history])) for name in names]
    return [_curve(name, values) for name, values in series if len(values) > 1]


def _finite(rows: list[tuple[str, str]]) -> np.ndarray:
    values = np.array([(float(step), float(value or "nan")) for step, value in rows]).reshape(-1, 2)
    return values[(np.abs(values) < _MOST).all(axis=1)]


def _curve(name: str, values: np.ndarray) -> Curve:
    parts = np.array_split(values, min(len(values), _POINTS))
    steps, losses = np.stack([part.mean(axis=0) for part in parts]).T
    low, high = losses.min(), losses.max()
    logarithmic = bool(low > 0 and math.log10(high) - math.log10(low) > _DECADES)
    scaled = np.log(losses) if logarithmic else losses
    heights = (scaled - scaled.min()) / (np.ptp(scaled) or 1)
    last_step = values[-1, 0]
    points = " ".join(
        f"{x:.1f},{y:.1f}"
        for x, y in zip(WIDTH * steps / (last_step or 1), HEIGHT * (1 - heights), strict=True)
    )
    return Curve(
        name=name,
        points=points,
        steps=[round(step) for step in steps],
        values=[float(f"{loss:.4g}") for loss in losses],
        low=float(low),
        high=float(high),
        last_step=int(last_step),
        last=float(values[-1, 1]),
        logarithmic=logarithmic,
    )
