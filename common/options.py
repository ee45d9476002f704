"""Options: fields of frozen dataclasses, with default, bounds and help text in one place.

The command line and the Kubeflow components take their parameters from these fields, so that every option
exists in both and each default stands once.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_type_hints

from latentfaces.common.errors import UserError

MOST = 2**31 - 1  # of a whole number, where nothing else is said


@dataclass(frozen=True)
class Option:
    """What is said of an option beside its name, type and default.

    Attributes:
        help: one line, for the command line and the component's documentation.
        minimum: the least number that it takes.
        maximum: the largest.
        choices: all values that it takes; empty where they are not counted.
        shared: whether models that are trained together all have the same value.
    """

    help: str
    minimum: float = -math.inf
    maximum: float = MOST
    choices: tuple[object, ...] = ()
    shared: bool = False

    def check(self, flag: str, value: Any) -> None:
        """Checks one value.

        Raises:
            UserError: if it is out of bounds; the message begins with the flag.
        """
        if self.choices and value not in self.choices:
            raise UserError(f"{flag} {value} is unknown: choose one of {', '.join(map(str, self.choices))}")
        if isinstance(value, int | float) and not self.minimum <= value <= self.maximum:
            bounds = f"at least {self.minimum:g}"
            if self.maximum not in (MOST, math.inf):
                bounds = f"between {self.minimum:g} and {self.maximum:g}"
            raise UserError(f"{flag} {value} is out of bounds: it has to be {bounds}")


def option(default: Any = dataclasses.MISSING, **said: Any) -> Any:
    """Declares a field of a dataclass as an option; `said` are the attributes of `Option`."""
    metadata = {"option": Option(**said)}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def options_of(options: type) -> dict[str, Option]:
    """Returns the options among a dataclass's fields, by name, in their order."""
    fields = dataclasses.fields(options)
    return {field.name: field.metadata["option"] for field in fields if "option" in field.metadata}


def check(options: Any) -> None:
    """Checks all options of a dataclass's instance.

    Raises:
        UserError: if one is out of bounds.
    """
    for name, said in options_of(type(options)).items():
        said.check(f"--{name.replace('_', '-')}", getattr(options, name))


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
