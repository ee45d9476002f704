"""What the component of the check runs in its container."""

from __future__ import annotations

from typing import Any


def check(source: str, root: str, destination: str, **options: Any) -> str:
    """Refuses what can't work before any long work starts, and returns the GPUs that a training step needs.

    As text: from a number, Kubeflow's driver drops an accelerator limit without a word.

    Args:
        source: Images, local or gs://.
        root: Folder for the data set and the models.
        destination: Folder for the evaluation.
        **options: those of all steps.
    """
    from latentfaces.common.program import reporting
    from latentfaces.components.check.check import check_locations, check_options

    with reporting():
        check_locations(source, root, destination)
        run = check_options(options, root)
    return str(run.workers * run.gpus_per_worker)
