"""The command line. Its options are those of the configuration objects: `latentfaces.common.options`."""

from __future__ import annotations

import inspect
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from latentfaces.common import storage
from latentfaces.common.config import RunOptions
from latentfaces.common.errors import UserError
from latentfaces.common.models import MODELS, all_parameters, find_model, joint_parameters
from latentfaces.common.options import Option, parameters, taking, type_and_option
from latentfaces.common.program import reporting
from latentfaces.components.evaluate.options import EvaluateOptions
from latentfaces.preprocessing.options import PreprocessConfig

app = typer.Typer(
    help="Faces in, a trained VAE and DCGAN out, and the pictures that show what they learned.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Source = Annotated[
    str, typer.Option(help="CelebA as distributed, a folder of images, or a zip of either; local or gs://.")
]
DatasetFolder = Annotated[str, typer.Option(help="Data set folder, made by `preprocess`; local or gs://.")]


def _local(text: str) -> Path:
    """Parses a path on this machine."""
    if "://" in text:
        raise typer.BadParameter(f"{text} is not on this machine: give a local path")
    return Path(text).expanduser()


LocalPath = Annotated[Path, typer.Option(help="A local folder.", parser=_local)]

EXACT = 2**53  # up to which Kubeflow's numbers, which are doubles, hold every whole one
DEMO_FACES = 3000
DEMO_PARAMETERS = {"image_size": 32, "vae_preset": "small", "gan_preset": "small", "workers": 2}


def takes(options: Iterable[inspect.Parameter]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command that ends in `**options` those options; a list is what comes after `--`."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        extra = []
        for each in options:
            kind, said = type_and_option(each)
            flag = f"--{each.name.replace('_', '-')}"
            shown = each.default not in ("", [])
            told = typer.Option(flag, help=said.help, show_default=shown)
            if getattr(kind, "__origin__", None) is list:
                told = typer.Argument(help=said.help, show_default=shown)
            extra.append(each.replace(annotation=Annotated[kind, told]))
        command.__signature__ = taking(command, extra)  # type: ignore[attr-defined]
        return command

    return decorate


@app.command()
def demo(output: LocalPath = Path("runs/demo")) -> None:
    """Run the whole pipeline on drawn faces, with two workers: about five minutes on two cores."""
    from latentfaces.preprocessing.drawn_faces import synthesize

    with reporting():
        source = output / "source"
        synthesize(source, DEMO_FACES, seed=0)
        _run_pipeline(str(source), output, str(output / "evaluation"), DEMO_PARAMETERS)


@app.command("synthesize")
def synthesize_command(
    output: Annotated[Path, typer.Option(help="A local folder, new or empty.", parser=_local)],
    count: Annotated[int, typer.Option(help="How many faces.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same faces.")] = 0,
) -> None:
    """Draw a data set of faces in CelebA's official layout."""
    from latentfaces.preprocessing.drawn_faces import synthesize

    with reporting():
        synthesize(output, count, seed)
        typer.echo(f"{count} faces are in {output}")


@app.command()
@takes(parameters(PreprocessConfig))
def preprocess(
    source: Source,
    output: Annotated[
        str, typer.Option(help="Data set folder, local or gs://; one that is there is replaced.")
    ],
    **options: Any,
) -> None:
    """Resize images as Keras' smart_resize does, into TFRecord shards, with Beam."""
    from latentfaces.preprocessing.job import run

    with reporting():
        run(source, output, **options)
        typer.echo(f"The data set is in {output}")


@app.command()
@takes([*all_parameters(), *parameters(RunOptions)])
def train(
    model: Annotated[str, typer.Argument(help=f"What to train: {' or '.join(MODELS)}.")],
    dataset: DatasetFolder,
    output: Annotated[str, typer.Option(help="Model folder, local or gs://; a run in it goes on.")],
    **options: Any,
) -> None:
    """Train a model with MultiWorkerMirroredStrategy."""
    from latentfaces.components.train.run import train

    with reporting():
        train(model, dataset, output, **options)


_MODEL_FOLDERS = [
    inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default="",
        annotation=Annotated[str, Option(help=f"A {find_model(name).title}'s model folder.")],
    )
    for name in MODELS
]


