"""Checkpoints that are whole or not there: networks, optimizers and the step."""

from __future__ import annotations

import logging
import shutil
import tempfile
from pathlib import Path

import tensorflow as tf
from cloudpathlib import CloudPath

logger = logging.getLogger("latentfaces")

_KEEP = 3


class Checkpoints:
    """The checkpoints of one run, one folder a step, in `folder` (local or a bucket).

    A checkpoint is written beside its final name and renamed; in a bucket, its file `done` is written last.
    All random numbers follow from the seed and the step, so there is no other state.

    Args:
        folder: where the checkpoints lie.
        state: what is saved, name to trackable object.
    """

    def __init__(self, folder: Path | CloudPath, state: dict[str, object]) -> None:
        self._folder = folder
        self._checkpoint = tf.train.Checkpoint(**state)

    def _steps(self) -> list[int]:
        """The steps of the whole checkpoints, newest first."""
        if not self._folder.exists():
            return []
        done = [path for path in self._folder.iterdir() if path.name.isdigit() and (path / "done").exists()]
        return sorted((int(path.name) for path in done), reverse=True)

    def save(self, step: int) -> None:
        """Writes the checkpoint of that step and removes all but the newest three."""
        with tempfile.TemporaryDirectory() as name:
            files = Path(name) / "checkpoint"
            self._checkpoint.write(str(files / "state"))
            target = self._folder / f"{step:08d}"
            if isinstance(target, Path):
                part = target.with_name(f".{target.name}.part")
                shutil.rmtree(part, ignore_errors=True)
                shutil.copytree(files, part)
                (part / "done").touch()
                shutil.rmtree(target, ignore_errors=True)
                part.rename(target)
            else:
                for file in files.iterdir():
                    (target / file.name).upload_from(file)
                (target / "done").write_text("")
        for old in self._steps()[_KEEP:]:
            path = self._folder / f"{old:08d}"
            (path / "done").unlink()
            shutil.rmtree(path) if isinstance(path, Path) else path.rmtree()

    def restore(self) -> int:
        """Restores the newest checkpoint that can be read and returns its step, or 0 if there is none."""
        for step in self._steps():
            with tempfile.TemporaryDirectory() as name:
                files = self._folder / f"{step:08d}"
                if isinstance(files, CloudPath):
                    files.download_to(name)
                    files = Path(name)
                try:
                    self._checkpoint.read(str(files / "state")).assert_existing_objects_matched()
                    return step
                # TensorFlow's reader raises IndexError for a file that ends early, OpError for other damage
                except (tf.errors.OpError, IndexError, AssertionError, ValueError) as error:
                    reason = str(error).splitlines()[0]
                    logger.warning(
                        "Checkpoint of step %d can't be read (%s): trying the one before.", step, reason
                    )
        return 0
