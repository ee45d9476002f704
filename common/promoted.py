"""`promoted.json` in a pipeline's root: which run's models are the ones to use, and how that came about.

It is only ever replaced as a whole, and on condition that it still is what was read: in a bucket by the
object's generation, on a file system by a rename under a lock. So two runs that end at once lose nothing of
one another, and whoever follows it finds models that were whole before it named them.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.api_core.exceptions import GoogleAPIError

from latentfaces.common import storage
from latentfaces.common.errors import RunError, UserError, printable
from latentfaces.common.lease import hold
from latentfaces.common.model_folder import brief, read_text
from latentfaces.common.options import check, option
from latentfaces.common.root import TIME, now, run_folder

FILE = "promoted.json"
VERSION = 1
LONGEST_HISTORY = 1000  # decisions; older ones are dropped

PROMOTED, REJECTED, ROLLED_BACK = "promoted", "rejected", "rolled back"

_LEASE = ".promoted.lease"
_WAIT = 600.0  # seconds for others, one of which may have to judge anew
_TRIES = 100  # in a bucket, where each one that fails is another run's success
_MODEL = re.compile(r"[a-z][a-z0-9_]{0,63}")
_LONGEST_WHY = 1000  # characters


@dataclass(frozen=True, kw_only=True)
class PromoteOptions:
    """The options of a promotion."""

    tolerance: float = option(
        2.0,
        help="Standard errors by which a model may be worse than the promoted one, and take its place.",
        minimum=0,
        maximum=1e6,
    )
    seed: int = option(
        0,
        help="Of all random numbers: the same seed gives the same result.",
        minimum=0,
        maximum=math.inf,
    )
    keep: int = option(5, help="Runs that stay in the root, beside those with promoted models.", minimum=1)

    def __post_init__(self) -> None:
        """Checks the options; raises `UserError`."""
        check(self)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What was decided about one model of one run.

    Attributes:
        run: the run.
        model: name of the model family.
        decision: `PROMOTED`, `REJECTED` or `ROLLED_BACK`, which is to the run.
        why: one sentence.
        against: the run whose model was the promoted one; "" where there was none.
        distance: of the run's model from the held-out images, where it was measured.
        against_distance: of the promoted one from the same images.
        standard_error: of the difference of the two.
        time: in UTC.
    """

    run: str
    model: str
    decision: str
    why: str
    against: str = ""
    distance: float | None = None
    against_distance: float | None = None
    standard_error: float | None = None
    time: str = field(default_factory=now)

    def __post_init__(self) -> None:
        """Raises `ValueError` where a field holds what we would not write."""
        _check(self.run, self.model)
        if self.against:
            _check(self.against, self.model)
        if self.decision not in (PROMOTED, REJECTED, ROLLED_BACK):
            raise ValueError(f"{self.decision[:80]!r} is no decision")
        if not self.why.isprintable() or len(self.why) > _LONGEST_WHY:
            raise ValueError("a reason is not one printable sentence")
        if not re.fullmatch(TIME, self.time):
            raise ValueError(f"{self.time[:80]!r} is no time")
        for number in (self.distance, self.against_distance, self.standard_error):
            if number is not None and not (math.isfinite(number) and number >= 0):
                raise ValueError(f"{number} is no distance")


@dataclass(frozen=True, kw_only=True)
class Promoted:
    """What `promoted.json` says.

    Attributes:
        models: the run whose model is the one to use, by name of the model family.
        history: all decisions, the newest last.
    """

    models: Mapping[str, str] = field(default_factory=dict)
    history: tuple[Decision, ...] = ()

    def decided(self, run: str, model: str) -> Decision | None:
        """Returns what was decided when a run had trained a model, or None if nothing was yet."""
        for each in reversed(self.history):
            if (each.run, each.model) == (run, model) and each.decision != ROLLED_BACK:
                return each
        return None

    def was_promoted(self, run: str, model: str) -> bool:
        """Whether a run's model is, or once was, the one to use."""
        return any(
            (each.run, each.model) == (run, model) and each.decision != REJECTED for each in self.history
        )

    def before(self, model: str) -> str | None:
        """Returns the run that was the promoted one before the one that is, or None; not what was undone."""
        runs: list[str] = []
        for each in self.history:
            if each.model == model and each.decision != REJECTED:
                if each.run in runs:  # a rollback, which undoes what came after it
                    del runs[runs.index(each.run) :]
                runs.append(each.run)
        return runs[-2] if len(runs) > 1 else None

    @property
    def needed(self) -> set[str]:
        """The runs of the promoted models, and of those to which one would go back."""
        return {*self.models.values(), *filter(None, map(self.before, self.models))}

    def decide(self, *decisions: Decision) -> Promoted:
        """Returns what holds after some more decisions."""
        chosen = {each.model: each.run for each in decisions if each.decision != REJECTED}
        history = (*self.history, *decisions)[-LONGEST_HISTORY:]
        return Promoted(models={**self.models, **chosen}, history=history)


