"""What one sees of a run while it trains: progress, `history.csv`, sample pictures and TensorBoard."""

from __future__ import annotations

import csv
import io
import logging
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
from cloudpathlib import CloudPath
from tqdm import tqdm

from components.evaluate.distances import diversity
from components.evaluate.pictures import grid, in_rows, png, to_float
from components.train.config import TrainConfig
from preprocessing import storage

logger = logging.getLogger("latentfaces")

_LINE_SECONDS = 10  # between two lines of progress in a log
_DIVERSE = 0.5  # the share of real images' diversity below which samples are called alike


class Monitor:
    """Shows and records a run; only the chief has one.

    Args:
        config: of the run.
        folder: the model folder, local or in a bucket.
        first_step: the step at which this process begins; later rows of an earlier attempt are dropped.
        real_images: uint8 [N, H, W, C], whose diversity the samples should have.
    """

    def __init__(
        self, config: TrainConfig, folder: Path | CloudPath, first_step: int, real_images: np.ndarray
    ) -> None:
        self._config = config
        self._folder = folder
        self._rows = [row for row in read_history(folder) if int(row["step"]) <= first_step]
        self._seconds = float(self._rows[-1]["seconds"]) if self._rows else 0.0
        self._logs = Path(tempfile.mkdtemp(prefix="latentfaces-logs-"))
        self._writer = tf.summary.create_file_writer(str(self._logs))
        self._latents = np.random.default_rng(config.seed).standard_normal((64, config.latent_dim))
        self._real_diversity = diversity(to_float(real_images))
        self._start = self._lap = self._line = time.monotonic()
        self._step = first_step
        self._bar = tqdm(
            total=config.steps,
            initial=first_step,
            unit="step",
            desc=config.model.upper(),
            disable=not sys.stderr.isatty(),
            mininterval=0.5,
        )

    def diversity_ratio(self, step: int, images: np.ndarray) -> float:
        """Returns the diversity of samples, floats in [0, 1], [N, H, W, C], beside that of real images.

        Warns when it falls below a half, or has not reached it halfway through the run: a sign of mode
        collapse, the same picture for many latents.
        """
        ratio = diversity(images) / self._real_diversity if self._real_diversity else 1.0
        before = float(self._rows[-1]["diversity_ratio"]) if self._rows else 0.0
        is_halfway = self._step < self._config.steps / 2 <= step
        if ratio < _DIVERSE and (before >= _DIVERSE or is_halfway):
            logger.warning(
                "Samples are alike, a sign of mode collapse: they differ %.2f times as much as real images. "
                "Look at samples/; another seed, a lower learning rate or more dropout may help.",
                ratio,
            )
        return ratio

    def log(self, step: int, epoch: float, losses: dict[str, float]) -> None:
        """Records the mean losses since the last call and what else was measured after so many steps."""
        now = time.monotonic()
        rate = (step - self._step) / (now - self._lap)
        seconds = self._seconds + now - self._start
        self._rows.append({"step": step, "epoch": f"{epoch:.4f}", "seconds": f"{seconds:.3f}", **losses})
        with self._writer.as_default(step):
            for name, loss in losses.items():
                tf.summary.scalar(name, loss)
            tf.summary.scalar("images_per_second", rate * self._config.batch_size)
        shown = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
        self._bar.set_postfix_str(f"{rate * self._config.batch_size:.0f} images/s, {shown}", refresh=False)
        self._bar.update(step - self._bar.n)
        if self._bar.disable and (now - self._line >= _LINE_SECONDS or step == self._config.steps):
            self._line = now
            left = tqdm.format_interval((self._config.steps - step) / rate)
            logger.info(
                "%s step %d of %d, epoch %.1f: %.1f steps/s, %.0f images/s, %s left, %s",
                self._config.model.upper(),
                step,
                self._config.steps,
                epoch,
                rate,
                rate * self._config.batch_size,
                left,
                shown,
            )
        self._lap, self._step = now, step

    def picture(self, step: int, epoch: int, images: np.ndarray) -> None:
        """Writes the samples of the fixed latents, floats in [0, 1], [64, H, W, C], after an epoch."""
        picture = grid(in_rows(images, columns=8))
        storage.write(self._folder / "samples" / f"epoch-{epoch:04d}.png", png(picture))
        with self._writer.as_default(step):
            tf.summary.image("samples", np.asarray(picture.convert("RGB"))[None])

    @property
    def latents(self) -> np.ndarray:
        """The latents of the sample pictures, float64 [64, latent_dim], the same in every epoch."""
        return self._latents

    def save(self) -> None:
        """Writes `history.csv` and the TensorBoard logs."""
        self._writer.flush()
        if self._rows:
            text = io.StringIO()
            writer = csv.DictWriter(text, self._rows[-1].keys(), lineterminator="\n")
            writer.writeheader()
            writer.writerows(self._rows)
            storage.write(self._folder / "history.csv", text.getvalue().encode())
        for file in self._logs.iterdir():
            storage.write(self._folder / "logs" / file.name, file.read_bytes())

    def close(self) -> None:
        """Writes what is left and ends the progress bar."""
        self.save()
        self._bar.close()
        self._writer.close()
        shutil.rmtree(self._logs)


def read_history(folder: Path | CloudPath) -> list[dict[str, str]]:
    """Returns the rows of `history.csv` in a model folder, or none where there is none."""
    file = folder / "history.csv"
    return list(csv.DictReader(io.StringIO(file.read_text()))) if file.exists() else []
