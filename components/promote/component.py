"""Promotion as a Kubeflow component."""

from __future__ import annotations

import inspect
from typing import Annotated

from kfp import dsl

from latentfaces.common.models import MODELS
from latentfaces.common.options import Option, parameters
from latentfaces.common.promoted import PromoteOptions
from latentfaces.components.component import component
from latentfaces.components.evaluate.options import EvaluateOptions
from latentfaces.components.promote import executor

_MODELS = [
    inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        annotation=Annotated[dsl.Model, Option(help=f"A {name} that was trained.")],
    )
    for name in MODELS
]

promote = component(executor.promote, [*_MODELS, *parameters(EvaluateOptions), *parameters(PromoteOptions)])
