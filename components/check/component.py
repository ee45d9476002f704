"""The check as a Kubeflow component."""

from __future__ import annotations

from latentfaces.components.check import executor
from latentfaces.components.check.check import pipeline_options
from latentfaces.components.component import component

check = component(executor.check, pipeline_options())
