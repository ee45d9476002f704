"""The pipeline: faces in, trained generators and their pictures out."""

from __future__ import annotations

import dataclasses
import inspect
import json
from typing import Any

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from latentfaces.common.config import EvaluateOptions, RunOptions
from latentfaces.common.models import MODELS, all_parameters, find_model, joint_options
from latentfaces.common.options import pick, taking, type_and_option
from latentfaces.common.pods import PodOptions
from latentfaces.common.promoted import PromoteOptions
from latentfaces.components.check.check import pipeline_options
from latentfaces.components.check.component import check
from latentfaces.components.component import IMAGE, kfp_type
from latentfaces.components.evaluate.component import evaluate
from latentfaces.components.preprocess.component import preprocess
from latentfaces.components.promote.component import promote
from latentfaces.components.train.component import train
from latentfaces.pipelines.pods import configure_pod, configure_training_pod
from latentfaces.preprocessing.options import SOURCES, PreprocessConfig

DOCUMENTATION = """Trains {models} on a folder of faces and renders what they learned.

Args:
    source: {sources}; local or gs://.
    root: Folder for data sets and runs, the same for every run; a bucket on a cluster.
    destination: Folder for the evaluation; by default the run's own.
{options}

Returns:
    Where the report is.
"""


def faces_pipeline(
    image: str = IMAGE,
    pods: PodOptions | None = None,
    run_id: str = dsl.PIPELINE_JOB_ID_PLACEHOLDER,
    in_turn: bool = False,
) -> BaseComponent:
    """Builds the pipeline, which trains every model of the registry.

    Args:
        image: container image of every component, built from the project's Dockerfile.
        pods: what a cluster gives to pods, and the default of a run's parameters of the same names, which are
            for the pods of worker groups.
        run_id: the run, whose folder in the root holds what it makes; by default Kubeflow's own name for it,
            which components get as a whole argument: it is filled in nowhere else.
        in_turn: whether models are trained one after another in the registry's order, not all at once.

    Returns:
        The pipeline, to be compiled, or called to run locally after `kfp.local.init`.
    """
    pods = pods or PodOptions()
    defaults = dataclasses.asdict(pods)

    def latentfaces(source: str, root: str, destination: str = "", **options: Any) -> str:
        where = {"root": root, "run_id": run_id}
        checked = check(
            source=source,
            destination=destination,
            compiled=json.dumps(defaults),
            **where,
            **options,
        )
        checked.set_caching_options(False)  # what was there once need not be there now
        preprocessed = preprocess(source=source, **where, **pick(PreprocessConfig, options)).after(checked)
        preprocessed.set_caching_options(False)  # new images may have come to the same source
        dataset = preprocessed.outputs["dataset"]

        models: dict[str, dsl.PipelineTask] = {}
        for name in MODELS:
            others = {each.name: each.default for each in all_parameters()}
            task = train(
                kind=name,
                dataset=dataset,
                **where,
                **(others | joint_options(name, options)),
                **pick(RunOptions, options),
                **pick(PodOptions, options),
            )
            task.set_display_name(f"train {find_model(name).title}")
            task.set_accelerator_limit(checked.outputs["Output"])
            task.set_cpu_request(checked.outputs["pod_cpu"]).set_memory_request(checked.outputs["pod_memory"])
            if in_turn and models:
                task.after(*models.values())
            task.set_retry(2)  # a pod that fails is made anew, and goes on from the last checkpoint
            models[name] = task

        trained = {name: task.outputs["model"] for name, task in models.items()}
        evaluated = evaluate(
            dataset=dataset, destination=destination, **where, **trained, **pick(EvaluateOptions, options)
        )
        promoted = promote(
            dataset=dataset,
            evaluation=evaluated.outputs["Output"],
            **where,
            **pick(PromoteOptions, options),
        )
        promoted.set_caching_options(False)  # another model may have been promoted meanwhile
        for task in (preprocessed, evaluated, promoted):
            task.set_cpu_request("2").set_memory_request("4G")
        for task in (checked, preprocessed, *models.values(), evaluated, promoted):
            task.set_container_image(image)
            configure_pod(task, pods)
        for task in models.values():
            configure_training_pod(task, pods)
        return evaluated.outputs["Output"]

    named = [each.replace(default=defaults.get(each.name, each.default)) for each in pipeline_options()]
    return dsl.pipeline(name="latentfaces", description=__doc__)(_named(latentfaces, named))


def _named(function: Any, options: list[inspect.Parameter]) -> Any:
    """Returns the function as kfp wants it: each parameter named and documented, and given by position."""
    signature = taking(function, options)
    plain = {each.name: kfp_type(type_and_option(each)[0]) for each in options}
    names = [
        each.replace(kind=each.POSITIONAL_OR_KEYWORD, annotation=plain.get(each.name, str))
        for each in signature.parameters.values()
    ]

    def latentfaces(*values: Any) -> str:
        return function(**dict(zip(signature.parameters, values, strict=True)))

    latentfaces.__signature__ = signature.replace(parameters=names, return_annotation=str)  # type: ignore[attr-defined]
    latentfaces.__doc__ = DOCUMENTATION.format(
        sources=SOURCES,
        models=" and ".join(f"a {find_model(name).title}" for name in MODELS),
        options="\n".join(f"    {each.name}: {type_and_option(each)[1].help}" for each in options),
    )
    return latentfaces
