"""How every step speaks, here and on a cluster: plain lines, and one sentence for a mistake."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator

from preprocessing.errors import UserError

LOG_FORMAT = "%(asctime)s latentfaces: %(message)s"
TIME_FORMAT = "%H:%M:%S"

# A user sees our lines, not those of TensorFlow and gRPC; processes that we start inherit this.
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "GRPC_VERBOSITY": "NONE"}


class StepError(Exception):
    """A step failed, and not by a mistake of the user's: its message is shown and the exit status is 1."""


def start_logging() -> None:
    """Sends our own lines to standard error, and of other libraries' only errors."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logging.basicConfig(level=logging.ERROR, format=LOG_FORMAT, datefmt=TIME_FORMAT, force=True)
    logging.getLogger("latentfaces").setLevel(logging.INFO)


@contextlib.contextmanager
def reporting() -> Iterator[None]:
    """Runs a step with our logging; a `UserError` ends the program with status 2, a `StepError` with 1."""
    start_logging()
    try:
        yield
    except (UserError, StepError) as error:
        logging.getLogger("latentfaces").error("error: %s", error)
        sys.exit(2 if isinstance(error, UserError) else 1)


def import_tensorflow() -> None:
    """Imports TensorFlow with standard error closed, on which its libraries greet whatever the log level."""
    sys.stderr.flush()
    saved = os.dup(2)
    with open(os.devnull, "wb") as null:
        os.dup2(null.fileno(), 2)
    try:
        import tensorflow  # noqa: F401
    finally:
        os.dup2(saved, 2)
        os.close(saved)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
