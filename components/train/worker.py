"""One worker of a gang: `python -m components.train.worker FOLDER LOG_STEPS CHECKPOINT_STEPS THREADS`."""

from __future__ import annotations

import logging
import os
import sys

from components.step import import_tensorflow, reporting
from components.train.config import TrainConfig
from preprocessing import storage


def main() -> None:
    """Trains what `config.json` in the folder says, as the worker that `TF_CONFIG` names."""
    folder, log_steps, checkpoint_steps, threads = sys.argv[1:]
    with reporting():
        import_tensorflow()
        import tensorflow as tf

        from components.train.loop import train

        tf.config.threading.set_intra_op_parallelism_threads(int(threads))
        path = storage.resolve(folder)
        config = TrainConfig.from_json((path / "config.json").read_text())
        train(config, path, log_steps=int(log_steps), checkpoint_steps=int(checkpoint_steps))


if __name__ == "__main__":
    status: int = 0
    try:
        main()
    except SystemExit as stop:
        status = int(stop.code or 0)
    except BaseException:
        logging.getLogger("latentfaces").exception("worker failed")
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # TensorFlow's teardown would wait for peers that may be gone
