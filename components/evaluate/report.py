"""`report.html`: one page that needs no other file, no script and no network."""

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from components.evaluate import curves
from components.evaluate.gallery import Picture
from preprocessing.dataset import Dataset


@dataclass(frozen=True)
class Run:
    """A training run: "VAE" or "GAN", its `config.json` and the rows of its `history.csv`."""

    title: str
    config: dict[str, Any]
    history: list[dict[str, str]]


def render(
    dataset: Dataset, dataset_uri: str, runs: list[Run], pictures: list[Picture], metrics: dict[str, Any]
) -> str:
    """Renders the report.

    Every text from outside (names, paths, configurations) is escaped, and the page's content policy lets a
    browser load nothing but the pictures inside it.

    Args:
        dataset: the data set's description.
        dataset_uri: where it is.
        runs: the models.
        pictures: in the order in which they are shown.
        metrics: as written to `metrics.json`.

    Returns:
        an HTML document.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = lambda png: "data:image/png;base64," + base64.b64encode(png).decode()
    environment.filters["percent"] = lambda share: (
        "–" if share is None else f"{100 * share:.1f}\N{NO-BREAK SPACE}%"
    )
    environment.filters["number"] = lambda value: f"{value:.4g}"
    environment.filters["setting"] = _setting
    return environment.get_template("report.html.jinja").render(
        dataset=dataset,
        dataset_uri=dataset_uri,
        runs=runs,
        settings=list(dict.fromkeys(key for run in runs for key in run.config if key != "model")),
        curves=[(run.title, curves.loss_curves(run.history)) for run in runs],
        plot=(curves.WIDTH, curves.HEIGHT),
        pictures=pictures,
        metrics=metrics,
    )


def _setting(value: object) -> str:
    if isinstance(value, list):
        return " × ".join(map(str, value))
    return "–" if value is None or value == "" else str(value)
