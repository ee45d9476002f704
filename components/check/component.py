"""The check as a Kubeflow component."""

from __future__ import annotations

from latentfaces.common.config import RunOptions
from latentfaces.common.models import joint_parameters
from latentfaces.common.options import parameters
from latentfaces.common.pods import PodOptions
from latentfaces.common.promoted import PromoteOptions
from latentfaces.components.check import executor
from latentfaces.components.component import component
from latentfaces.preprocessing.options import PreprocessConfig

check = component(
    executor.check,
    [
        *parameters(PreprocessConfig),
        *joint_parameters(),
        *parameters(RunOptions),
        *parameters(PromoteOptions),
        *parameters(PodOptions),
    ],
)
