"""What can be checked before any long work: options, and the places that a run reads from and writes to."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentfaces.common import storage
from latentfaces.common.config import LAUNCHERS, EvaluateOptions, RunOptions
from latentfaces.common.errors import UserError
from latentfaces.common.model_folder import refuse_other_run
from latentfaces.common.models import MODELS, find_model, joint_options, joint_parameters, presets, settle
from latentfaces.common.options import flag, parameters, pick
from latentfaces.common.pods import PodOptions
from latentfaces.common.program import in_a_pod
from latentfaces.common.promoted import PromoteOptions
from latentfaces.preprocessing.options import SOURCES, PreprocessConfig


def pipeline_options() -> list[inspect.Parameter]:
    """Returns a pipeline's parameters that are options of its components, each once."""
    found = joint_parameters()
    for options in (PreprocessConfig, RunOptions, EvaluateOptions, PromoteOptions, PodOptions):
        found += parameters(options)
    return list({each.name: each for each in found}.values())  # the seed is for training and evaluation


def check_locations(source: str, *outputs: str) -> None:
    """Checks that the source exists and that outputs can be made.

    Args:
        source: a folder or a file, local or `gs://`.
        *outputs: folders, local or `gs://`; empty strings are passed over.

    Raises:
        UserError: if the source is missing, a bucket does not exist or a local folder can't be written; in
            a pod also if a local folder is the pod's own, which no other pod sees.
    """
    if not storage.resolve(source).exists():
        raise UserError(f"the source {source} does not exist: give {SOURCES}")
    for output in filter(None, outputs):
        folder = storage.resolve(output)
        if in_a_pod() and isinstance(folder, Path):
            if not any(place.is_mount() for place in [folder, *folder.absolute().parents][:-1]):
                raise UserError(
                    f"{output} lies on this pod's own disk, which no other component sees: "
                    "give a gs:// location, or a folder on a volume that all pods mount"
                )
        storage.check_writable(output)


def check_options(options: Mapping[str, Any], run_folder: str = "") -> RunOptions:
    """Checks the options of all components of a pipeline, and returns how models are trained.

    Args:
        options: those of `pipeline_options`.
        run_folder: the run's folder, local or `gs://`, where what was trained already has to be the same.

    Raises:
        UserError: if one is wrong, they don't go together, or a model in the folder is of another run.
    """
    preprocess = PreprocessConfig(**pick(PreprocessConfig, options))
    shape = (preprocess.image_size, preprocess.image_size, preprocess.channels)
    run = RunOptions(**pick(RunOptions, options))
    for others in (EvaluateOptions, PromoteOptions, PodOptions):
        others(**pick(others, options))
    for name in MODELS:
        config = settle(name, joint_options(name, options), shape)
        run.check_batch(find_model(name).title, config.batch_size)
        if run_folder and (storage.resolve(run_folder) / name / "config.json").exists():
            of_the_data = {"dataset", "dataset_digest", *(() if config.steps else ("steps",))}
            refuse_other_run(storage.resolve(run_folder) / name, config, of_the_data)
    return run


def check_pods(options: Mapping[str, Any], run: RunOptions, compiled: str) -> None:
    """Checks that workers can be pods, or else that what is asked of pods is what training's own has.

    Args:
        options: those of `PodOptions` among others.
        run: how models are trained.
        compiled: what the pipeline was compiled with, as JSON.

    Raises:
        UserError: if the launcher lacks a right, or models are trained in pods that Kubeflow makes, which are
            as they were compiled.
    """
    if run.started_by == "kubernetes":
        importlib.import_module(LAUNCHERS["kubernetes"]).check_rights()
        return
    for name, value in json.loads(compiled).items():
        if options[name] != value and name != "pending_minutes":
            raise UserError(
                f"{name} is for the pods of several workers, and one trains in a pod as it was compiled: "
                f"compile or submit with {flag(name)}"
            )


def own_pod(options: Mapping[str, Any], run: RunOptions) -> tuple[str, str, str]:
    """Returns the GPUs, CPUs and memory that a training component's own pod needs.

    Args:
        options: those of `PodOptions` and of all models.
        run: how models are trained; one that starts pods needs little.
    """
    if run.started_by == "kubernetes":
        return "0", "100m", "500Mi"
    from kubernetes.utils import parse_quantity  # which takes most of a second to import

    chosen = (presets(name)[options[f"{name}_preset"]] for name in MODELS)
    largest = max(chosen, key=lambda preset: parse_quantity(preset.memory))
    gpus = str(run.workers * run.gpus_per_worker)
    return gpus, options["cpu"] or largest.cpu, options["memory"] or largest.memory
