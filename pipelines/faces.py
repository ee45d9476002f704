"""The pipeline: faces in, trained generators and their pictures out."""

from __future__ import annotations

import inspect
from typing import Any

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from latentfaces.common.config import RunOptions
from latentfaces.common.models import MODELS, all_parameters, find_model, joint_options, joint_parameters
from latentfaces.common.options import parameters, pick, taking, type_and_option
from latentfaces.components.check.component import check
from latentfaces.components.component import IMAGE, kfp_type
from latentfaces.components.evaluate.component import evaluate
from latentfaces.components.evaluate.options import EvaluateOptions
from latentfaces.components.preprocess.component import preprocess
from latentfaces.components.train.component import train
from latentfaces.preprocessing.options import PreprocessConfig

DOCUMENTATION = """Trains {models} on a folder of faces and renders what they learned.

Args:
    source: CelebA as distributed, a folder of images, or a zip of either; local or gs://.
    root: Folder for the data set and the models; a bucket on a cluster.
    destination: Folder for the evaluation.
{options}

Returns:
    Where the report is.
"""


def faces_pipeline(image: str = IMAGE) -> BaseComponent:
    """Builds the pipeline, which trains every model of the registry.

    Args:
        image: container image of every component, built from the project's Dockerfile.

    Returns:
        The pipeline, to be compiled, or called to run locally after `kfp.local.init`.
    """
    options = [*parameters(PreprocessConfig), *joint_parameters(), *parameters(RunOptions)]

    def latentfaces(source: str, root: str, destination: str, **options: Any) -> str:
        checked = check(source=source, root=root, destination=destination, **options)
        checked.set_caching_options(False)  # what was there once need not be there now
        preprocessed = preprocess(
            source=source, location=f"{root}/dataset", **pick(PreprocessConfig, options)
        ).after(checked)
        preprocessed.set_caching_options(False)  # new images may have come to the same source

        models = {}
        for name in MODELS:
            others = {each.name: each.default for each in all_parameters()}
            task = train(
                kind=name,
                dataset=preprocessed.outputs["dataset"],
                location=f"{root}/{name}",
                **(others | joint_options(name, options) | pick(RunOptions, options)),
            )
            task.set_display_name(f"train {find_model(name).title}")
            task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(checked.output)
            task.set_retry(2)  # a pod that fails is made anew, and goes on from the last checkpoint
            models[name] = task

        evaluated = evaluate(
            dataset=preprocessed.outputs["dataset"],
            destination=destination,
            **{name: task.outputs["model"] for name, task in models.items()},
            **pick(EvaluateOptions, options),
        )
        for task in (preprocessed, *models.values(), evaluated):
            task.set_cpu_request("2").set_memory_request("4G")
        for task in (checked, preprocessed, *models.values(), evaluated):
            task.set_container_image(image)
        return evaluated.outputs["Output"]

    return dsl.pipeline(name="latentfaces", description=__doc__)(_named(latentfaces, options))


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
        models=" and ".join(f"a {find_model(name).title}" for name in MODELS),
        options="\n".join(f"    {each.name}: {type_and_option(each)[1].help}" for each in options),
    )
    return latentfaces
