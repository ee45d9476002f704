"""The same pipeline on this machine: each component a process, no containers."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import shutil
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from kfp import local

from latentfaces.common.errors import RunError, UserError
from latentfaces.common.lease import hold
from latentfaces.common.options import pick
from latentfaces.common.program import COMMAND, LAST_WORDS, TIME_FORMAT
from latentfaces.common.root import FINISHED, Run, run_folder, runs
from latentfaces.components.check.check import check_locations, check_options, pipeline_options
from latentfaces.components.train.launch import INTERRUPTED
from latentfaces.pipelines.faces import faces_pipeline
from latentfaces.preprocessing.fingerprint import fingerprint
from latentfaces.preprocessing.options import PreprocessConfig

_BEGINS = re.compile(r" - INFO - Executing task '(.+)'")  # what kfp says when a component begins
_OUR_LINE = re.compile(r"(\d\d:\d\d:\d\d latentfaces: )(.*)")
_COLOUR = re.compile("\x1b\\[[0-9;]*m")  # kfp's, whatever it writes to

LEAVE_SECONDS = 30.0  # for a component to save a checkpoint after Ctrl-C

logger = logging.getLogger(__name__)


class _OurLines:
    """A stream that keeps everything in a log file and shows the lines that our components wrote.

    Args:
        log: gets everything.
        shown: gets our lines, each with the number of its component.
        components: their titles by what kfp calls them.
        stopping: set when no other component is to begin.

    Attributes:
        component: title of the one that runs, or ran last.
    """

    def __init__(
        self, log: TextIO, shown: TextIO, components: Mapping[str, str], stopping: threading.Event
    ) -> None:
        self._log = log
        self._shown = shown
        self._components = components
        self._stopping = stopping
        self._number = 0
        self.component = "the pipeline"

    def write(self, text: str) -> int:
        text = _COLOUR.sub("", text)
        if begins := _BEGINS.search(text):
            if self._stopping.is_set():
                sys.exit(INTERRUPTED)
            self._number += 1
            self.component = self._components.get(begins[1], begins[1])
            self._show(time.strftime(f"{TIME_FORMAT} latentfaces: "), self.component)
        for start, line in _OUR_LINE.findall(text):
            self._show(start, line)
        return self._log.write(text)

    def _show(self, start: str, line: str) -> None:
        with contextlib.suppress(OSError):  # if nobody reads it any more, the log still has it
            print(f"{start}[{self._number}/{len(self._components)}] {line}", file=self._shown, flush=True)

    def flush(self) -> None:
        self._log.flush()


def run_locally(arguments: Mapping[str, Any]) -> str:
    """Runs the pipeline with kfp's local runner; a run that was stopped goes on if the same is asked for.

    All that the components print is kept in `log.txt` in the root; their own lines are shown on standard
    error too, with the number of the component.

    Args:
        arguments: of the pipeline, by name; `root` is a local folder.

    Returns:
        Where the report is.

    Raises:
        UserError: if a component found a mistake of the user's, the source does not exist, or the root can't
            be made or is in use.
        RunError: if a component failed otherwise.
        SystemExit: with status 130 after Ctrl-C, when the component that runs has saved what it has.
    """
    root = Path(arguments["root"])
    check_locations(arguments["source"], str(root), arguments["destination"])
    # kfp starts `python3` from the PATH, which need not be the one that runs this
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    root.mkdir(parents=True, exist_ok=True)
    log, last_words, passed_on = root / "log.txt", root / "last_words.txt", root / ".passed-on"
    with hold(root), log.open("w") as file:
        last_words.unlink(missing_ok=True)
        os.environ |= {LAST_WORDS: str(last_words), COMMAND: str(os.getpid())}
        handler = logging.StreamHandler(file)
        logging.getLogger().addHandler(handler)
        warnings.filterwarnings("ignore", module="kfp")  # that our image is not used here is what we want
        try:
            run_id = _choose_run(arguments)
            local.init(
                local.SubprocessRunner(use_venv=False), pipeline_root=str(passed_on), raise_on_error=True
            )
            pipeline = faces_pipeline(run_id=run_id, in_turn=True)
            tasks = pipeline.pipeline_spec.root.dag.tasks
            titles = {name: task.task_info.name for name, task in tasks.items()}
            stopping = threading.Event()  # by Ctrl-C
            lines = _OurLines(file, sys.stderr, titles, stopping)
            try:
                with _leaving(stopping), contextlib.redirect_stdout(lines):
                    return pipeline(**arguments).output
            except RuntimeError:
                if stopping.is_set():
                    sys.exit(INTERRUPTED)
                words = "1 it told no reason, as when it is killed because the memory is full"
                if last_words.exists():
                    words = last_words.read_text()
                status, _, reason = words.partition(" ")
                message = f"{lines.component} failed: {reason}; all that the components printed is in {log}"
                raise (UserError if status == "2" else RunError)(message) from None
        finally:
            logging.getLogger().removeHandler(handler)
            shutil.rmtree(passed_on, ignore_errors=True)
            last_words.unlink(missing_ok=True)
            del os.environ[LAST_WORDS], os.environ[COMMAND]


def _choose_run(arguments: Mapping[str, Any]) -> str:
    """Returns the newest run if that was stopped and is what is asked for; else a new one: the time, UTC."""
    root = arguments["root"]
    options = {each.name: each.default for each in pipeline_options()} | dict(arguments)
    for newest in runs(root)[:1]:
        stopped = not Path(run_folder(root, newest.id), FINISHED).exists()
        if stopped and _is_asked_for(newest, options):
            logger.info("run %s was stopped, and goes on", newest.id)
            return newest.id
    times = (time.strftime("%Y%m%d-%H%M%S", time.gmtime(time.time() + wait)) for wait in itertools.count())
    run_id = next(each for each in times if not os.path.exists(run_folder(root, each)))
    logger.info("run %s begins", run_id)
    return run_id


def _is_asked_for(run: Run, options: Mapping[str, Any]) -> bool:
    """Whether what a run trains, and on which data set, is what the options ask for."""
    with contextlib.suppress(UserError):  # which tells the difference, or is told again
        check_options(options, run_folder(options["root"], run.id))
        config = PreprocessConfig(**pick(PreprocessConfig, options))
        return fingerprint(options["source"], config) == run.dataset
    return False


@contextlib.contextmanager
def _leaving(stopping: threading.Event) -> Iterator[None]:
    """Waits after Ctrl-C for the component that runs, which got it too; a second one ends everything at once.

    Args:
        stopping: is set then, and no other component begins.
    """
    timer = threading.Timer(LEAVE_SECONDS, os.kill, (os.getpid(), signal.SIGINT))

    def leave(*_: object) -> None:
        stopping.set()
        os.environ[COMMAND] = "0"  # no process's: a component that is only being started ends itself
        signal.signal(signal.SIGINT, before)
        timer.start()

    before = signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)
