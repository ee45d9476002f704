"""One worker's TensorFlow: `python -m components.train.worker GANG`, started by its member."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator

from components.step import import_tensorflow, reporting
from components.train.config import TrainConfig
from components.train.gang import OWN_ERROR, PEER_LOST, Gang, end_with_parent
from preprocessing import storage

logger = logging.getLogger("latentfaces")


@contextlib.contextmanager
def peers_watched() -> Iterator[None]:
    """Ends the program with status 75 when TensorFlow finds that another worker is lost.

    A worker that went away is `UnavailableError`, one that came back before it was missed `AbortedError`, and
    one that was frozen itself sees `DeadlineExceededError`. A port that another program took is no one's
    error either.
    """
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        is_lost = isinstance(
            error, tf.errors.UnavailableError | tf.errors.AbortedError | tf.errors.DeadlineExceededError
        )
        if not is_lost and "Could not start gRPC server" not in error.message:
            raise
        logger.warning("TensorFlow lost a peer: %s", error.message.splitlines()[0])
        sys.exit(PEER_LOST)


def main() -> None:
    """Trains what `config.json` in the folder says, as the worker that `TF_CONFIG` names."""
    end_with_parent()
    gang = Gang.from_json(sys.argv[1])
    with reporting():
        import_tensorflow()

        from components.train.loop import train

        folder = storage.resolve(gang.folder)
        config = TrainConfig.from_json((folder / "config.json").read_text())
        with peers_watched():
            train(
                config,
                folder,
                log_steps=gang.log_steps,
                checkpoint_steps=gang.checkpoint_steps,
                checkpoint_minutes=gang.checkpoint_minutes,
                on_progress=lambda: os.write(0, b"."),
            )


if __name__ == "__main__":
    status: int = 0
    try:
        main()
    except SystemExit as stop:
        status = int(stop.code or 0)
    except BaseException:
        logger.exception("worker failed")
        status = OWN_ERROR
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # TensorFlow's teardown would wait for peers that may be gone
