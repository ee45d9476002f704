"""The commands for a cluster: compile the pipeline, submit it, schedule it."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sys
from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from latentfaces.common.errors import UserError, printable
from latentfaces.common.options import flag, parameters
from latentfaces.common.pods import IMAGE as IMAGE_FORM
from latentfaces.common.pods import PodOptions
from latentfaces.common.program import reporting
from latentfaces.pipelines.arguments import Params, check_parameters, local_path, parse_parameters, takes

commands = typer.Typer()

EXPERIMENT = "latentfaces"  # where none is named


class Target(StrEnum):
    """Who runs the compiled pipeline."""

    KUBEFLOW = "kubeflow"
    VERTEX = "vertex"


Image = Annotated[str, typer.Option(help="Container image of every component.")]
Host = Annotated[
    str,
    typer.Option(help="Kubeflow Pipelines' address; by default KF_PIPELINES_ENDPOINT, or in a pod its own."),
]
Namespace = Annotated[str, typer.Option(help="Yours, where Kubeflow has several users.")]
CaFile = Annotated[
    Path | None,
    typer.Option(help="Certificates, as PEM, of who vouches for the server.", envvar="SSL_CERT_FILE"),
]
Experiment = Annotated[str, typer.Option(help="The group of runs that it is shown in.")]


@contextlib.contextmanager
def _reporting() -> Iterator[None]:
    """As `reporting`, and says what there is after Ctrl-C."""
    with reporting():
        try:
            yield
        except KeyboardInterrupt as interrupt:
            if str(interrupt):
                typer.echo(printable(f"Interrupted: {interrupt}"))
            raise


@commands.command("compile")
@takes(parameters(PodOptions))
def compile_command(
    output: Annotated[Path, typer.Option(help="A local .yaml file.", parser=local_path)],
    image: Image = "",
    target: Annotated[Target, typer.Option(help="Who runs it.")] = Target.KUBEFLOW,
    **options: Any,
) -> None:
    """Write the pipeline's IR, ready for a Kubeflow cluster or Vertex AI Pipelines."""
    with reporting():
        from kfp import compiler

        from latentfaces.common import storage

        storage.check_writable(str(output.parent))
        if output.suffix not in (".yaml", ".yml", ".json"):
            raise UserError(f"--output {output} has to end in .yaml or .json")
        pods = PodOptions(**options)
        pipeline = _pipeline(image, pods if target is Target.KUBEFLOW else for_vertex(pods))
        output.parent.mkdir(parents=True, exist_ok=True)
        compiler.Compiler().compile(pipeline, str(output))
        typer.echo(f"The pipeline is in {output}")


@commands.command()
@takes(parameters(PodOptions))
def submit(
    host: Host = "",
    namespace: Namespace = "",
    experiment: Experiment = EXPERIMENT,
    image: Image = "",
    param: Params = None,
    run_name: Annotated[str, typer.Option(help="By default latentfaces and the time.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Show how far it is, and exit as it ends.")] = False,
    ca_file: CaFile = None,
    **options: Any,
) -> None:
    """Run the pipeline on a Kubeflow cluster."""
    with _reporting():
        arguments = parse_parameters(param or [])
        check_parameters(arguments)
        pods = PodOptions(**options)
        pipeline = _pipeline(image, pods)

        from rich.console import Console

        from latentfaces.pipelines.kubeflow import Kubeflow
        from latentfaces.pipelines.status import show

        kubeflow = Kubeflow(host, namespace, ca_file)
        name = run_name or f"latentfaces {datetime.now():%Y-%m-%d %H:%M:%S}"
        run_id = kubeflow.submit(
            pipeline,
            arguments,
            experiment=experiment,
            name=name,
            service_account=pods.service_account,
        )
        address = kubeflow.address(run_id)
        typer.echo(f"Run: {address}")
        if wait:
            try:
                status = show(kubeflow.follow(run_id), Console(file=sys.stderr))
            except KeyboardInterrupt:
                raise KeyboardInterrupt(
                    f"the run goes on; {address} shows it, and has a button to terminate it"
                ) from None
            kubeflow.check_success(run_id, status)
            typer.echo("The run succeeded")


