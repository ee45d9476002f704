"""Which of a run's models become the ones to use: each that is whole, and not worse than the one that is."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from typing import Any

from latentfaces.common import storage
from latentfaces.common.errors import RunError
from latentfaces.common.models import MODELS, find_model
from latentfaces.common.program import import_tensorflow
from latentfaces.common.promoted import (
    PROMOTED,
    Decision,
    Promoted,
    PromoteOptions,
    model_folder,
    read,
    update,
)
from latentfaces.common.root import FINISHED, nothing_removed, prune, run_folder
from latentfaces.components.promote.section import put, render

logger = logging.getLogger(__name__)


def promote(dataset: str, root: str, run_id: str, evaluation: str, **options: Any) -> list[Decision]:
    """Decides about all models of a run; called again for the same run, it tells what was decided.

    What is decided goes into `promoted.json` first, then into the evaluation's report, and last into the
    run's `promotion.json`. Then old runs are removed.

    Args:
        dataset: the data set folder, local or `gs://`, by whose held-out images models are judged.
        root: the pipeline's folder, local or `gs://`, with the run's models.
        run_id: the run.
        evaluation: the evaluation's `report.html`, local or `gs://`.
        **options: those of `PromoteOptions`.

    Returns:
        A decision for each model family.

    Raises:
        UserError: if an option is wrong, there is no data set, or `promoted.json` is damaged.
        RunError: if the report is not one of the evaluation, `promoted.json` can't be replaced, or another
            run has removed this one meanwhile.
    """
    settings = PromoteOptions(**options)
    page = storage.resolve(evaluation)
    put(storage.read(page), "")  # before anything is decided
    import_tensorflow()  # which sets up Keras, and so precedes what imports it
    from latentfaces.components.promote.judge import Judge

    judge = Judge(dataset, root, run_id, settings.tolerance, settings.seed)

    def judged(present: Promoted) -> list[Decision]:
        open_ones = [name for name in MODELS if not present.decided(run_id, name)]
        return [judge.decide(name, present.models.get(name, "")) for name in open_ones]

    while True:
        seen = read(root)
        judged(seen)  # the long work, which the judge remembers: meanwhile others may write, and remove runs
        with nothing_removed(root) as lease:
            if read(root).models == seen.models:  # else there is more of it
                _check_there(root, judged(seen))
                lease.check()
                present = update(root, lambda present: present.decide(*judged(present)))
                break
    decisions = [decision for name in MODELS if (decision := present.decided(run_id, name))]
    for each in decisions:
        title = find_model(each.model).title
        logger.info("the %s of run %s is %s: %s", title, run_id, each.decision, each.why)
    storage.write(page, put(storage.read(page), render(decisions, judge.basis)))
    told = {"run": run_id, **judge.basis, "decisions": [dataclasses.asdict(each) for each in decisions]}
    mark = storage.resolve(run_folder(root, run_id)) / FINISHED
    storage.write(mark, (json.dumps(told, indent=2) + "\n").encode())
    prune(root, settings.keep, lambda: read(root).needed, run_id)
    return decisions


def _check_there(root: str, decisions: Sequence[Decision]) -> None:
    """Raises `RunError` if a model that is to be promoted was removed while it was judged."""
    for each in decisions:
        folder = storage.resolve(model_folder(root, each.run, each.model))
        files = [folder / f"{name}.keras" for name in find_model(each.model).network_names]
        if each.decision == PROMOTED and not all(map(storage.is_file, files)):
            raise RunError(f"{folder} was removed by another run while it was judged: train again")