@app.command()
@takes([*_MODEL_FOLDERS, *parameters(EvaluateOptions)])
def evaluate(
    dataset: DatasetFolder,
    output: Annotated[
        str, typer.Option(help="Folder for grids, report.html and metrics.json; local or gs://.")
    ],
    **options: Any,
) -> None:
    """Render what the models learned, and measure it."""
    with reporting():
        from latentfaces.components.evaluate.evaluate import evaluate

        folders = {name: options.pop(name) for name in MODELS}
        evaluate(dataset, output, {name: folder for name, folder in folders.items() if folder}, **options)
        typer.echo(f"The report is {output.rstrip('/')}/report.html")


@app.command()
def run(
    source: Source,
    root: Annotated[
        Path, typer.Option(help="Local folder for the data set, the models and the logs.", parser=_local)
    ],
    destination: Annotated[
        str | None, typer.Option(help="Folder for the evaluation, local or gs://; by default in the root.")
    ] = None,
    param: Annotated[
        list[str] | None, typer.Option(help="A parameter of the pipeline, name=value; may be repeated.")
    ] = None,
) -> None:
    """Run the pipeline on this machine, on your own images."""
    with reporting():
        _run_pipeline(source, root, destination or str(root / "evaluation"), _parse_parameters(param or []))


@app.command("compile")
def compile_command(
    output: Annotated[Path, typer.Option(help="A local .yaml file.", parser=_local)],
    image: Annotated[str | None, typer.Option(help="Container image of every component.")] = None,
) -> None:
    """Write the pipeline's IR, ready for a Kubeflow cluster."""
    from kfp import compiler

    from latentfaces.components.component import IMAGE
    from latentfaces.pipelines.faces import faces_pipeline

    with reporting():
        storage.check_writable(str(output.parent))
        if output.suffix not in (".yaml", ".yml", ".json"):
            raise UserError(f"--output {output} has to end in .yaml or .json")
        output.parent.mkdir(parents=True, exist_ok=True)
        compiler.Compiler().compile(faces_pipeline(image or IMAGE), str(output))
        typer.echo(f"The pipeline is in {output}")


def _run_pipeline(source: str, root: Path, destination: str, values: dict[str, Any]) -> None:
    from latentfaces.components.check.check import check_options
    from latentfaces.pipelines.local import run_locally

    defaults = [*parameters(PreprocessConfig), *joint_parameters(), *parameters(RunOptions)]
    check_options({each.name: each.default for each in defaults} | values)  # before kfp may stumble over it
    arguments = {"source": source, "root": str(root.absolute()), "destination": destination, **values}
    report = run_locally(arguments, root / "log.txt")
    typer.echo(f"Pictures: {destination.rstrip('/')}/grids\nReport:   {report}")


def _parse_parameters(texts: list[str]) -> dict[str, Any]:
    """Parses `name=value` by the types of the pipeline's parameters.

    Raises:
        UserError: if there is no such parameter or the value has another type.
    """
    from latentfaces.pipelines.faces import faces_pipeline

    known = faces_pipeline().component_spec.inputs
    kinds: dict[str, Callable[[str], Any]] = {
        "Integer": int,
        "Float": float,
        "String": str,
        "List": str.split,
        "Boolean": {"true": True, "false": False}.__getitem__,
    }
    parsed: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in known:
            raise UserError(f"--param {text} is not name=value with a name among {', '.join(known)}")
        kind = known[name].type
        try:
            parsed[name] = kinds[kind](value)
            if kind == "Integer" and abs(parsed[name]) > EXACT:
                raise UserError(f"--param {text} is beyond 2**53: Kubeflow keeps no whole number beyond it")
        except (ValueError, KeyError):
            what = "true or false" if kind == "Boolean" else "a number"
            raise UserError(f"--param {text} has the wrong type: {name} is {what}") from None
    return parsed


def main() -> None:
    """Runs the command line; Ctrl-C ends it with status 130 as soon as half-written files are removed."""
    signal.signal(signal.SIGINT, _interrupt)
    try:
        app()
    except SystemExit as ending:
        if ending.code != _INTERRUPTED:
            raise
        print("Aborted.", file=sys.__stderr__, flush=True)
        os._exit(_INTERRUPTED)  # an interpreter that shuts down around Beam's threads may crash


_INTERRUPTED = 128 + signal.SIGINT  # as a shell says it, and typer


def _interrupt(*_: object) -> None:
    logging.disable()
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - Beam's threads print tracebacks until the very end
    raise KeyboardInterrupt