@commands.command()
@takes(parameters(PodOptions))
def schedule(
    host: Host = "",
    name: Annotated[str, typer.Option(help="The schedule's; one of that name is replaced.")] = "",
    cron: Annotated[str, typer.Option(help="When, in crontab's five fields, such as '0 3 * * 1'.")] = "",
    time_zone: Annotated[
        str, typer.Option(help="Of no use: Kubeflow has one for all schedules, UTC if nobody changed it.")
    ] = "",
    namespace: Namespace = "",
    experiment: Experiment = EXPERIMENT,
    image: Image = "",
    param: Params = None,
    list_: Annotated[bool, typer.Option("--list", help="Show the schedules.")] = False,
    pause: Annotated[str, typer.Option(help="Name of a schedule to pause.")] = "",
    resume: Annotated[str, typer.Option(help="Name of a schedule that is to run again.")] = "",
    delete: Annotated[str, typer.Option(help="Name of a schedule to delete.")] = "",
    ca_file: CaFile = None,
    **options: Any,
) -> None:
    """Run the pipeline again and again on a Kubeflow cluster, such as weekly, one run at a time."""
    with _reporting():
        if sum(map(bool, (cron or name, list_, pause, resume, delete))) != 1 or bool(cron) != bool(name):
            raise UserError("give --name and --cron, or one of --list, --pause, --resume and --delete")
        if time_zone:
            raise UserError(
                f"--time-zone {time_zone} can't be had: Kubeflow has one time zone for all schedules, "
                "CRON_SCHEDULE_TIMEZONE of its controller, UTC if nobody changed it: write --cron in that one"
            )
        pods = PodOptions(**options)
        if cron:
            cron = with_seconds(cron)
            arguments = parse_parameters(param or [])
            check_parameters(arguments)
            pipeline = _pipeline(image, pods)
        elif param or image or experiment != EXPERIMENT or pods != PodOptions():
            raise UserError(
                "--param, --image, --experiment and what pods are given are for a new schedule: leave them "
                "out with --list, --pause, --resume and --delete"
            )

        from latentfaces.pipelines.kubeflow import Kubeflow

        kubeflow = Kubeflow(host, namespace, ca_file)
        if cron:
            kubeflow.schedule(
                pipeline,
                arguments,
                experiment=experiment,
                name=name,
                cron=cron,
                service_account=pods.service_account,
            )
            done = f"The schedule {name} runs at {cron} (the first field is the second)"
        elif pause:
            kubeflow.pause(pause)
            done = f"The schedule {pause} is paused"
        elif resume:
            kubeflow.resume(resume)
            done = f"The schedule {resume} runs again"
        elif delete:
            kubeflow.delete(delete)
            done = f"The schedule {delete} is deleted"
        else:
            for each in kubeflow.schedules():
                typer.echo(f"{each.name}\t{each.cron}\t{'runs' if each.enabled else 'paused'}")
            return
        typer.echo(printable(done))


def with_seconds(cron: str) -> str:
    """Returns crontab's five fields as Kubeflow's six, or these as they are.

    Kubeflow takes five as well, and reads them as seconds to months. What is wrong within a field it refuses
    itself, before there is a schedule.

    Raises:
        UserError: if there are more or fewer fields.
    """
    fields = cron.split()
    if len(fields) not in (5, 6):
        raise UserError(f"--cron {cron!r} has {len(fields)} fields: write five, such as '0 3 * * 1'")
    return " ".join(["0"] * (6 - len(fields)) + fields)


def for_vertex(pods: PodOptions) -> PodOptions:
    """Returns what Vertex AI Pipelines can give pods, which is no more than the IR itself says.

    Raises:
        UserError: if more is asked for.
    """
    without = dataclasses.replace(pods, shared_memory="")
    allowed = ("gpu_type", "cpu", "memory", "env", "pending_minutes")
    for each in parameters(PodOptions):
        if each.name not in allowed and getattr(pods, each.name) != each.default:
            raise UserError(f"{flag(each.name)} is for Kubernetes alone: leave it out with --target vertex")
    if not re.fullmatch("NVIDIA_[A-Z0-9_]+", pods.gpu_type):
        raise UserError(
            f"--gpu-type {pods.gpu_type} is not one of Vertex AI's names: give one, such as NVIDIA_L4"
        )
    if not re.fullmatch(r"([0-9.]+[KMG]?)?", pods.memory):
        raise UserError(f"--memory {pods.memory} can't be read by Vertex AI: write a number with K, M or G")
    return without


def _pipeline(image: str, pods: PodOptions) -> Any:
    from latentfaces.components.component import IMAGE
    from latentfaces.pipelines.faces import faces_pipeline

    if image and not re.fullmatch(IMAGE_FORM, image):
        raise UserError(f"--image {image[:80]!r} can't be read: write REGISTRY/NAME:TAG")
    return faces_pipeline(image or IMAGE, pods)
