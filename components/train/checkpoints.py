"""Checkpoints that are whole or not there: networks, optimizers and the step."""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from latentfaces.common import storage
from latentfaces.common.errors import RunError, UserError
from latentfaces.common.storage import AnyPath

logger = logging.getLogger(__name__)

_KEEP = 3
_LOSSES = "losses.npy"
_NAME = re.compile(r"[0-9]{8,}")
_NO_LOSSES = np.empty((0, 0))


class Checkpoints:
    """The checkpoints of one run, one folder a step, in `folder` (local or a bucket).

    A checkpoint is written beside its final name and renamed; in a bucket, its file `done` is written last.
    All random numbers follow from the seed and the step, so there is no other state than the losses that wait
    for their row of the history.

    Args:
        folder: where the checkpoints lie.
        state: what is saved, name to trackable object.
        losses: how many a step has.
    """

    def __init__(self, folder: AnyPath, state: dict[str, object], losses: int) -> None:
        self._folder = folder
        self._losses = losses
        self._checkpoint = tf.train.Checkpoint(**state)

    def _steps(self) -> list[int]:
        """The steps of the whole checkpoints, newest first."""
        if not self._folder.exists():
            return []
        folders = [path for path in self._folder.iterdir() if _NAME.fullmatch(path.name)]
        done = [path for path in folders if (path / "done").exists()]
        return sorted((int(path.name) for path in done), reverse=True)

    def save(self, step: int, losses: np.ndarray) -> None:
        """Writes the checkpoint of that step and removes all but the newest three.

        Args:
            step: steps done.
            losses: of the steps that are not in the history yet, float64 [steps, losses].

        Raises:
            RunError: if it can't be written; those before it are whole.
        """
        try:
            self._save(step, losses)
        except (OSError, tf.errors.OpError) as error:
            reason = str(error).splitlines()[0].rpartition("; ")[2].partition(" [Op")[0]
            raise RunError(
                f"the checkpoint of step {step} can't be written to {self._folder} ({reason}): make room "
                "there and give the same command again; the checkpoints before it are whole"
            ) from error
        for old in self._steps()[_KEEP:]:
            path = self._folder / f"{old:08d}"
            (path / "done").unlink()
            shutil.rmtree(path) if isinstance(path, Path) else path.rmtree()

    def _save(self, step: int, losses: np.ndarray) -> None:
        target = self._folder / f"{step:08d}"
        if isinstance(target, Path):
            for left in self._folder.glob(".*.part"):  # by a process that was killed
                shutil.rmtree(left)
            part = target.with_name(f".{target.name}.part")
            self._write(part, losses)
            (part / "done").touch()
            for file in part.iterdir():
                storage.sync(file)
            storage.sync(part)
            shutil.rmtree(target, ignore_errors=True)
            part.rename(target)
            storage.sync(self._folder)
        else:
            with tempfile.TemporaryDirectory() as name:
                self._write(Path(name), losses)
                for file in list(Path(name).iterdir()):
                    storage.publish(file, target / file.name)
            storage.write(target / "done", b"")

    def _write(self, folder: Path, losses: np.ndarray) -> None:
        self._checkpoint.write(str(folder / "state"))
        np.save(folder / _LOSSES, losses)

    def restore(self) -> tuple[int, np.ndarray]:
        """Restores the newest checkpoint that can be read.

        Returns:
            Its step and the losses it was saved with, or 0 and none if there is no checkpoint.

        Raises:
            UserError: if there are checkpoints and none can be read.
        """
        steps = self._steps()
        for step in steps:
            try:
                return step, self.restore_step(step)
            # TensorFlow raises IndexError for a file that ends early, NumPy EOFError
            except (tf.errors.OpError, IndexError, EOFError, AssertionError, ValueError, OSError) as error:
                reason = str(error).splitlines()[0]
                logger.warning(
                    "the checkpoint of step %d can't be read (%s): trying the one before", step, reason
                )
        if steps:
            raise UserError(f"no checkpoint in {self._folder} can be read: remove that folder to start again")
        return 0, _NO_LOSSES

    def restore_step(self, step: int) -> np.ndarray:
        """Restores the checkpoint of that step, or nothing for step 0; returns the losses saved with it.

        Raises:
            tf.errors.OpError, IndexError, EOFError, AssertionError, ValueError or OSError: if it is damaged.
        """
        if not step:
            return _NO_LOSSES
        with tempfile.TemporaryDirectory() as name:
            files = self._folder / f"{step:08d}"
            if not isinstance(files, Path):
                files.download_to(name)
                files = Path(name)
            losses = np.load(files / _LOSSES, allow_pickle=False)
            if losses.size and losses.shape[1:] != (self._losses,) or losses.dtype != np.float64:
                raise ValueError(f"{_LOSSES} has another shape")
            self._checkpoint.read(str(files / "state")).assert_existing_objects_matched()
            return losses
