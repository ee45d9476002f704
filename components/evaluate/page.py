"""Jinja's templates of the report and of what is put into it: every text in them is escaped."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2


def template(file: Path, **filters: Callable[[Any], str]) -> jinja2.Template:
    """Returns a template.

    Args:
        file: HTML; a name that it uses and is not given is an error.
        filters: of the template, by name.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(file.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    return environment.get_template(file.name)
