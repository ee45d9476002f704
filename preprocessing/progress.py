"""How far a job is, and how it went: every finished shard leaves a summary; these are collected and shown."""

import contextlib
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from latentfaces.common import storage
from latentfaces.common.dataset import Dataset, Shard, add_checksum
from latentfaces.common.progress import Progress
from latentfaces.common.storage import AnyPath
from latentfaces.preprocessing.commit import write
from latentfaces.preprocessing.plan import PlannedShard

logger = logging.getLogger(__name__)


def write_summary(
    job_folder: AnyPath, planned: PlannedShard, shard: Shard, refused: list[tuple[str, str]]
) -> None:
    """Tells that a shard is finished, and which of its inputs were refused: (name, reason) of each."""
    inputs = len(planned.images)
    summary = {"split": planned.split, "shard": vars(shard), "inputs": inputs, "refused": refused}
    target = job_folder / f"{planned.name}.json"
    write(job_folder, target, json.dumps(summary).encode(), lasting=False)  # no longer than the job


class Summaries:
    """The finished shards' summaries, collected from the job's folder.

    A shard that is collected is also made to last through a power cut: meanwhile, others are written.

    Attributes:
        shards: (split, shard) of each.
        inputs: How many inputs were theirs.
        refused: (name, reason) of each that was refused.
    """

    def __init__(self, job_folder: AnyPath) -> None:
        self._folder = job_folder
        self._seen: set[str] = set()
        self._failure: OSError | None = None  # which a disk tells once
        self.shards: list[tuple[str, Shard]] = []
        self.inputs = 0
        self.refused: list[tuple[str, str]] = []

    def update(self) -> None:
        """Reads the summaries that are new; raises `OSError` if a storage fails."""
        if self._failure:
            raise self._failure
        for name in list(storage.list_files(self._folder)):
            if name.endswith(".tfrecord.json") and name not in self._seen:
                summary = json.loads(storage.read(self._folder / name))
                shard = Shard(**summary["shard"])
                try:
                    storage.sync(self._folder / add_checksum(shard.name, shard.sha256))
                except OSError as error:
                    self._failure = error
                    raise
                self.shards.append((summary["split"], shard))
                self.inputs += summary["inputs"]
                self.refused += [(source, reason) for source, reason in summary["refused"]]
                self._seen.add(name)


@contextlib.contextmanager
def shown(summaries: Summaries, inputs: int, console: Console) -> Iterator[None]:
    """Shows a progress bar during the block, at whose end the summaries are complete."""
    over = threading.Event()
    with Progress("preprocess", inputs, "images", console=console) as progress:

        def show() -> None:
            summaries.update()
            progress.show(summaries.inputs, f"{len(summaries.refused):,} refused")

        def watch() -> None:
            pause = 0.5
            while not over.wait(pause):
                looked = time.monotonic()
                try:
                    show()
                except Exception as error:  # it must not end the job; the driver reads them all once more
                    logger.debug("no progress to show: %s", error)
                pause = max(0.5, 10 * (time.monotonic() - looked))  # a slow storage is asked less often

        watcher = threading.Thread(target=watch, name="progress", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()
        show()


def show_result(
    dataset: Dataset, refused: list[tuple[str, str]], inputs: int, seconds: float, console: Console
) -> None:
    """Shows the closing table: splits, shards, bytes, refusals by reason, and the rate over `seconds`."""
    table = Table(title=f"{'×'.join(map(str, dataset.image_shape))} data set")
    table.add_column("")
    for heading in ("examples", "shards", "MiB"):
        table.add_column(heading, justify="right")
    for name, split in dataset.splits.items():
        size = sum(shard.bytes for shard in split.shards) / (1 << 20)
        table.add_row(name, f"{split.examples:,}", str(len(split.shards)), f"{size:,.1f}")
    reasons = Counter(reason.split(":", 1)[0] for _, reason in refused)
    for reason, count in reasons.most_common():
        table.add_row(f"refused: {reason}", f"{count:,}")
    console.print(table)
    console.print(
        f"{inputs:,} inputs in {seconds:,.1f} s, {inputs / seconds:,.0f} images/s, start-up included"
    )
