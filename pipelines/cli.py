"""The command line."""

from __future__ import annotations

import logging
import os
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from components.step import import_tensorflow, reporting
from preprocessing.errors import UserError

app = typer.Typer(
    help="Faces in, a trained VAE and DCGAN out, and the pictures that show what they learned.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Model(StrEnum):
    """What can be trained."""

    VAE = "vae"
    GAN = "gan"


Source = Annotated[
    str, typer.Option(help="CelebA as distributed, a folder of images, or a zip of either; local or gs://.")
]
DatasetFolder = Annotated[str, typer.Option(help="Data set folder, made by `preprocess`; local or gs://.")]
Seed = Annotated[int, typer.Option(min=0, help="Of all random numbers: the same seed gives the same result.")]
ImageSize = Annotated[int, typer.Option(help="Height and width of the resized images in pixels.")]
Channels = Annotated[int, typer.Option(help="1 for grey, 3 for RGB.")]


@app.command()
def demo(output: Annotated[Path, typer.Option(help="A local folder.")] = Path("runs/demo")) -> None:
    """Run the whole pipeline on drawn faces, with two workers: about eight minutes on two cores."""
    from preprocessing.drawn_faces import synthesize

    with reporting():
        source = output / "source"
        synthesize(source, DEMO_FACES, seed=0)
        _run_pipeline(str(source), output, str(output / "evaluation"), DEMO_PARAMETERS)


DEMO_FACES = 3000
DEMO_PARAMETERS = {"image_size": 32, "vae_preset": "small", "gan_preset": "small", "workers": 2}


@app.command("synthesize")
def synthesize_command(
    output: Annotated[Path, typer.Option(help="A local folder, new or empty.")],
    count: Annotated[int, typer.Option(help="How many faces.")] = 2000,
    seed: Seed = 0,
) -> None:
    """Draw a data set of faces in CelebA's official layout."""
    from preprocessing.drawn_faces import synthesize

    with reporting():
        synthesize(output, count, seed)
        typer.echo(f"{count} faces are in {output}")


@app.command()
def preprocess(
    source: Source,
    output: Annotated[
        str, typer.Option(help="Data set folder, local or gs://; one that is there is replaced.")
    ],
    image_size: ImageSize = 64,
    channels: Channels = 3,
    max_rejected: Annotated[float, typer.Option(help="Share of the inputs that may be refused.")] = 0.01,
    attributes: Annotated[
        str | None, typer.Option(help="Label file, where it does not lie beside the images.")
    ] = None,
    partition: Annotated[str | None, typer.Option(help="Partition file, likewise.")] = None,
    beam_options: Annotated[
        list[str] | None,
        typer.Argument(help="Beam's own options, after --, such as --runner=DataflowRunner."),
    ] = None,
) -> None:
    """Resize images as Keras' smart_resize does, into TFRecord shards, with Beam."""
    from preprocessing.job import run

    with reporting():
        run(
            source,
            output,
            image_size,
            channels,
            max_rejected,
            attributes,
            partition,
            beam_args=beam_options or [],
        )
        typer.echo(f"The data set is in {output}")


@app.command()
def train(
    model: Annotated[Model, typer.Argument(help="The variational autoencoder or the DCGAN.")],
    dataset: DatasetFolder,
    output: Annotated[str, typer.Option(help="Model folder, local or gs://; a run in it goes on.")],
    preset: Annotated[
        str, typer.Option(help="Networks and settings: book or small; for the VAE also faces.")
    ],
    epochs: Annotated[int, typer.Option(help="Passes over the train split; 0 for the preset's.")] = 0,
    steps: Annotated[int, typer.Option(help="Training steps, instead of epochs.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Images a step over all workers; 0 for the preset's.")] = 0,
    workers: Annotated[
        int,
        typer.Option(help="Worker processes on this machine. Where TF_CONFIG is set, this is one worker."),
    ] = 1,
    gpus_per_worker: Annotated[int, typer.Option(help="GPUs of each worker; 0 shares what is there.")] = 0,
    seed: Seed = 0,
    precision: Annotated[
        str, typer.Option(help="float32, float64, mixed_bfloat16 or mixed_float16.")
    ] = "float32",
    xla: Annotated[bool, typer.Option("--xla", help="Compile the computation of gradients.")] = False,
    rebalance: Annotated[
        bool,
        typer.Option("--rebalance", help="Weaken a discriminator that overpowers the generator."),
    ] = False,
    log_steps: Annotated[int, typer.Option(help="Steps between two rows of history.csv.")] = 50,
    checkpoint_steps: Annotated[int, typer.Option(help="Steps between two checkpoints.")] = 1000,
    checkpoint_minutes: Annotated[
        float, typer.Option(help="Minutes after which a checkpoint is written in between; 0 for never.")
    ] = 0.0,
    max_restarts: Annotated[
        int, typer.Option(help="How often to go on from the last checkpoint when a worker is lost.")
    ] = 3,
    rendezvous_seconds: Annotated[
        float, typer.Option(help="How long the workers wait for each other.")
    ] = 600.0,
    stuck_seconds: Annotated[
        float, typer.Option(help="Time without a step after which a worker counts as lost.")
    ] = 300.0,
) -> None:
    """Train a model with MultiWorkerMirroredStrategy."""
    from components.train.run import train as run_training

    with reporting():
        run_training(
            str(model),
            dataset,
            output,
            preset=preset,
            epochs=epochs,
            steps=steps,
            batch_size=batch_size,
            workers=workers,
            gpus_per_worker=gpus_per_worker,
            seed=seed,
            precision=precision,
            xla=xla,
            rebalance=rebalance,
            log_steps=log_steps,
            checkpoint_steps=checkpoint_steps,
            checkpoint_minutes=checkpoint_minutes,
            max_restarts=max_restarts,
            rendezvous_seconds=rendezvous_seconds,
            stuck_seconds=stuck_seconds,
        )


@app.command()
def evaluate(
    dataset: DatasetFolder,
    output: Annotated[
        str, typer.Option(help="Folder for grids, report.html and metrics.json; local or gs://.")
    ],
    vae: Annotated[str | None, typer.Option(help="A VAE's model folder.")] = None,
    gan: Annotated[str | None, typer.Option(help="A GAN's model folder.")] = None,
    seed: Seed = 0,
) -> None:
    """Render what the models learned, and measure it."""
    with reporting():
        import_tensorflow()
        from components.evaluate.evaluate import evaluate as run_evaluation

        run_evaluation(dataset, output, vae, gan, seed)
        typer.echo(f"The report is {output.rstrip('/')}/report.html")


@app.command()
def run(
    source: Source,
    root: Annotated[Path, typer.Option(help="Local folder for the data set, the models and the logs.")],
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
    output: Annotated[Path, typer.Option(help="A .yaml file.")],
    image: Annotated[str | None, typer.Option(help="Container image of every step.")] = None,
) -> None:
    """Write the pipeline's IR, ready for a Kubeflow cluster."""
    from kfp import compiler

    from components import IMAGE
    from components.check.check import check_output
    from pipelines.faces import faces_pipeline

    with reporting():
        check_output(str(output.parent))
        if output.suffix not in (".yaml", ".yml", ".json"):
            raise UserError(f"--output {output} has to end in .yaml or .json")
        output.parent.mkdir(parents=True, exist_ok=True)
        compiler.Compiler().compile(faces_pipeline(image or IMAGE), str(output))
        typer.echo(f"The pipeline is in {output}")


def _run_pipeline(source: str, root: Path, destination: str, parameters: dict[str, object]) -> None:
    from pipelines.local import run_locally

    arguments = {"source": source, "root": str(root.absolute()), "destination": destination, **parameters}
    report = run_locally(arguments, root / "log.txt")
    typer.echo(f"Pictures: {destination.rstrip('/')}/grids\nReport:   {report}")


def _parse_parameters(texts: list[str]) -> dict[str, object]:
    """Parses `name=value` by the types of the pipeline's parameters.

    Raises:
        UserError: if there is no such parameter or the value has another type.
    """
    from pipelines.faces import faces_pipeline

    known = faces_pipeline().component_spec.inputs
    parsed: dict[str, object] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in known:
            raise UserError(f"--param {text} is not name=value with a name among {', '.join(known)}")
        kind = {"Integer": int, "Float": float, "String": str, "List": str.split}[known[name].type]
        try:
            parsed[name] = kind(value)
        except ValueError:
            raise UserError(f"--param {text}: {name} is a number") from None
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
