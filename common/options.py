"""Options: fields of frozen dataclasses, with default, bounds and help text in one place.

The command line and the Kubeflow components take their parameters from these fields, so that every option
exists in both and each default stands once.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from latentfaces.common.errors import UserError

MOST = 2**31 - 1  # of a whole number, where nothing else is said
LARGEST = sys.float_info.max


@dataclass(frozen=True)
class Option:
    """What is said of an option beside its name, type and default.

    Attributes:
        help: one line, for the command line and the component's documentation.
        minimum: the least number that it takes.
        maximum: the largest.
        choices: all values that it takes; empty where they are not counted.
        shared: whether models that are trained together all have the same value.
        rest: of a list, whether it is what comes after `--` on the command line, and not a repeated flag.
    """

    help: str
    minimum: float = -math.inf
    maximum: float = MOST
    choices: tuple[object, ...] = ()
    shared: bool = False
    rest: bool = False

    def check(self, flag: str, value: Any) -> None:
        """Checks one value, of the right type.

        Raises:
            UserError: if it is out of bounds; the message begins with the flag.
        """
        if self.choices and value not in self.choices:
            choices = ", ".join(str(each) for each in self.choices if each)
            raise UserError(f"{flag} {value} is unknown: choose one of {choices}")
        if isinstance(value, int | float) and not self.minimum <= value <= self.maximum:
            bounds = [f"at least {self.minimum:,}"] if self.minimum > -math.inf else []
            bounds += [f"at most {self.maximum:,}"] if self.maximum < math.inf else []
            raise UserError(f"{flag} {value} is out of bounds: it has to be {' and '.join(bounds)}")


def option(default: Any = dataclasses.MISSING, **said: Any) -> Any:
    """Declares a field of a dataclass as an option; `said` are the attributes of `Option`."""
    metadata = {"option": Option(**said)}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def flag(name: str) -> str:
    """Returns an option's flag on the command line."""
    return f"--{name.replace('_', '-')}"


def options_of(options: type) -> dict[str, Option]:
    """Returns the options among a dataclass's fields, by name, in their order."""
    fields = dataclasses.fields(options)
    return {field.name: field.metadata["option"] for field in fields if "option" in field.metadata}


def check(options: Any) -> None:
    """Checks the fields of a dataclass's instance: their types, and the options' bounds.

    Raises:
        UserError: if one is of another type or out of bounds.
    """
    said, hints = options_of(type(options)), get_type_hints(type(options))
    for name, kind in hints.items():
        value = getattr(options, name)
        if not _is_a(kind, value):
            raise UserError(
                f"{flag(name)} {str(value)[:80]!r} has the wrong type: give {_KINDS.get(kind, kind)}"
            )
        if name in said:
            said[name].check(flag(name), value)


_KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    list[str]: "a list of texts",
}


def _is_a(kind: Any, value: object) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST
    if get_origin(kind) is list:
        return isinstance(value, list | tuple) and all(_is_a(get_args(kind)[0], each) for each in value)
    if kinds := get_args(kind):
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_is_a, kinds, value))
    return type(value) is kind


def parse(kind: Any, text: str) -> Any:
    """Reads an option's value from a text; what a list holds is separated by blanks.

    Raises:
        ValueError: if the text is no value of that type.
    """
    if kind is bool:
        if text not in ("true", "false"):
            raise ValueError
        return text == "true"
    return text.split() if kind is list or get_origin(kind) is list else kind(text)


def parameters(options: type) -> list[inspect.Parameter]:
    """Returns the options of a dataclass as keyword-only parameters, annotated with type and `Option`."""
    hints, fields = get_type_hints(options), {field.name: field for field in dataclasses.fields(options)}
    result = []
    for name, said in options_of(options).items():
        default = fields[name].default
        factory = fields[name].default_factory
        if callable(factory):
            default = factory()
        result.append(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if default is dataclasses.MISSING else default,
                annotation=Annotated[hints[name], said],
            )
        )
    return result


def type_and_option(parameter: inspect.Parameter) -> tuple[Any, Option]:
    """Takes the annotation of one of `parameters` apart."""
    kind, said = get_args(parameter.annotation)
    return kind, said


def pick(options: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of the values, by name, that are options of a dataclass."""
    return {name: values[name] for name in options_of(options) if name in values}


def taking(function: Callable[..., Any], extra: Iterable[inspect.Parameter]) -> inspect.Signature:
    """Returns the signature of a function that ends in `**options`, with what they are in their place."""
    own = inspect.signature(function, eval_str=True)
    named = [each for each in own.parameters.values() if each.kind is not each.VAR_KEYWORD]
    return own.replace(parameters=[each.replace(kind=each.KEYWORD_ONLY) for each in (*named, *extra)])
