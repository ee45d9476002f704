"""`report.html`: one page that needs no other file and no network, and in which the trained models work."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latentfaces.common import storage
from latentfaces.common.errors import printable
from latentfaces.common.pictures import webp
from latentfaces.components.evaluate import curves
from latentfaces.components.evaluate.inputs import Inputs
from latentfaces.components.evaluate.interactive import data_uri, interactive
from latentfaces.components.evaluate.page import template
from latentfaces.components.evaluate.registry import Animation, Finding, Picture, Result, number

MOST = 15_000_000  # bytes of the page
REFUSED = 50  # files that the page names

_OTHERS = 1_000_000  # bytes of it that are neither pictures nor networks, at most
_MOST_LINES, _MOST_CURVES, _LONGEST = 100, 20, 300  # settings and losses of a model, characters of a text
_QUALITY = 90  # of the pictures in the page; those in grids/ lose nothing
_HERE = Path(__file__).parent


def render(
    inputs: Inputs,
    results: Sequence[Finding[Result]],
    pictures: Sequence[Finding[Picture]],
    judgement: str,
) -> str:
    """Renders the report.

    Every text from outside (names, paths, configurations) is escaped. The page's content policy lets a
    browser run nothing but the two scripts inside it, by their checksums, and load nothing but what is in it.

    Args:
        inputs: what was evaluated.
        results: what the metrics found, in the order in which it is shown.
        pictures: what the figures show, likewise.
        judgement: the sentence on top; "" for none.

    Returns:
        an HTML document.
    """
    shown = [_Shown(found.front, found.content) for found in pictures]
    room = MOST - _OTHERS - sum(len(each.moving) + len(each.still) for each in shown)
    scripts = [(_HERE / name).read_text(encoding="utf-8") for name in ("decoder.js", "report.js")]
    return template(_HERE / "report.html.jinja", number=number).render(
        inputs=inputs,
        judgement=judgement,
        facts=[(found.front, fact) for found in results for fact in found.content.facts],
        pictures=shown,
        tables=[(found.front, table) for found in results for table in found.content.tables],
        curves=[(model.title, curves.loss_curves(model.history)[:_MOST_CURVES]) for model in inputs.models],
        plot=(curves.WIDTH, curves.HEIGHT),
        models=(models := interactive(inputs, room)),
        data=json.dumps(models, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
        scripts=scripts,
        checksums=[base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts],
        settings=_settings(inputs),
    )


class _Shown:
    """A picture as the page holds it: smaller than in `grids/`, and once.

    Attributes:
        front: what the page writes before its title.
        picture: what is shown.
        still: its data URI.
        moving: that of an animation; "" for other pictures.
    """

    def __init__(self, front: str, picture: Picture) -> None:
        self.front, self.picture = front, picture
        self.still, self.moving = data_uri(webp(picture.image, _QUALITY)), ""
        if isinstance(picture, Animation):
            self.moving = data_uri(picture.files[".webp"])


def _settings(inputs: Inputs) -> list[tuple[list[str], list[list[str]]]]:
    """What was run: tables, each its headings and rows."""
    dataset = inputs.dataset
    splits = ", ".join(f"{name} {split.examples:,}" for name, split in dataset.splits.items())
    about = {
        "made from": dataset.source,
        "image shape": list(dataset.image_shape),
        "examples": splits,
        "refused inputs": f"{dataset.rejected:,}",
        "attributes": len(dataset.attribute_names),
    }
    refused = _refused(inputs.dataset_uri)
    some = f", the first {len(refused)} of {dataset.rejected:,}" if dataset.rejected > len(refused) else ""
    models = inputs.models
    keys = list(dict.fromkeys(key for model in models for key in model.settings if key != "model"))
    options = dataclasses.asdict(inputs.options)
    return [
        (["data set", ""], [[key, _setting(value)] for key, value in about.items()]),
        ([f"refused{some}", "why"], refused),
        (
            ["setting", *(model.title for model in models)],
            [
                [_setting(key).replace("_", " "), *(_setting(each.settings.get(key)) for each in models)]
                for key in keys[:_MOST_LINES]
            ],
        ),
        (["evaluation", ""], [[key.replace("_", " "), _setting(value)] for key, value in options.items()]),
    ]


def _refused(dataset: str) -> list[list[str]]:
    """The first lines of a data set's `rejected.jsonl`, source and reason; none of a file of another kind."""
    try:
        text = storage.read(storage.resolve(dataset) / "rejected.jsonl", 0, 1 << 18)
        lines = text.decode(errors="replace").splitlines()[:REFUSED]
        found = [json.loads(line) for line in lines]
        return [[printable(each[key])[:_LONGEST] for key in ("source", "reason")] for each in found]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return []


def _setting(value: Any) -> str:
    """A setting as the page shows it; one of a model folder may be anything, and of any length."""
    text = " × ".join(map(str, value)) if isinstance(value, list) else str(value)
    return "–" if value is None or value == "" else text[:_LONGEST]
