"""What one sees of a run while it trains: progress, `history.csv`, TensorBoard, samples (listing 12.37)."""

from __future__ import annotations

import csv
import io
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from latentfaces.common import storage
from latentfaces.common.config import TrainConfig
from latentfaces.common.errors import UserError
from latentfaces.common.images import diversity, to_float
from latentfaces.common.model_folder import DIVERSE, read_history
from latentfaces.common.models import find_model
from latentfaces.common.pictures import grid, in_rows, png
from latentfaces.common.progress import Progress
from latentfaces.common.storage import AnyPath

logger = logging.getLogger(__name__)

_SAMPLES, _FEW_SAMPLES = 64, 16  # shown in pictures, and measured with every row of the history


class Monitor:
    """Shows and records a run; only the chief has one.

    Args:
        config: of the run.
        folder: the model folder, local or in a bucket.
        first_step: the step at which this process begins; later rows of an earlier attempt are dropped.
        real_images: uint8 [N, H, W, C], whose diversity the samples should have.
    """

    def __init__(
        self, config: TrainConfig, folder: AnyPath, first_step: int, real_images: np.ndarray
    ) -> None:
        self._config = config
        self._folder = folder
        self._rows: list[dict[str, Any]] = [
            row for row in read_history(folder) if int(row["step"]) <= first_step
        ]
        expected = {
            "step",
            "epoch",
            "seconds",
            *find_model(config.model, config.preset).loss_names,
            "diversity_ratio",
        }
        if self._rows and not expected <= self._rows[0].keys():
            raise UserError(
                f"{folder / 'history.csv'} has other columns than this run writes: remove it, and go on "
                "without the losses so far"
            )
        self._seconds = float(self._rows[-1]["seconds"] or 0) if self._rows else 0.0
        self._scratch = tempfile.TemporaryDirectory(prefix="latentfaces-logs-")
        self._logs = Path(self._scratch.name)
        self._writer = tf.summary.create_file_writer(str(self._logs))
        self._latents = np.random.default_rng(config.seed).standard_normal((_SAMPLES, config.latent_dim))
        self._real_diversity = diversity(to_float(real_images))
        self._start = self._lap = time.monotonic()
        self._step = first_step
        logger.info("after each epoch, samples to look at come into %s", folder / "samples")
        self._progress = Progress(find_model(config.model).title, config.steps, "steps", done=first_step)

    def diversity_ratio(self, step: int, images: np.ndarray) -> float:
        """Returns the diversity of samples, floats in [0, 1], [N, H, W, C], beside that of real images.

        Warns when it falls below a half, or has not reached it halfway through the run: a sign of mode
        collapse, the same picture for many latents.
        """
        ratio = diversity(images) / self._real_diversity if self._real_diversity else 1.0
        before = float(self._rows[-1]["diversity_ratio"]) if self._rows else 0.0
        is_halfway = self._step < self._config.steps / 2 <= step
        if ratio < DIVERSE and (before >= DIVERSE or is_halfway):
            logger.warning(
                "samples are alike, a sign of mode collapse: they differ %.2f times as much as real images; "
                "look at samples/: more steps may help, or another seed, and a GAN a lower learning rate",
                ratio,
            )
        return ratio

    def log(self, step: int, epoch: float, losses: dict[str, float]) -> None:
        """Records the mean losses since the last call and what else was measured after so many steps."""
        now = time.monotonic()
        images_per_second = (step - self._step) / (now - self._lap) * self._config.batch_size
        seconds = self._seconds + now - self._start
        self._rows.append({"step": step, "epoch": f"{epoch:.4f}", "seconds": f"{seconds:.3f}", **losses})
        with self._writer.as_default(step):
            for name, loss in losses.items():
                tf.summary.scalar(name, loss)
            tf.summary.scalar("images_per_second", images_per_second)
        shown = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
        self._progress.show(step, f"epoch {epoch:.1f}, {images_per_second:,.0f} images/s, {shown}")
        self._lap, self._step = now, step

    def picture(self, step: int, epoch: int, images: np.ndarray) -> None:
        """Writes the samples of the fixed latents, floats in [0, 1], [64, H, W, C], after an epoch."""
        picture = grid(in_rows(images, columns=8))
        storage.write(self._folder / "samples" / f"epoch-{epoch:04d}.png", png(picture))
        with self._writer.as_default(step):
            tf.summary.image("samples", np.asarray(picture.convert("RGB"))[None])

    def show_finished(self, step: int, epoch: int, images: np.ndarray) -> None:
        """Shows and measures samples of the networks as they are saved, in place of the last ones."""
        self.picture(step, epoch, images)
        if self._rows:
            self._rows[-1]["diversity_ratio"] = self.diversity_ratio(step, images[:_FEW_SAMPLES])

    @property
    def latents(self) -> np.ndarray:
        """The latents of the sample pictures, float64 [64, latent_dim], the same in every epoch."""
        return self._latents

    @property
    def few_latents(self) -> np.ndarray:
        """The first 16 of them, by which diversity is measured."""
        return self._latents[:_FEW_SAMPLES]

    def save(self) -> None:
        """Writes `history.csv` and the TensorBoard logs."""
        self._writer.flush()
        if self._rows:
            text = io.StringIO()
            writer = csv.DictWriter(text, self._rows[-1], extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(self._rows)
            storage.write(self._folder / "history.csv", text.getvalue().encode())
        for file in self._logs.iterdir():
            storage.write(self._folder / "logs" / file.name, file.read_bytes())

    def end(self) -> None:
        """Ends the progress bar, after the last step."""
        self._progress.close()

    def close(self) -> None:
        """Writes what is left and ends the progress bar."""
        self.save()
        self.end()
        self._writer.close()
        self._scratch.cleanup()
