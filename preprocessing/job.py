"""The Beam job: one unit of work is one output shard, read, resized and written by one worker.

No pixel leaves the worker that decoded it, so there is nothing to shuffle and memory does not grow with the
data. What the engine passes around is where, in the plan, each shard's inputs are named:

    look through the source → plan → [ Beam: write a shard, then its summary ] × shards → commit

While it runs, `.job-<id>` in the output folder holds the plan, unfinished shards and a summary (counts,
checksum, refusals) of each finished one. The driver reads the summaries to show progress and, when the engine
says that all is done, to write `rejected.jsonl` and then `dataset.json`. A shard's bytes depend on the input
and the options alone, so an engine may try a shard twice, or twice at once: files get their name when they
are complete. A job that was killed leaves no `dataset.json`; the next one to the same output deletes what it
left, and from then on a straggler of the dead job finds its plan gone and can write nothing.
"""

import contextlib
import gc
import io
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import threading
import time
import uuid
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import apache_beam as beam
import cv2
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
from apache_beam.runners.runner import create_runner
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from preprocessing import sources, storage
from preprocessing.dataset import (
    SPLITS,
    Dataset,
    Shard,
    ShardWriter,
    encode_example,
    make_splits,
    shard_name,
    write_dataset,
)
from preprocessing.errors import UserError
from preprocessing.resize import RefusedImage, decode, smart_resize
from preprocessing.storage import AnyPath

MAX_IMAGE_SIZE = 4096
_SHARD_BYTES = 128 << 20  # of pixels, at most
_SHARD_EXAMPLES = 2500  # at most, so that a retry costs seconds and many workers have something to do
_PARALLEL_SHARDS = 16  # a split has at least so many ...
_PARALLEL_EXAMPLES = 64  # ... where each then has this many examples

_JOB_FOLDER = re.compile(r"\.job-[0-9a-f]{32}")
_SHARD_FILE = re.compile(rf"({'|'.join(SPLITS)})-\d{{5}}-of-\d{{5}}\.tfrecord")
_PORTABLE_RUNNERS = {"portablerunner", "flinkrunner", "sparkrunner"}
_PLAN = "plan.jsonl"


def run(
    source: str,
    output: str,
    image_size: int = 64,
    channels: int = 3,
    max_rejected: float = 0.01,
    attributes: str | None = None,
    partition: str | None = None,
    examples_per_shard: int | None = None,
    beam_args: Sequence[str] = (),
    console: Console | None = None,
) -> Dataset:
    """Makes a data set from images.

    Args:
        source: CelebA as distributed, a folder of images, or a zip of either; local or `gs://`.
        output: The data set's folder, local or `gs://`; an earlier data set there is replaced.
        image_size: Height and width of the results in pixels.
        channels: 1 for grey, 3 for RGB.
        max_rejected: Share of the inputs that may be refused.
        attributes: Label file, where it does not lie beside the images.
        partition: Partition file, likewise.
        examples_per_shard: At most so many examples a shard; by default 2,500, fewer for large images.
        beam_args: Beam's own options; by default the job runs on all cores of this machine.
        console: Where progress and the closing table are shown; by default standard error.

    Returns:
        What has been written to `dataset.json`.

    Raises:
        UserError: An option or the source is wrong (before any work), or too many inputs were refused (after
            `rejected.jsonl` was written; there is then no `dataset.json`).
    """
    console = console or Console(stderr=True)
    _check_options(image_size, channels, max_rejected, examples_per_shard)
    images_path, output_path = storage.resolve(source), storage.resolve(output)
    if storage.contains(images_path, output_path):
        raise UserError(f"the output {output} lies in the source {source}: write it to another folder")
    options = _pipeline_options(beam_args)  # wrong options are told before the source is looked through

    found = sources.find(source, attributes, partition)
    job = f".job-{uuid.uuid4().hex}"
    started = time.monotonic()
    summaries = _Summaries(output_path / job)
    committed: set[str] = set()
    try:
        _make_folder(output_path, job)
        storage.delete(output_path / "dataset.json")
        _sweep(output_path, keep={job})
        plan = _plan(found, image_size * image_size * channels, examples_per_shard)
        units = _write_plan(output_path / job / _PLAN, plan)
        inputs = sum(len(split) for split in found.splits.values())
        refused, names = found.refused, found.attribute_names
        write_shard = WriteShard(
            images=str(found.images),
            is_zip=found.is_zip,
            output=str(output_path),
            job=job,
            attributes=len(names),
            image_size=image_size,
            channels=channels,
        )
        del found, plan  # from here on the driver's memory does not depend on the data
        with _progress(console, summaries, inputs):
            _run_pipeline(options, units, write_shard, console)
        if len(summaries.shards) != len(units):
            raise RuntimeError(
                f"the engine ended with {len(summaries.shards)} of {len(units)} shards written"
            )
        dataset = Dataset(
            image_shape=(image_size, image_size, channels),
            attribute_names=names,
            splits=make_splits(summaries.shards),
            rejected=len(refused) + len(summaries.refused),
            source=str(source),
        )
        _commit(output_path, dataset, refused + summaries.refused, max_rejected)
        committed = {shard.name for _, shard in summaries.shards}
    finally:
        _sweep(output_path, keep=committed)
    _show(console, dataset, refused + summaries.refused, time.monotonic() - started)
    return dataset


