"""A pipeline's root folder, where everything that its runs make lies side by side.

`datasets/<fingerprint>/` are data sets, by what they were made from; `runs/<run id>/` holds what one run
made, `vae/`, `gan/` and `evaluation/`; `promoted.json` says which run's models are the ones to use.
"""

from __future__ import annotations

import re

from latentfaces.common.errors import UserError

_RUN_ID = r"[A-Za-z0-9][-A-Za-z0-9_.]{0,127}"


def run_folder(root: str, run_id: str) -> str:
    """Returns where one run's models and evaluation are.

    Args:
        root: the pipeline's folder, local or `gs://`.
        run_id: what Kubeflow calls the run, or a name of the user's.

    Raises:
        UserError: if that can't be a folder's name.
    """
    if not re.fullmatch(_RUN_ID, run_id):
        raise UserError(f"the run {run_id[:80]!r} can't be a folder's name: use letters, digits, - and _")
    return f"{root.rstrip('/')}/runs/{run_id}"
