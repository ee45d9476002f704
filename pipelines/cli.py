"""The command line. Its options are those of the configuration objects: `latentfaces.common.options`."""

from __future__ import annotations

import contextlib
import inspect
import json
import logging
import os
import signal
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from latentfaces.common import storage
from latentfaces.common.config import EvaluateOptions, RunOptions
from latentfaces.common.models import MODELS, all_parameters, find_model
from latentfaces.common.options import Option, parameters
from latentfaces.common.pods import PodOptions
from latentfaces.common.program import reporting
from latentfaces.pipelines import cluster_cli, models_cli
from latentfaces.pipelines.arguments import Params, check_parameters, local_path, parse_parameters, takes
from latentfaces.preprocessing.options import SOURCES, PreprocessConfig

app = typer.Typer(
    help="Faces in, a trained VAE and DCGAN out, and the pictures that show what they learned.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(cluster_cli.commands)
app.add_typer(models_cli.commands)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"latentfaces {version('latentfaces')}")
        raise typer.Exit


@app.callback()
def _of_all_commands(
    version: Annotated[  # noqa: ARG001 - acted on when it is read
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


Source = Annotated[
    str,
    typer.Option(help=f"{SOURCES}; local or gs://."),
]
DatasetFolder = Annotated[str, typer.Option(help="Data set folder, made by `preprocess`; local or gs://.")]


LocalPath = Annotated[Path, typer.Option(help="A local folder.", parser=local_path)]

DEMO_FACES = 6000
DEMO_PARAMETERS = {
    "image_size": 32,
    "vae_preset": "small",
    "vae_epochs": 6,
    "gan_preset": "modern",
    "gan_epochs": 8,
    "workers": 2,
}


@app.command()
def demo(output: LocalPath = Path("runs/demo")) -> None:
    """Run the whole pipeline on drawn faces, with two workers: three to five minutes on two cores."""
    from latentfaces.preprocessing.drawn_faces import synthesize
    from latentfaces.preprocessing.sources.celeba import IMAGES_FOLDER

    with reporting():
        source = output / "source"
        if not (source / IMAGES_FOLDER).exists():  # made last: they are drawn already
            synthesize(source, DEMO_FACES, seed=0)
        _run_pipeline(str(source), output, "", DEMO_PARAMETERS)


@app.command("synthesize")
def synthesize_command(
    output: Annotated[Path, typer.Option(help="A local folder, new or empty.", parser=local_path)],
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
    with reporting():
        from latentfaces.preprocessing.job import run  # which imports Beam, and that logs

        run(source, output, **options)
        typer.echo(f"The data set is in {output}")


@app.command()
@takes([*all_parameters(), *parameters(RunOptions), *parameters(PodOptions)])
def train(
    model: Annotated[str, typer.Argument(help=f"What to train: {' or '.join(MODELS)}.")],
    dataset: DatasetFolder,
    output: Annotated[str, typer.Option(help="Model folder, local or gs://; a run in it goes on.")],
    init: Annotated[
        str, typer.Option(help="Model folder whose weights training begins from, local or gs://.")
    ] = "",
    **options: Any,
) -> None:
    """Train a model with MultiWorkerMirroredStrategy."""
    from latentfaces.components.train.run import train

    with reporting():
        train(model, dataset, output, init=init, **options)


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
        models = {name: folder for name, folder in folders.items() if folder}
        typer.echo(evaluate(dataset, output, models, **options)["judgement"])
        typer.echo(f"The report is {output.rstrip('/')}/report.html")


@app.command()
def run(
    source: Source,
    root: Annotated[
        Path,
        typer.Option(help="Local folder for all that is made; the same again retrains.", parser=local_path),
    ],
    destination: Annotated[
        str, typer.Option(help="Folder for the evaluation, local or gs://; by default the run's own.")
    ] = "",
    param: Params = None,
) -> None:
    """Run the pipeline on this machine, on your own images."""
    with reporting():
        _run_pipeline(source, root, destination, parse_parameters(param or []))


def _run_pipeline(source: str, root: Path, destination: str, values: dict[str, Any]) -> None:
    from latentfaces.pipelines.local import run_locally

    arguments = {"source": source, "root": str(root.absolute()), "destination": destination, **values}
    check_parameters(arguments)  # before kfp may stumble over them
    report = run_locally(arguments)
    folder = report.removesuffix("/report.html")
    judgement = json.loads(storage.read(storage.resolve(folder) / "metrics.json"))["judgement"]
    typer.echo(f"{judgement}\nPictures: {folder}/grids\nReport:   {report}")


def main() -> None:
    """Runs the command line; Ctrl-C ends it with status 130 as soon as half-written files are removed.

    What trains saves a checkpoint first; a second Ctrl-C ends that at once.
    """
    signal.signal(signal.SIGINT, _interrupt)
    try:
        app()
    except SystemExit as ending:
        if ending.code != _INTERRUPTED:
            raise
        advice = " Give the same command again to go on." if _GO_ON.intersection(sys.argv[1:2]) else ""
        with contextlib.suppress(OSError):  # in `2>&1 | cat`, what reads this got the Ctrl-C too
            print(f"Aborted.{advice}", file=sys.__stderr__, flush=True)
        os._exit(_INTERRUPTED)  # an interpreter that shuts down around Beam's threads may crash


_GO_ON = {"train", "run", "demo"}  # commands that go on where they were stopped
_INTERRUPTED = 128 + signal.SIGINT  # as a shell says it, and typer


def _interrupt(*_: object) -> None:
    logging.disable()
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - Beam's threads print tracebacks until the very end
    raise KeyboardInterrupt
