"""What the component of the check runs in its container."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kfp import dsl


def check(
    source: str,
    root: str,
    run_id: str,
    destination: str,
    compiled: str,
    pod_cpu: dsl.OutputPath(str),  # type: ignore[valid-type]
    pod_memory: dsl.OutputPath(str),  # type: ignore[valid-type]
    **options: Any,
) -> str:
    """Refuses what can't work before any long work starts; returns the GPUs that training's own pods need.

    All are texts: from a number, Kubeflow's driver drops an accelerator limit without a word.

    Args:
        source: Images, local or gs://.
        root: The pipeline's folder, local or gs://.
        run_id: The run.
        destination: Folder for the evaluation; "" for the run's own.
        compiled: What the pipeline's pods were given when it was compiled, as JSON.
        pod_cpu: CPUs that these pods need.
        pod_memory: Memory that they need.
        **options: those of all components.
    """
    from latentfaces.common import storage
    from latentfaces.common.program import reporting
    from latentfaces.common.root import run_folder
    from latentfaces.components.check.check import check_locations, check_options, check_pods, own_pod

    with reporting():
        check_locations(source, root, destination)
        run = check_options(options, run_folder(root, run_id))
        check_pods(options, run, compiled)
        gpus, cpus, amount = own_pod(options, run)
        storage.write(Path(pod_cpu), cpus.encode())
        storage.write(Path(pod_memory), amount.encode())
    return gpus