def _check_options(
    image_size: int, channels: int, max_rejected: float, examples_per_shard: int | None
) -> None:
    if not 1 <= image_size <= MAX_IMAGE_SIZE:
        raise UserError(f"--image-size {image_size} is not between 1 and {MAX_IMAGE_SIZE}")
    if channels not in (1, 3):
        raise UserError(f"--channels {channels}: choose 1 (grey) or 3 (RGB)")
    if not 0 <= max_rejected <= 1:
        raise UserError(f"--max-rejected {max_rejected} is not a share between 0 and 1")
    if examples_per_shard is not None and examples_per_shard < 1:
        raise UserError(f"--examples-per-shard {examples_per_shard}: a shard holds at least one example")


def _pipeline_options(beam_args: Sequence[str]) -> PipelineOptions:
    """Parses Beam's options and chooses the runner.

    Without `--runner`, and for `DirectRunner`, it is Beam's FnApiRunner on all cores: the DirectRunner would
    try to download and start another one (Prism), which ignores the number of workers.
    """
    for previous, argument in zip(("", *beam_args), beam_args, strict=False):
        if not argument.startswith("-") and (not previous.startswith("-") or "=" in previous):
            raise UserError(f"{argument!r} is no option of Beam's: write --name=value")
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages), _quiet_beam(logging.ERROR):
            options = PipelineOptions(list(beam_args))
            runner = (options.view_as(StandardOptions).runner or "DirectRunner").rsplit(".", 1)[-1].lower()
            if runner in ("dask", "daskrunner"):
                options.view_as(StandardOptions).runner = _dask_runner()  # importing it registers its options
            elif runner in ("direct", "directrunner", "fnapirunner"):
                options.view_as(StandardOptions).runner = "FnApiRunner"
                _use_all_cores(options, beam_args)
            known = options.get_all_options()
            unknown = options.get_all_options(retain_unknown_options=True).keys() - known.keys()
    except SystemExit:  # argparse's way
        problem = messages.getvalue().strip().rsplit("error: ", 1)[-1]
        raise UserError(f"Beam does not take these options: {problem}") from None
    try:
        create_runner(options.view_as(StandardOptions).runner)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"Beam has no runner {options.view_as(StandardOptions).runner}: {error}") from None
    if unknown and runner not in _PORTABLE_RUNNERS:  # those ask their job server for more options
        raise UserError(
            f"Beam has no option {', '.join('--' + name for name in sorted(unknown))}: see its documentation"
        )
    return options


def _dask_runner() -> str:
    """The full name of Beam's DaskRunner, which Beam does not know by its short one."""
    try:
        import dask.distributed  # noqa: F401
        from apache_beam.runners.dask.dask_runner import DaskRunner
    except ImportError:
        raise UserError('the DaskRunner needs Dask: pip install "latentfaces[dask]"') from None
    return f"{DaskRunner.__module__}.{DaskRunner.__qualname__}"


