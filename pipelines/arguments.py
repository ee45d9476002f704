"""How commands take the options of the configuration objects: as flags, and as `--param name=value`."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from latentfaces.common.errors import UserError
from latentfaces.common.options import flag, parse, taking, type_and_option

_PLACES = ("source", "root", "destination")
_PLACE = re.compile(r"gs://[^/].*|file://.*|((?!://).)*", re.DOTALL)  # what `storage.resolve` takes
_EXACT = 2**53  # up to which Kubeflow's numbers, which are doubles, hold every whole one

Params = Annotated[
    list[str] | None,
    typer.Option("--param", help="A parameter of the pipeline, name=value; may be repeated."),
]


def local_path(text: str) -> Path:
    """Parses a path on this machine."""
    if "://" in text:
        raise typer.BadParameter(f"{text} is not on this machine: give a local path")
    return Path(text).expanduser()


def takes(options: Iterable[inspect.Parameter]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command that ends in `**options` those options; a list is a flag that may be repeated."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        extra = []
        for each in options:
            kind, said = type_and_option(each)
            shown = each.default not in ("", [])
            if said.rest:
                told = typer.Argument(help=said.help, show_default=shown)
            else:
                told = typer.Option(flag(each.name), help=said.help, show_default=shown)
            extra.append(each.replace(annotation=Annotated[kind, told]))
        command.__signature__ = taking(command, extra)  # type: ignore[attr-defined]
        return command

    return decorate


def parse_parameters(texts: Iterable[str]) -> dict[str, Any]:
    """Parses `name=value` by the types of the pipeline's parameters.

    Raises:
        UserError: if there is no such parameter, it is given twice or the value has another type.
    """
    from latentfaces.components.check.check import pipeline_options

    kinds = dict.fromkeys(_PLACES, str) | {each.name: type_and_option(each)[0] for each in pipeline_options()}
    parsed: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        text = text[:80]
        if name not in kinds:
            alike = difflib.get_close_matches(name, kinds, 1)
            which = f"did you mean {alike[0]}" if alike else f"there are {', '.join(kinds)}"
            raise UserError(f"--param {text} is of no parameter: {which}")
        if not equals:
            raise UserError(f"--param {text} is not name=value: give {name} a value")
        if name in parsed:
            raise UserError(f"--param {name} is given twice: leave one out")
        try:
            parsed[name] = parse(kinds[name], value)
        except ValueError:
            what = "true or false" if kinds[name] is bool else "a number"
            raise UserError(f"--param {text} has the wrong type: {name} is {what}") from None
        if kinds[name] is int and abs(parsed[name]) > _EXACT:
            raise UserError(f"--param {text} is beyond 2**53: Kubeflow keeps no whole number beyond it")
    return parsed


def check_parameters(values: Mapping[str, Any]) -> None:
    """Checks the pipeline's parameters as its first component does, but for what only the cluster sees.

    Args:
        values: those that are given, by name; the other options have their defaults.

    Raises:
        UserError: if one is missing or wrong, or they don't go together.
    """
    from latentfaces.components.check.check import check_options, pipeline_options

    for name in ("source", "root"):
        if not values.get(name):
            raise UserError(f"the parameter {name} is missing: give --param {name}=…")
    for name in _PLACES:
        if not _PLACE.fullmatch(place := values.get(name, "")):
            raise UserError(f"the {name} {place[:80]} can't be read: write gs://BUCKET/PATH or a local path")
    check_options({each.name: each.default for each in pipeline_options()} | dict(values))
