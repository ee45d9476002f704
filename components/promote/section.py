"""What the evaluation's report tells of the promotion: a section between two marks of the page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latentfaces.common.errors import RunError
from latentfaces.common.models import find_model
from latentfaces.common.promoted import Decision
from latentfaces.components.evaluate.page import template

_PLACE = re.compile(rb"(<!-- promotion -->).*(<!-- /promotion -->)", re.DOTALL)


def render(decisions: Sequence[Decision], basis: Mapping[str, Any]) -> str:
    """Renders the section, every text escaped.

    Args:
        decisions: about the models of one run.
        basis: `Judge.basis`.
    """
    section = template(
        Path(__file__).with_name("promotion.html.jinja"),
        title=lambda model: find_model(model).title,
        shown=lambda number: "–" if number is None else f"{number:.4g}",
    )
    return section.render(decisions=decisions, basis=basis)


def put(page: bytes, section: str) -> bytes:
    """Returns a report with a section of promotion, in the place of what was there.

    Raises:
        RunError: if it is not a report of the evaluation.
    """
    if not _PLACE.search(page):
        raise RunError("the report has no place for the promotion: evaluate again with this version")
    return _PLACE.sub(lambda found: found[1] + section.encode() + found[2], page, count=1)
