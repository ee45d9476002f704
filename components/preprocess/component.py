"""Preprocessing as a Kubeflow component."""

from __future__ import annotations

from latentfaces.common.options import parameters
from latentfaces.components.component import component
from latentfaces.components.preprocess import executor
from latentfaces.preprocessing.options import PreprocessConfig

preprocess = component(executor.preprocess, parameters(PreprocessConfig))
