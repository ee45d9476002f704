"""How every program of ours starts, speaks and ends: plain lines, and one sentence for a mistake."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from latentfaces.common.errors import RunError, UserError

LOG_FORMAT = "%(asctime)s latentfaces: %(message)s"
TIME_FORMAT = "%H:%M:%S"

# A user sees our lines, not those of TensorFlow and gRPC; processes that we start inherit this.
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "GRPC_VERBOSITY": "NONE"}

# What TensorFlow's libraries say before they know of log levels; fatal messages (F0000) are not among it.
_GREETINGS = r"^(WARNING: All log messages before absl|[IWE][0-9]{4} |To enable the following instructions: )"

# Names a file for a program's last words; who started it may read there why it failed.
TERMINATION_LOG = "LATENTFACES_TERMINATION_LOG"

logger = logging.getLogger(__name__)


def start_logging() -> None:
    """Sends our own lines to standard error, and of other libraries' only errors."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logging.basicConfig(level=logging.ERROR, format=LOG_FORMAT, datefmt=TIME_FORMAT, force=True)
    logging.getLogger("latentfaces").setLevel(logging.INFO)
    # Importing Beam warns, through the root logger, that a BigQuery client is missing; nothing here uses it.
    logging.getLogger().addFilter(lambda record: "bigquery client libraries" not in record.getMessage())


@contextlib.contextmanager
def reporting() -> Iterator[None]:
    """Runs a program with our logging; a `UserError` ends it with status 2, a `RunError` with 1."""
    start_logging()
    try:
        yield
    except (UserError, RunError) as error:
        logger.error("error: %s", error)
        status = 2 if isinstance(error, UserError) else 1
        with contextlib.suppress(OSError):
            Path(os.environ.get(TERMINATION_LOG, os.devnull)).write_text(f"{error} (exit status {status})")
        sys.exit(status)


def import_tensorflow() -> None:
    """Imports TensorFlow without its libraries' greetings, which they write whatever the log level.

    What else is written meanwhile, such as the last words of a crash, is shown: another process filters it.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with subprocess.Popen(["grep", "-vE", _GREETINGS], stdin=subprocess.PIPE, stdout=saved) as filtering:
            assert filtering.stdin
            os.dup2(filtering.stdin.fileno(), 2)
            filtering.stdin.close()
            try:
                import tensorflow  # noqa: F401
            finally:
                os.dup2(saved, 2)
    finally:
        os.close(saved)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
