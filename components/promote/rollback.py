"""Back to models that were promoted before."""

from __future__ import annotations

import logging

from latentfaces.common.errors import UserError
from latentfaces.common.models import find_model
from latentfaces.common.program import import_tensorflow
from latentfaces.common.promoted import ROLLED_BACK, Decision, Promoted, model_folder, update
from latentfaces.common.root import check_root, nothing_removed, run_folder

logger = logging.getLogger(__name__)


def rollback(root: str, to: str = "", model: str = "") -> list[Decision]:
    """Makes models of an earlier run the promoted ones, if they load.

    Args:
        root: the pipeline's folder, local or `gs://`.
        to: the run; by default for each model the one that was promoted before the one that is.
        model: name of a model family; by default all that are promoted, and of a run `to` those of its models
            that ever were.

    Returns:
        What was decided.

    Raises:
        UserError: if there is no such root, nothing to go back to, or its files are gone or damaged.
    """
    check_root(root)
    if to:
        run_folder(root, to)
    decisions: list[Decision] = []

    def decide(present: Promoted) -> Promoted:
        runs = _choose(root, present, to, model)
        import_tensorflow()  # which sets up Keras, and so precedes what imports it
        from latentfaces.components.evaluate.models import load_model

        for name, run in runs.items():
            load_model(model_folder(root, run, name), name)
        decisions[:] = [
            Decision(
                run=run,
                model=name,
                decision=ROLLED_BACK,
                why=f"rolled back from {present.models.get(name) or 'none'}",
                against=present.models.get(name, ""),
            )
            for name, run in runs.items()
        ]
        return present.decide(*decisions)

    with nothing_removed(root):
        update(root, decide)
    return decisions


def _choose(root: str, present: Promoted, to: str, model: str) -> dict[str, str]:
    """The runs to go back to, by name of the model family; raises `UserError` as `rollback` does."""
    names = [model] if model else list(present.models)
    never = [name for name in names if to and not model and not present.was_promoted(to, name)]
    earlier = {name: to or present.before(name) for name in names if name not in never}
    runs = {name: run for name, run in earlier.items() if run and run != present.models.get(name)}
    if never:
        logger.info("not of run %s, where it was never promoted: %s", to, ", ".join(never))
    if not runs:
        reason = "none was promoted before: name another run with --to"
        if to:
            reason = f"the models of run {to} are promoted already, or never were: name one with --model"
        raise UserError(f"there is nothing to go back to in {root}, {reason}")
    for name in runs:
        find_model(name)
    return runs
