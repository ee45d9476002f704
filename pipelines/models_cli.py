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
        Console(highlight=False).print(table, "")


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


@commands.command()
def generate(
    output: Annotated[str, typer.Option(help="Folder for the images, local or gs://.")],
    root: Annotated[str, typer.Option(help="A pipeline's folder, whose promoted model is used.")] = "",
    model_folder: Annotated[str, typer.Option(help="A model's folder, instead of a root.")] = "",
    model: Annotated[str, typer.Option(help=f"One of {', '.join(MODELS)}.")] = "gan",
    count: Annotated[int, typer.Option(min=1, help="How many images.")] = 16,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the first image; each has its own, the next number.")
    ] = 0,
) -> None:
    """Make images with a trained model, as PNG files."""
    from latentfaces.common.promoted import model_folder as folder_of
    from latentfaces.common.promoted import read
    from latentfaces.components.evaluate.generate import generate

    with reporting():
        find_model(model)
        if not root and not model_folder:
            raise UserError("no model is named: give --root or --model-folder")
        if root and model_folder:
            raise UserError("--root and --model-folder are two ways to name a model: give one of them")
        if root:
            run = read(root).models.get(model)
            if run is None:
                raise UserError(f"no {model} is promoted in {root}: name a --model-folder")
            model_folder = folder_of(root, run, model)
        generate(model, model_folder, count, seed, output)
        typer.echo(f"{count} images by {model_folder} are in {output}")
