"""The same pipeline on this machine: each step a process, no containers."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from kfp import local

from latentfaces.common import storage
from latentfaces.common.errors import RunError, UserError
from latentfaces.common.lease import hold
from latentfaces.common.program import COMMAND, LAST_WORDS
from latentfaces.pipelines.faces import faces_pipeline

_OUR_LINE = re.compile(r"\d\d:\d\d:\d\d latentfaces: .*")


LEAVE_SECONDS = 30.0  # for a component to save a checkpoint


class _OurLines:
    """A stream that keeps everything in a log file and shows the lines that our steps wrote."""

    def __init__(self, log: TextIO, shown: TextIO) -> None:
        self._log = log
        self._shown = shown

    def write(self, text: str) -> int:
        for line in _OUR_LINE.findall(text):
            print(line, file=self._shown, flush=True)
        return self._log.write(text)

    def flush(self) -> None:
        self._log.flush()


def run_locally(arguments: Mapping[str, object], log: Path) -> str:
    """Runs the pipeline with kfp's local runner.

    Args:
        arguments: of the pipeline, by name; `root` is a local folder.
        log: file for all that the steps print; their own lines are shown on standard error too.

    Returns:
        Where the report is.

    Raises:
        UserError: if a step found a mistake of the user's, or the log's folder can't be made.
        RunError: if a step failed otherwise.
    """
    storage.check_writable(str(log.parent))
    # kfp starts `python3` from the PATH, which need not be the one that runs this
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    log.parent.mkdir(parents=True, exist_ok=True)
    last_words = log.with_name("last_words.txt")
    last_words.unlink(missing_ok=True)
    os.environ |= {LAST_WORDS: str(last_words), COMMAND: str(os.getpid())}
    with hold(log.parent), log.open("w") as file, contextlib.redirect_stdout(_OurLines(file, sys.stderr)):
        handler = logging.StreamHandler(file)
        logging.getLogger().addHandler(handler)
        warnings.filterwarnings("ignore", module="kfp")  # that our image is not used here is what we want
        try:
            local.init(
                local.SubprocessRunner(use_venv=False),
                pipeline_root=str(log.parent / "kfp"),
                raise_on_error=True,
            )
            return faces_pipeline()(**arguments).output
        except RuntimeError:
            words = last_words.read_text() if last_words.exists() else "1 a step failed"
            status, _, sentence = words.partition(" ")
            message = f"{sentence}; all that the steps printed is in {log}"
            raise (UserError if status == "2" else RunError)(message) from None
        except KeyboardInterrupt:
            _wait_for_children(LEAVE_SECONDS)  # who got the Ctrl-C too, and save a checkpoint
            raise
        finally:
            logging.getLogger().removeHandler(handler)
            last_words.unlink(missing_ok=True)
            del os.environ[LAST_WORDS], os.environ[COMMAND]


def _wait_for_children(seconds: float) -> None:
    deadline = time.monotonic() + seconds
    with contextlib.suppress(ChildProcessError):  # there is none left
        while time.monotonic() < deadline:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.1)