def model_folder(root: str, run: str, model: str) -> str:
    """Returns where a run's model is."""
    return f"{run_folder(root, run)}/{model}"


def read(root: str) -> Promoted:
    """Reads a root's `promoted.json`; where there is none, nothing was promoted yet.

    Raises:
        UserError: if it is damaged, or of another version.
    """
    return _read(storage.resolve(root) / FILE)


def update(root: str, change: Callable[[Promoted], Promoted]) -> Promoted:
    """Replaces a root's `promoted.json`, whoever else does so at the same time.

    Who promotes a model makes sure in a block of `nothing_removed` that it is there, and calls this in it.

    Args:
        root: local or `gs://`.
        change: makes the new content of the present one; called again where another run was faster.

    Returns:
        What `promoted.json` says now.

    Raises:
        UserError: if it is damaged, or the root can't be written; and what `change` raises.
        RunError: if it can't be replaced.
    """
    folder = storage.resolve(root)
    path = folder / FILE
    try:
        if isinstance(path, Path):
            with hold(folder, _LEASE, wait=_WAIT):
                present = _read(path)
                changed = change(present)
                if changed != present:
                    storage.write(path, _encode(changed))
                return changed
        writer = uuid.uuid4().hex
        for _ in range(_TRIES):
            seen = storage.version(path)  # first: content that is newer than it is refused below
            present = _read(path)
            changed = change(present)
            if changed == present:
                return changed
            try:
                storage.replace(path, _encode(changed), seen.generation if seen else 0, writer)
                return changed
            except storage.ChangedError:
                continue
    except GoogleAPIError as error:
        raise RunError(
            f"{path} can't be replaced ({brief(error)}): check the rights to its bucket"
        ) from error
    raise RunError(f"{path} was replaced by others {_TRIES} times meanwhile: try again")


def _encode(promoted: Promoted) -> bytes:
    content = {
        "version": VERSION,
        "models": {name: {"run": run} for name, run in promoted.models.items()},
        "history": [dataclasses.asdict(each) for each in promoted.history],
    }
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


def _read(path: storage.AnyPath) -> Promoted:
    try:
        return _decode(json.loads(read_text(path)))
    except (FileNotFoundError, NotADirectoryError):
        return Promoted()
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}): check its rights") from None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError(
            f"{path} does not say which models are promoted ({brief(error)}): put an earlier version of it "
            "back, or remove it to begin without promoted models"
        ) from None


def _decode(content: Any) -> Promoted:
    """Makes a `Promoted` of what the file holds; raises an error where we would not write that."""
    if content["version"] != VERSION:
        raise ValueError(f"its version is {printable(str(content['version'])[:80])}, not {VERSION}")
    kinds = {each.name: each.type for each in dataclasses.fields(Decision)}
    history = []
    for each in content["history"]:
        for name, value in each.items():
            if type(value) not in ((str,) if kinds[name] == "str" else (int, float, type(None))):
                raise TypeError(f"{name} is of another type")
        history.append(Decision(**each))
    if len(history) > LONGEST_HISTORY:
        raise ValueError(f"its history is longer than {LONGEST_HISTORY}")
    models = {}
    for name, model in content["models"].items():
        _check(model["run"], name)
        models[name] = model["run"]
    return Promoted(models=models, history=tuple(history))


def _check(run: str, model: str) -> None:
    """Raises `ValueError` or `TypeError` where these can't be a run and a model."""
    if not _MODEL.fullmatch(model):
        raise ValueError(f"{model[:80]!r} is no model")
    try:
        run_folder("", run)
    except UserError as error:
        raise ValueError(str(error)) from None