def _use_all_cores(options: PipelineOptions, beam_args: Sequence[str]) -> None:
    direct = options.view_as(DirectOptions)
    given = {argument.split("=", 1)[0] for argument in beam_args}
    if "--direct_num_workers" not in given or direct.direct_num_workers == 0:
        direct.direct_num_workers = os.cpu_count() or 1
    if "--direct_running_mode" not in given:
        direct.direct_running_mode = "multi_threading"


@contextlib.contextmanager
def _quiet_beam(level: int) -> Iterator[None]:
    """Keeps Beam's own messages below `level` from the user."""
    logger = logging.getLogger("apache_beam")
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


def _plan(found: sources.Source, image_bytes: int, examples_per_shard: int | None) -> Iterator[dict]:
    """Divides every split into shards of nearly equal size, whatever the runner and its workers."""
    most = examples_per_shard or max(1, min(_SHARD_EXAMPLES, _SHARD_BYTES // image_bytes))
    for split, images in found.splits.items():
        count = len(images)
        shards = -(-count // most)
        if examples_per_shard is None:
            shards = max(shards, min(_PARALLEL_SHARDS, -(-count // _PARALLEL_EXAMPLES)))
        for index in range(shards):
            yield {
                "split": split,
                "name": shard_name(split, index, shards),
                "images": images[index * count // shards : (index + 1) * count // shards],
            }


def _write_plan(path: AnyPath, plan: Iterator[dict]) -> list[tuple[int, int]]:
    """Writes the plan, a line a shard; returns where each line begins and how long it is, in bytes."""
    units = []
    draft = path if isinstance(path, Path) else _scratch_file()
    with draft.open("wb") as file:
        for shard in plan:
            start = file.tell()
            units.append((start, file.write(json.dumps(shard).encode() + b"\n")))
    if draft != path:
        storage.publish(draft, path)
    return units


def _scratch_file() -> Path:
    """A new file on this machine, for what then goes to a bucket as a whole."""
    descriptor, name = tempfile.mkstemp(prefix="latentfaces-")
    os.close(descriptor)
    return Path(name)


class WriteShard(beam.DoFn):
    """Writes the shard that a line of the plan describes, and then its summary; puts nothing out."""

    def __init__(
        self,
        images: str,
        is_zip: bool,
        output: str,
        job: str,
        attributes: int,
        image_size: int,
        channels: int,
    ) -> None:
        """Takes what is the same for all shards; paths as text, since the worker may be another machine."""
        self._images = images
        self._is_zip = is_zip
        self._output = output
        self._job = job
        self._attributes = attributes
        self._image_size = image_size
        self._channels = channels
        self._written = Metrics.counter("latentfaces", "images_written")
        self._refused = Metrics.counter("latentfaces", "images_refused")

    def setup(self) -> None:
        """Prepares the process: Beam parallelizes over shards, OpenCV's threads would be in the way."""
        cv2.setNumThreads(1)
        warnings.filterwarnings("ignore", module=r"PIL\.")  # a damaged image is refused or good enough

    def process(self, unit: tuple[int, int]) -> None:
        """Writes one shard.

        Args:
            unit: Offset and length in bytes of the shard's line in the plan.
        """
        output = storage.resolve(self._output)
        plan = output / self._job / _PLAN
        shard = json.loads(storage.read(plan, *unit))
        name = shard["name"]
        # Both lie where a job that is over has no folder any more, so that a straggler leaves nothing behind.
        draft, summary = self._draft(output, name), self._draft(output, name)
        try:
            refused = []
            with ShardWriter(draft.open("wb", buffering=1 << 20)) as writer:
                for image, data in self._read(shard["images"]):
                    try:
                        writer.write(self._example(image, data))
                    except RefusedImage as refusal:
                        refused.append((image.name, str(refusal)))
            written = writer.shard(name)
            if not storage.is_file(plan):
                raise RuntimeError(f"the job that {name} belongs to is over")
            storage.publish(draft, output / name)
            told = {"split": shard["split"], "shard": vars(written), "refused": refused}
            summary.write_text(json.dumps(told))
            storage.publish(summary, output / self._job / f"{name}.json")
        finally:
            draft.unlink(missing_ok=True)
            summary.unlink(missing_ok=True)
        self._written.inc(written.examples)
        self._refused.inc(len(refused))

    def _draft(self, output: AnyPath, name: str) -> Path:
        """A local file for the unfinished shard: beside the plan, or scratch space for a bucket's."""
        if isinstance(output, Path):
            return output / self._job / f"{name}.{uuid.uuid4().hex}"
        return _scratch_file()

    def _read(self, images: list) -> Iterator[tuple[sources.Image, bytes | RefusedImage]]:
        inputs = (
            sources.Image(name, labels, None if entry is None else sources.ZipEntry(*entry))
            for name, labels, entry in images
        )
        return sources.read_images(storage.resolve(self._images), self._is_zip, inputs)

    def _example(self, image: sources.Image, data: bytes | RefusedImage) -> bytes:
        if isinstance(data, RefusedImage):
            raise data
        pixels = smart_resize(decode(data, self._channels), self._image_size)
        attributes = None
        if image.labels is not None:
            attributes = sources.label_bytes(image.labels, self._attributes)
        return encode_example(pixels.tobytes(), image.name, attributes)


def _run_pipeline(
    options: PipelineOptions, units: list[tuple[int, int]], write_shard: WriteShard, console: Console
) -> None:
    runner = options.view_as(StandardOptions).runner
    workers = ""
    if runner == "FnApiRunner":
        direct = options.view_as(DirectOptions)
        workers = f", {direct.direct_num_workers} workers ({direct.direct_running_mode})"
    elif runner.endswith(".DaskRunner"):
        from apache_beam.runners.dask.dask_runner import DaskOptions

        dask = options.view_as(DaskOptions)
        if not dask.npartitions and not dask.partition_size:
            dask.npartitions = len(units)  # Dask would put up to 128 shards into one task
    console.print(f"preprocess: {len(units)} shards on Beam's {runner.rsplit('.', 1)[-1]}{workers}")
    with _quiet_beam(logging.WARNING), _shared_interpreter():
        pipeline = beam.Pipeline(options=options)
        # Create ends in a reshuffle, which lets the engine hand out the shards one by one.
        _ = pipeline | "Shards" >> beam.Create(units) | "WriteShard" >> beam.ParDo(write_shard)
        result = pipeline.run()
        try:
            result.wait_until_finish()
        finally:
            if runner.endswith(".DaskRunner"):
                result.client.close()  # which the runner leaves open


@contextlib.contextmanager
def _shared_interpreter() -> Iterator[None]:
    """Lets threads of this process share the interpreter better: measured: 1.1 to 1.4 times with two.

    Decoding and resizing run outside the interpreter's lock, in about 0.1 ms an image. A thread that comes
    back waits for the other one for up to the switch interval, 5 ms by default. And what exists by now need
    not be looked through for garbage again and again.
    """
    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        sys.setswitchinterval(interval)


class _Summaries:
    """The finished shards' summaries, collected from the job's folder."""

    def __init__(self, folder: AnyPath) -> None:
        self._folder = folder
        self._seen: set[str] = set()
        self.shards: list[tuple[str, Shard]] = []
        self.refused: list[tuple[str, str]] = []
        self.written = 0

    def update(self) -> None:
        """Reads the summaries that are new."""
        for name in list(storage.list_files(self._folder)):
            if name.endswith(".tfrecord.json") and not name.startswith(".") and name not in self._seen:
                summary = json.loads(storage.read(self._folder / name))
                shard = Shard(**summary["shard"])
                self.shards.append((summary["split"], shard))
                self.refused += [(source, reason) for source, reason in summary["refused"]]
                self.written += shard.examples
                self._seen.add(name)


@contextlib.contextmanager
def _progress(console: Console, summaries: _Summaries, inputs: int) -> Iterator[None]:
    """Shows a progress line while the job runs; without a terminal, a line of text every half minute."""
    bar = Progress(
        BarColumn(), TextColumn("{task.description}"), console=console, disable=not console.is_terminal
    )
    task = bar.add_task("starting", total=inputs)
    started = time.monotonic()
    over = threading.Event()

    def line() -> str:
        done, refused = summaries.written + len(summaries.refused), len(summaries.refused)
        rate = done / (time.monotonic() - started)
        left = f"{(inputs - done) / rate:,.0f} s left" if rate else "time left unknown"
        text = f"{done:,} of {inputs:,} images, {refused:,} refused, {rate:,.0f} images/s, {left}"
        bar.update(task, completed=done, description=text)
        return text

    def watch() -> None:
        pause, told = 0.5, started
        while not over.wait(pause):
            looked = time.monotonic()
            try:
                summaries.update()
            except Exception as error:  # progress must not end the job; the driver reads them all once more
                logging.getLogger(__name__).debug("no progress to show: %s", error)
                continue
            pause = max(0.5, 10 * (time.monotonic() - looked))  # listing many shards takes long: do it less
            text = line()
            if not console.is_terminal and time.monotonic() - told > 30:
                console.print(f"preprocess: {text}", highlight=False)
                told = time.monotonic()

    watcher = threading.Thread(target=watch, name="progress", daemon=True)
    with bar:
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()
        summaries.update()
        line()


def _commit(output: AnyPath, dataset: Dataset, refused: list[tuple[str, str]], max_rejected: float) -> None:
    """Writes `rejected.jsonl` and then, where not too much was refused, `dataset.json`."""
    lines = [json.dumps({"source": source, "reason": reason}) + "\n" for source, reason in sorted(refused)]
    storage.write(output / "rejected.jsonl", "".join(lines).encode())
    written = sum(split.examples for split in dataset.splits.values())
    inputs = written + len(refused)
    if not written or len(refused) > max_rejected * inputs:
        raise UserError(
            f"{len(refused):,} of {inputs:,} inputs were refused, more than --max-rejected "
            f"{max_rejected:g} allows: mend or remove what {output / 'rejected.jsonl'} lists, or allow more"
        )
    write_dataset(output, dataset)


def _make_folder(output: AnyPath, job: str) -> None:
    if isinstance(output, Path):
        try:
            (output / job).mkdir(parents=True)
        except OSError as error:
            raise UserError(f"the output {output} cannot be written: {error.strerror}") from None


def _sweep(output: AnyPath, keep: set[str]) -> None:
    """Deletes what jobs left in the output folder: their own folders, and shards that are not to be kept."""
    if isinstance(output, Path):
        for folder in list(output.glob(".job-*")):
            if _JOB_FOLDER.fullmatch(folder.name) and folder.name not in keep:
                with contextlib.suppress(OSError):  # another job is sweeping too
                    # Under its new name no straggler can write to it, nor publish a shard out of it.
                    shutil.rmtree(folder.rename(output / f".job-{uuid.uuid4().hex}"), ignore_errors=True)
    for name in list(storage.list_files(output)):
        top = name.split("/", 1)[0]
        if (_JOB_FOLDER.fullmatch(top) or _SHARD_FILE.fullmatch(name)) and top not in keep:
            storage.delete(output / name)


def _show(console: Console, dataset: Dataset, refused: list[tuple[str, str]], seconds: float) -> None:
    """Shows the closing table: splits, shards, bytes, refusals by reason, rate."""
    table = Table(
        title=f"{dataset.image_shape[0]}×{dataset.image_shape[1]}×{dataset.image_shape[2]} data set"
    )
    for heading, justify in (("", "left"), ("examples", "right"), ("shards", "right"), ("MiB", "right")):
        table.add_column(heading, justify=justify)
    for name, split in dataset.splits.items():
        size = sum(shard.bytes for shard in split.shards) / (1 << 20)
        table.add_row(name, f"{split.examples:,}", str(len(split.shards)), f"{size:,.1f}")
    reasons = Counter(reason.split(":", 1)[0] for _, reason in refused)
    for reason, count in reasons.most_common():
        table.add_row(f"refused: {reason}", f"{count:,}")
    console.print(table)
    inputs = sum(split.examples for split in dataset.splits.values()) + len(refused)
    console.print(
        f"{inputs:,} inputs in {seconds:,.1f} s, {inputs / seconds:,.0f} images/s, start-up included"
    )
