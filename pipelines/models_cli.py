"""The commands for promoted models: show them, go back, use them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

import typer

from latentfaces.common.errors import UserError
from latentfaces.common.models import MODELS, find_model
from latentfaces.common.program import reporting

commands = typer.Typer()

_SHOWN = 20  # decisions
_NO_FOLDS = 10_000  # columns, where what is shown is read by a program

Root = Annotated[str, typer.Option(help="The pipeline's folder, local or gs://.")]


@commands.command()
def promoted(root: Root) -> None:
    """Show which models are promoted, and the newest decisions."""
    from latentfaces.common.promoted import REJECTED, model_folder, read
    from latentfaces.common.root import check_root

    with reporting():
        check_root(root)
        present = read(root)
        if not present.models:
            typer.echo(f"No model is promoted in {root}")
        since = {each.model: each.time for each in present.history if each.decision != REJECTED}
        rows = [
            (name, run, since.get(name, "–"), model_folder(root, run, name))
            for name, run in present.models.items()
        ]
        _show(("model", "run", "since (UTC)", "folder"), rows)
        _show(
            ("decided (UTC)", "model", "run", "decision", "why"),
            [
                (each.time, each.model, each.run, each.decision, each.why)
                for each in reversed(present.history[-_SHOWN:])
            ],
        )


def _show(heads: Iterable[str], rows: Sequence[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*heads, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(Text(cell, overflow="fold") for cell in row))
    if rows:
        console = Console(highlight=False)
        console.width = console.width if console.is_terminal else _NO_FOLDS
        console.print(table, "")


@commands.command()
def rollback(
    root: Root,
    to: Annotated[str, typer.Option(help="Run; by default each model's that was promoted before.")] = "",
    model: Annotated[
        str, typer.Option(help=f"One of {', '.join(MODELS)}; by default all that were promoted.")
    ] = "",
) -> None:
    """Make models of an earlier run the promoted ones."""
    from latentfaces.components.promote.rollback import rollback

    with reporting():
        for each in rollback(root, to, model):
            typer.echo(f"The promoted {find_model(each.model).title} is now that of run {each.run}")


Model = Annotated[
    str,
    typer.Option(help=f"A model's folder, local or gs://; with --root, one of {', '.join(MODELS)}."),
]
PromotedIn = Annotated[str, typer.Option("--root", help="A pipeline's folder, whose promoted model is used.")]


def _model_folder(model: str, root: str) -> str:
    """Returns where a model is: what is named itself, or of a root's promoted models that of the family."""
    from latentfaces.common.promoted import model_folder, read

    if not root:
        return model
    find_model(model)
    run = read(root).models.get(model)
    if run is None:
        raise UserError(f"no {model} is promoted in {root}: give a model's folder, without --root")
    return model_folder(root, run, model)


@commands.command()
def generate(
    model: Model,
    output: Annotated[
        str, typer.Option(help="Folder for PNG files, or a .zip of them, or NumPy's .npz; local or gs://.")
    ],
    root: PromotedIn = "",
    count: Annotated[int, typer.Option(min=1, max=1_000_000_000, help="How many images.")] = 16,
    seed: Annotated[
        int,
        typer.Option(min=0, max=1 << 53, help="Of the first image; each has its own, the next number."),
    ] = 0,
    truncation: Annotated[
        float | None,
        typer.Option(
            help="Largest absolute value of the noise that an image is made of: less variety, more usual "
            "faces; 1 is moderate.",
            show_default="the whole distribution",
        ),
    ] = None,
) -> None:
    """Make images with a trained model."""
    from latentfaces.components.generate.generate import generate

    with reporting():
        folder = _model_folder(model, root)
        generate(folder, count, seed, truncation, output)
        typer.echo(f"{count} images by {folder} are in {output}")


@commands.command()
def edit(
    photographs: Annotated[
        list[str], typer.Argument(help="Image files, local or gs://.", metavar="PHOTO...")
    ],
    vae: Annotated[str, typer.Option(help="A VAE's model folder, local or gs://.")],
    concept: Annotated[
        list[str],
        typer.Option(help="What is changed, and how many times its vector: Smiling=+2; may be repeated."),
    ],
    output: Annotated[
        str,
        typer.Option(help="A .png that shows before and after, or a folder for the images; local or gs://."),
    ],
    concepts: Annotated[
        str,
        typer.Option(
            help="File of the concept vectors.",
            show_default="the evaluation's, VAE/../evaluation/concepts.npz",
        ),
    ] = "",
) -> None:
    """Change photographs along concept vectors: a smile, no glasses."""
    from latentfaces.components.generate.edit import edit

    with reporting():
        edit(photographs, vae, _strengths(concept), output, concepts)
        typer.echo(f"The changed photographs are in {output}")


def _strengths(texts: Iterable[str]) -> dict[str, float]:
    """Parses `name=number`; a name may hold = itself."""
    found: dict[str, float] = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        if name in found:
            raise UserError(f"--concept {name} is given twice: leave one out")
        try:
            found[name] = float(number)
        except ValueError:
            raise UserError(f"--concept {text[:80]} can't be read: write it as Smiling=+2") from None
    return found


@commands.command()
def animate(
    model: Model,
    output: Annotated[str, typer.Option(help="A .webp or .gif, local or gs://.")],
    root: PromotedIn = "",
    start: Annotated[str, typer.Option("--from", help="A photograph to begin at, of a VAE's walk.")] = "",
    end: Annotated[str, typer.Option("--to", help="The photograph to go to, and back from.")] = "",
    frames: Annotated[int, typer.Option(min=2, max=1000, help="How many; 20 a second are shown.")] = 120,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the first random image; the walk goes by the next five, too.")
    ] = 0,
) -> None:
    """Make a walk through a model's images that closes on itself."""
    from latentfaces.components.generate.animate import animate

    with reporting():
        animate(_model_folder(model, root), output, frames, seed, start, end)
        typer.echo(f"The walk is {output}")
