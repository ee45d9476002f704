"""Evaluation as a Kubeflow component."""

from __future__ import annotations

import inspect
from typing import Annotated

from kfp import dsl

from latentfaces.common.config import EvaluateOptions
from latentfaces.common.models import MODELS
from latentfaces.common.options import Option, parameters
from latentfaces.components.component import component
from latentfaces.components.evaluate import executor

_MODELS = [
    inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        annotation=Annotated[dsl.Model, Option(help=f"The model folder of a {name}.")],
    )
    for name in MODELS
]

evaluate = component(executor.evaluate, [*_MODELS, *parameters(EvaluateOptions)])
