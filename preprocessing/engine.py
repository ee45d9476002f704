"""The engine: which of Beam's runners does the work, with what options, and how it is run."""

import contextlib
import gc
import io
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
from apache_beam.runners.runner import create_runner
from rich.console import Console

from latentfaces.common.errors import UserError
from latentfaces.preprocessing.write import WriteShards

_PORTABLE_RUNNERS = {"portablerunner", "flinkrunner", "sparkrunner"}


def parse_options(beam_options: Sequence[str]) -> PipelineOptions:
    """Parses Beam's options and chooses the runner.

    Without `--runner`, and for `DirectRunner`, it is Beam's FnApiRunner on all cores: the DirectRunner would
    try to download and start another one (Prism), which ignores the number of workers.

    Raises:
        UserError: Beam has no such runner or option, or does not take its value.
    """
    for previous, argument in zip(("", *beam_options), beam_options, strict=False):
        if not argument.startswith("-") and (not previous.startswith("-") or "=" in previous):
            raise UserError(f"{argument!r} is no option of Beam's: write --name=value")
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages), _quiet_beam(logging.ERROR):
            options = PipelineOptions(list(beam_options))
            standard = options.view_as(StandardOptions)
            runner = (standard.runner or "DirectRunner").rsplit(".", 1)[-1].lower()
            if runner in ("dask", "daskrunner"):
                standard.runner = _dask_runner()  # importing it registers its options
            elif runner in ("direct", "directrunner", "fnapirunner"):
                standard.runner = "FnApiRunner"
                _use_all_cores(options.view_as(DirectOptions), beam_options)
            known = options.get_all_options()
            unknown = options.get_all_options(retain_unknown_options=True).keys() - known.keys()
    except SystemExit:  # argparse's way
        problem = messages.getvalue().strip().rsplit("error: ", 1)[-1]
        raise UserError(f"Beam does not take these options: {problem}") from None
    try:
        create_runner(standard.runner)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"Beam has no runner {standard.runner}: {error}") from None
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


def _use_all_cores(direct: DirectOptions, beam_options: Sequence[str]) -> None:
    given = {argument.split("=", 1)[0] for argument in beam_options}
    if "--direct_num_workers" not in given or direct.direct_num_workers == 0:
        direct.direct_num_workers = os.cpu_count() or 1
    if "--direct_running_mode" not in given:
        direct.direct_running_mode = "multi_threading"


def run_pipeline(options: PipelineOptions, shards: WriteShards, console: Console) -> None:
    """Has the shards written, after a line on the console about who does it; returns when all is done."""
    runner = options.view_as(StandardOptions).runner.rsplit(".", 1)[-1]
    workers = ""
    if runner == "FnApiRunner":
        direct = options.view_as(DirectOptions)
        workers = f", {direct.direct_num_workers} workers ({direct.direct_running_mode})"
    elif runner == "DaskRunner":
        from apache_beam.runners.dask.dask_runner import DaskOptions

        dask = options.view_as(DaskOptions)
        if not dask.npartitions and not dask.partition_size:
            dask.npartitions = len(shards.units)  # Dask would put up to 128 shards into one task
    console.print(f"preprocess: {len(shards.units)} shards on Beam's {runner}{workers}")
    with _quiet_beam(logging.WARNING), _shared_interpreter():
        pipeline = beam.Pipeline(options=options)
        _ = pipeline | shards
        result: Any = pipeline.run()
        try:
            result.wait_until_finish()
        finally:
            if runner == "DaskRunner":
                result.client.close()  # which the runner leaves open


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
