"""How every program of ours starts, speaks and ends: plain lines, and one sentence for a mistake."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from latentfaces.common.errors import RunError, UserError, printable

LOG_FORMAT = "%(asctime)s latentfaces: %(message)s"
TIME_FORMAT = "%H:%M:%S"

# A user sees our lines, not those of TensorFlow and gRPC; processes that we start inherit this.
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "GRPC_VERBOSITY": "NONE"}

THIS_MACHINE = ("localhost", "127.0.0.1", "::1")

# What TensorFlow's libraries say before they know of log levels; fatal messages (F0000) are not among it.
_GREETINGS = r"^(WARNING: All log messages before absl|[IWE][0-9]{4} |To enable the following instructions: )"

# Names a file, in which who started a program may read why it failed: the exit status and the sentence.
# Without it, Kubernetes reads the sentence from its own.
LAST_WORDS = "LATENTFACES_LAST_WORDS"
_LONGEST = 500  # characters that are told of an error that nobody expected
_TERMINATION_LOG = "/dev/termination-log"

# The process id of the command that runs a pipeline's components on this machine
COMMAND = "LATENTFACES_COMMAND"

logger = logging.getLogger(__name__)


def in_a_pod() -> bool:
    """Whether this process runs in a pod of a Kubernetes cluster."""
    return "KUBERNETES_SERVICE_HOST" in os.environ


def start_logging() -> None:
    """Sends our own lines to standard error, and of other libraries' only errors.

    Processes that this one starts import nothing from the working directory, which may be a downloaded
    folder, and no traffic to this machine goes to a proxy.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    os.environ["PYTHONSAFEPATH"] = "1"
    hosts = [*f"{os.environ.get('no_proxy', '')},{os.environ.get('NO_PROXY', '')}".split(","), *THIS_MACHINE]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(dict.fromkeys(filter(None, hosts)))
    logging.basicConfig(level=logging.ERROR, format=LOG_FORMAT, datefmt=TIME_FORMAT, force=True)
    logging.getLogger("latentfaces").setLevel(logging.INFO)
    # Importing Beam warns, through the root logger, that a BigQuery client is missing; nothing here uses it.
    logging.getLogger().addFilter(lambda record: "bigquery client libraries" not in record.getMessage())


@contextlib.contextmanager
def reporting() -> Iterator[None]:
    """Runs a program with our logging; a `UserError` ends it with status 2, a `RunError` with 1."""
    start_logging()
    if COMMAND in os.environ:
        end_with(int(os.environ.pop(COMMAND)))
    try:
        yield
    except (UserError, RunError) as error:
        _end(2 if isinstance(error, UserError) else 1, str(error))
    except OSError as error:
        place = error.filename or "a file"
        _end(
            1, f"{place} can't be read or written ({error.strerror or error}): check its disk and its rights"
        )
    except Exception as error:
        from google.api_core.exceptions import GoogleAPIError  # here: a program that ends well is spared it

        if not isinstance(error, GoogleAPIError):
            _leave_words(1, printable(f"{type(error).__name__}: {' '.join(str(error).split())[:_LONGEST]}"))
            raise
        reason = " ".join(str(error).split())
        _end(1, f"a bucket can't be read or written ({reason}): check its name and your rights")


def _end(status: int, sentence: str) -> NoReturn:
    """Ends the program; who started it shows its last words, or nobody did and they are shown here."""
    sentence = printable(sentence)
    if _leave_words(status, sentence):
        sys.exit(status)
    logger.error("error: %s", sentence)
    if in_a_pod():
        with contextlib.suppress(OSError):
            Path(_TERMINATION_LOG).write_text(sentence)
    sys.exit(status)


def _leave_words(status: int, sentence: str) -> bool:
    """Tells who started this program why it fails, and returns whether anyone asked."""
    if LAST_WORDS in os.environ:
        with contextlib.suppress(OSError):
            Path(os.environ[LAST_WORDS]).write_text(f"{status} {sentence}")
            return True
    return False


def end_with(pid: int) -> None:
    """Sends this process SIGTERM, after which it may save what it has, when that other process is gone."""

    def wait() -> None:
        with contextlib.suppress(OSError):
            select.select([os.pidfd_open(pid)], [], [])
        os.kill(os.getpid(), signal.SIGTERM)

    if hasattr(os, "pidfd_open"):  # Linux
        threading.Thread(target=wait, daemon=True).start()


def import_tensorflow() -> None:
    """Imports TensorFlow and Keras without their libraries' greetings, which come whatever the log level.

    What else is written meanwhile, such as the last words of a crash, is shown: another process filters it.
    Keras is set up as we need it, whatever environment and `~/.keras/keras.json` say.

    Raises:
        UserError: if this process has imported Keras with another backend.
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with subprocess.Popen(["grep", "-avE", _GREETINGS], stdin=subprocess.PIPE, stdout=saved) as filtering:
            assert filtering.stdin
            os.dup2(filtering.stdin.fileno(), 2)
            filtering.stdin.close()
            try:
                import keras
                import tensorflow  # noqa: F401
            finally:
                os.dup2(saved, 2)
    finally:
        os.close(saved)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    if keras.config.backend() != "tensorflow":
        raise UserError(
            f"Keras was imported with the backend {keras.config.backend()}: set KERAS_BACKEND=tensorflow"
        )
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    keras.config.set_epsilon(1e-7)
