"""Back to models that were promoted before."""

from __future__ import annotations

from latentfaces.common.errors import UserError
from latentfaces.common.models import find_model
from latentfaces.common.program import import_tensorflow
from latentfaces.common.promoted import ROLLED_BACK, Decision, Promoted, model_folder, read, update
from latentfaces.common.root import nothing_removed


def rollback(root: str, to: str = "", model: str = "") -> list[Decision]:
    """Makes models of an earlier run the promoted ones, if they load.

    Args:
        root: the pipeline's folder, local or `gs://`.
        to: the run; by default for each model the one that was promoted before the one that is.
        model: name of a model family; by default all that are promoted.

    Returns:
        What was decided.

    Raises:
        UserError: if there is nothing to go back to, or its files are gone or damaged.
    """
    present = read(root)
    names = [model] if model else list(present.models)
    earlier = {name: to or present.before(name) for name in names}
    runs = {name: run for name, run in earlier.items() if run and run != present.models.get(name)}
    if not runs:
        reason = (
            f"the models of run {to} are promoted already" if to and names else "none was promoted before"
        )
        raise UserError(f"there is nothing to go back to in {root}, {reason}: name another run with --to")
    for name in runs:
        find_model(name)
    with nothing_removed(root):
        import_tensorflow()  # which sets up Keras, and so precedes what imports it
        from latentfaces.components.evaluate.models import load_model

        for name, run in runs.items():
            load_model(model_folder(root, run, name), name)
        decisions: list[Decision] = []

        def decide(present: Promoted) -> Promoted:
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

        update(root, decide)
    return decisions
