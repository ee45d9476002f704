"""Training as a Kubeflow component."""

from __future__ import annotations

from latentfaces.common.config import RunOptions
from latentfaces.common.models import all_parameters
from latentfaces.common.options import parameters
from latentfaces.common.pods import PodOptions
from latentfaces.components.component import component
from latentfaces.components.train import executor

train = component(executor.train, [*all_parameters(), *parameters(RunOptions), *parameters(PodOptions)])
