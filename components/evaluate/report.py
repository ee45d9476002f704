"""`report.html`: one page that needs no other file, no script and no network."""

import base64
from collections.abc import Sequence
from pathlib import Path

import jinja2

from latentfaces.components.evaluate import curves
from latentfaces.components.evaluate.inputs import Inputs
from latentfaces.components.evaluate.registry import Finding, Picture, Result, number


def render(inputs: Inputs, results: Sequence[Finding[Result]], pictures: Sequence[Finding[Picture]]) -> str:
    """Renders the report.

    Every text from outside (names, paths, configurations) is escaped, and the page's content policy lets a
    browser load nothing but the pictures inside it.

    Args:
        inputs: what was evaluated.
        results: what the metrics found, in the order in which it is shown.
        pictures: what the figures show, likewise.

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
    environment.filters["data_uri"] = _data_uri
    environment.filters["number"] = number
    environment.filters["setting"] = _setting
    return environment.get_template("report.html.jinja").render(
        inputs=inputs,
        facts=[(found.front, fact) for found in results for fact in found.content.facts],
        pictures=[(found.front, found.content) for found in pictures],
        tables=[(found.front, table) for found in results for table in found.content.tables],
        curves=[(model.title, curves.loss_curves(model.history)) for model in inputs.models],
        plot=(curves.WIDTH, curves.HEIGHT),
        settings=list(
            dict.fromkeys(key for model in inputs.models for key in model.settings if key != "model")
        ),
    )


def _data_uri(picture: Picture) -> str:
    ending, content = next(iter(picture.files.items()))
    return f"data:image/{ending[1:]};base64,{base64.b64encode(content).decode()}"


def _setting(value: object) -> str:
    if isinstance(value, list):
        return " × ".join(map(str, value))
    return "–" if value is None or value == "" else str(value)
