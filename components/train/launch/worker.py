"""One worker's TensorFlow, started by its agent: `python -m ….worker GROUP`."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator

from latentfaces.common import storage
from latentfaces.common.errors import RunError
from latentfaces.common.model_folder import read_config
from latentfaces.common.program import import_tensorflow, reporting
from latentfaces.components.train.launch import OWN_ERROR, PEER_LOST, WorkerGroup
from latentfaces.components.train.launch.processes import end_with_parent

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def _failures_told() -> Iterator[None]:
    """Ends the program with status 75 when TensorFlow finds that another worker is lost.

    A worker that went away is `UnavailableError`, one that came back before it was missed `AbortedError`, and
    one that was frozen itself sees `DeadlineExceededError`. A port that another program took is no one's
    error either.

    Raises:
        RunError: if memory or the disk is full.
    """
    from tensorflow import errors

    try:
        yield
    except errors.OpError as error:
        lost = (errors.UnavailableError, errors.AbortedError, errors.DeadlineExceededError)
        said = error.message.splitlines()[0]
        if not isinstance(error, lost) and "Could not start gRPC server" not in error.message:
            if isinstance(error, errors.ResourceExhaustedError | errors.PermissionDeniedError):
                raise RunError(f"TensorFlow stopped: {said}") from error
            raise
        logger.warning("TensorFlow lost a peer: %s", said)
        sys.exit(PEER_LOST)


def main() -> None:
    """Trains what `config.json` in the folder says, as the worker that `TF_CONFIG` names, and exits."""
    end_with_parent()
    status = 0
    try:
        group = WorkerGroup.from_json(sys.argv[1])
        with reporting():
            import_tensorflow()

            from latentfaces.components.train.loop import train

            folder = storage.resolve(group.folder)
            with _failures_told():
                train(read_config(folder), group.run, folder, on_progress=lambda: os.write(0, b"."))
    except SystemExit as stop:
        status = int(stop.code or 0)
    except BaseException:
        logger.exception("worker failed")
        status = OWN_ERROR
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # TensorFlow's teardown would wait for peers that may be gone


if __name__ == "__main__":
    from latentfaces.components.train.launch import worker  # under its own name, which its logger has

    worker.main()
