"""Promotion as a Kubeflow component."""

from __future__ import annotations

from latentfaces.common.options import parameters
from latentfaces.common.promoted import PromoteOptions
from latentfaces.components.component import component
from latentfaces.components.promote import executor

promote = component(executor.promote, parameters(PromoteOptions))
