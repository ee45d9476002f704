"""What a metric and a figure are, the registry of those there are, and the loop that computes them.

One is a function of what it is about: the `RealImages`, a `TrainedModel`, an `Autoencoder`, or, to compare
them all, the `Inputs`. It gives a `Result` or a `Picture`, or None where there is nothing to measure it by.
"""

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from PIL import Image

from latentfaces.common import pictures
from latentfaces.components.evaluate.inputs import Autoencoder, Inputs, RealImages, TrainedModel


@dataclass(frozen=True)
class Fact:
    """A number for the top of the page.

    Attributes:
        label: what it is.
        value: the number, as it is written.
        beside: what it is to be compared with, such as "other real images: 0.62"; "" for nothing.
    """

    label: str
    value: str
    beside: str = ""


@dataclass(frozen=True)
class Table:
    """A table of the page.

    Attributes:
        title: heading; tables of one title that follow one another share it.
        caption: what the numbers are, and how they were found.
        columns: headings, that of the rows' names first; they may have several lines.
        rows: as many cells as columns, as they are written.
    """

    title: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Result:
    """What a metric found.

    Attributes:
        numbers: for `metrics.json`.
        facts: for the top of the page.
        tables: for the page.
        files: further files of the evaluation's folder, by name.
    """

    numbers: Mapping[str, Any]
    facts: Sequence[Fact] = ()
    tables: Sequence[Table] = ()
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Picture:
    """What a figure shows.

    Attributes:
        title: heading.
        caption: what one sees, and how it was made.
        alt: for those who don't see it: what there is to be seen.
        image: the picture.
    """

    title: str
    caption: str
    alt: str
    image: Image.Image

    @functools.cached_property
    def files(self) -> Mapping[str, bytes]:
        """The files in `grids/`, by the ending of their names; the page shows the first."""
        return {".png": pictures.png(self.image)}


@dataclass(frozen=True)
class Animation(Picture):
    """A picture that moves; `image` is what stands for it where nothing may move.

    Attributes:
        frames: all of one size.
        milliseconds: for which a frame is shown.
    """

    frames: Sequence[Image.Image]
    milliseconds: int

    @functools.cached_property
    def files(self) -> Mapping[str, bytes]:
        """The files in `grids/`: animated WebP and GIF, which repeat without end."""
        return {
            f".{kind}": pictures.animated(self.frames, kind, self.milliseconds) for kind in ("webp", "gif")
        }


# Of what is found: about images, about models that only generate, about others, and about all of them.
ORDER = (RealImages, TrainedModel, Autoencoder, Inputs)

Subject = TypeVar("Subject")
Content = TypeVar("Content", Result, Picture)


@dataclass(frozen=True)
class Finding(Generic[Content]):
    """What a registered function gave for one subject.

    Attributes:
        rank: of what it is about, among pictures and in `metrics.json`: an index in `ORDER`.
        name: key in `metrics.json`, or file name in `grids/` without suffix.
        front: what the page writes before its headings: the title of a second autoencoder.
        content: what it gave.
    """

    rank: int
    name: str
    front: str
    content: Content


class Registry(Generic[Content]):
    """Functions in the order in which the page shows what they find.

    Attributes:
        entries: name, class of the subjects, and the function, as they were registered.
    """

    def __init__(self) -> None:
        self.entries: list[tuple[str, type, Callable[[Any], Content | None]]] = []

    def register(
        self, name: str, *, about: type[Subject]
    ) -> Callable[[Callable[[Subject], Content | None]], Callable[[Subject], Content | None]]:
        """Decorates a function that finds something.

        Args:
            name: where that goes: the key in `metrics.json` under which a metric's numbers are, which metrics
                may share, or a figure's file name. "{model}" in it stands for the model's name; without that,
                what a second model gives is called "<model>_<name>".
            about: the class of what the function is called with. Headings of what is about a `TrainedModel`
                name it; those about an `Autoencoder` need not: a second one's title is put in front.
        """

        def decorate(function: Callable[[Subject], Content | None]) -> Callable[[Subject], Content | None]:
            self.entries.append((name, about, function))
            return function

        return decorate

    def run(self, inputs: Inputs) -> Iterator[Finding[Content]]:
        """Calls one function after the other with all that it is about, models in the order given."""
        for name, about, function in self.entries:
            is_further = False
            for subject in (inputs.real, *inputs.models, inputs):
                if not isinstance(subject, about) or (content := function(subject)) is None:
                    continue
                full_name, front = name, ""
                if isinstance(subject, TrainedModel):
                    full_name = name.format(model=subject.name)
                    if is_further and full_name == name:
                        full_name = f"{subject.name}_{name}"
                    if is_further and about is Autoencoder:
                        front = f"{subject.title}: "
                is_further = True
                rank = max(rank for rank, kind in enumerate(ORDER) if isinstance(subject, kind))
                yield Finding(rank, full_name, front, content)


METRICS: Registry[Result] = Registry()
FIGURES: Registry[Picture] = Registry()
register_metric = METRICS.register
register_figure = FIGURES.register


def import_modules(package: str, first: Sequence[str]) -> None:
    """Imports all modules of a package, so that they register what they have: `first`, then the others."""
    found = [module.name for module in pkgutil.iter_modules(importlib.import_module(package).__path__)]
    for name in dict.fromkeys((*first, *found)):
        importlib.import_module(f"{package}.{name}")


def percent(share: float | None) -> str:
    """Returns a share in [0, 1] as per cent, or a dash where there is none."""
    return "–" if share is None else f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def number(value: float) -> str:
    """Returns a number with four significant digits."""
    return f"{value:.4g}"
