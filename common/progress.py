"""Progress of long work: a bar on a terminal; in a log, a plain line now and then."""

from __future__ import annotations

import logging
import sys
import time
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

logger = logging.getLogger(__name__)


def standard_error() -> Console:
    """Returns the console that standard error is: a terminal if it is one, whatever `FORCE_COLOR` says.

    Notebooks and build servers set that; a bar in what they keep would be thousands of lines.
    """
    return Console(stderr=True, force_terminal=sys.stderr.isatty())


class Progress:
    """Shows how far some work is, how fast it goes and how long it will take; a context manager.

    Args:
        what: the work, such as "preprocess".
        total: how much there is to do.
        unit: of what, in the plural.
        done: how much was done before.
        seconds: between two lines in a log.
        console: where the bar is shown; by default `standard_error()`.
    """

    def __init__(
        self,
        what: str,
        total: int,
        unit: str,
        *,
        done: int = 0,
        seconds: float = 10.0,
        console: Console | None = None,
    ) -> None:
        console = console or standard_error()
        self._what, self._total, self._unit, self._first, self._seconds = what, total, unit, done, seconds
        self._bar = Bar(
            TextColumn(what),
            BarColumn(),
            TextColumn("{task.description}"),
            console=console,
            disable=not console.is_terminal,
            redirect_stdout=False,
        )
        self._task = self._bar.add_task("starting", total=total, completed=done)
        self._started = self._told = time.monotonic()
        self._shown = -1
        self._bar.start()

    def show(self, done: int, detail: str = "") -> None:
        """Shows that so much is done, and what else is to be said; in a log, not at every call."""
        now = time.monotonic()
        self._bar.update(self._task, completed=done)
        rate = self._bar.tasks[0].speed or (done - self._first) / max(now - self._started, 1e-9)
        left = timedelta(seconds=round((self._total - done) / rate)) if rate else "unknown time"
        text = f"{done:,} of {self._total:,} {self._unit}, {rate:,.1f} {self._unit}/s, {left} left"
        if detail:
            text += f", {detail}"
        self._bar.update(self._task, description=text)
        ended, self._shown = self._shown < self._total <= done, done  # the end is told once
        if self._bar.disable and (now - self._told >= self._seconds or ended):
            self._told = now
            logger.info("%s: %s", self._what, text)

    def close(self) -> None:
        """Ends the bar."""
        self._bar.stop()

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the bar."""
        self.close()
