"""The engine: which of Beam's runners does the work, with what options, and how it is run."""

import contextlib
import gc
import io
import logging
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    DirectOptions,
    PipelineOptions,
    PortableOptions,
    StandardOptions,
)
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from apache_beam.runners.runner import PipelineRunner, create_runner
from rich.console import Console

from latentfaces.common.errors import RunError, UserError
from latentfaces.preprocessing.plan import Unit
from latentfaces.preprocessing.write import WriteInThreads, WriteShard, WriteShards

_THREADS = ("in_memory", "multi_threading")  # running modes of which we make threads of our own
_MOST_WORKERS = 1024
_CONNECT_SECONDS = 10.0
_LONGEST_ERROR = 500  # characters of what another program says
_PORTABLE_RUNNERS = {"portablerunner", "flinkrunner", "sparkrunner"}

logger = logging.getLogger(__name__)


def parse_options(beam_options: Sequence[str]) -> PipelineOptions:
    """Parses Beam's options and chooses the runner.

    Without `--runner`, and for `DirectRunner`, it is Beam's FnApiRunner with threads on all cores: the
    DirectRunner would try to download and start another one (Prism), which ignores the number of workers.

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
        made = create_runner(standard.runner)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise UserError(f"Beam has no runner {standard.runner}: {error}") from None
    if not isinstance(made, PipelineRunner):
        raise UserError(f"{standard.runner} is no runner of Beam's: correct --runner")
    if unknown and runner not in _PORTABLE_RUNNERS:  # those ask their job server for more options
        raise UserError(
            f"Beam has no option {', '.join('--' + name for name in sorted(unknown))}: see its documentation"
        )
    if problems := PipelineOptionsValidator(options, made).validate():
        raise UserError(f"Beam does not take these options: {' '.join(problems)}")
    _check_servers(options, runner)
    return options


def _check_servers(options: PipelineOptions, runner: str) -> None:
    """Checks that someone listens where the options say; Beam would wait for minutes, without a word."""
    portable = options.view_as(PortableOptions)
    if runner in _PORTABLE_RUNNERS:
        if runner == "portablerunner" and not portable.job_endpoint:
            raise UserError("the PortableRunner needs --job_endpoint=HOST:PORT: give it after --")
        if portable.job_endpoint != "embed":  # Beam's word for a job server of its own
            _check_listening("job_endpoint", portable.job_endpoint)
            _check_listening("artifact_endpoint", portable.artifact_endpoint)
    elif runner in ("dask", "daskrunner"):
        from apache_beam.runners.dask.dask_runner import DaskOptions

        _check_listening("dask_client_address", options.view_as(DaskOptions).address)


def _check_listening(name: str, address: str | None) -> None:
    if not address:
        return
    try:
        place = urlsplit(address if "://" in address else f"//{address}")
        if not place.hostname or not place.port:
            raise OSError("it is not of the form HOST:PORT")
        with socket.create_connection((place.hostname, place.port), _CONNECT_SECONDS):
            pass
    except (OSError, ValueError) as error:
        raise UserError(
            f"no one listens at --{name}={address} ({error}): start the server, or correct the option"
        ) from None


def _dask_runner() -> str:
    """The full name of Beam's DaskRunner, which Beam does not know by its short one."""
    try:
        import dask.distributed  # noqa: F401
        from apache_beam.runners.dask.dask_runner import DaskRunner
    except ImportError:
        raise UserError('the DaskRunner needs Dask: pip install "latentfaces[dask]"') from None
    return f"{DaskRunner.__module__}.{DaskRunner.__qualname__}"


def _use_all_cores(direct: DirectOptions, beam_options: Sequence[str]) -> None:
    if not 0 <= direct.direct_num_workers <= _MOST_WORKERS:
        raise UserError(
            f"--direct_num_workers={direct.direct_num_workers} is out of bounds: it has to be between 0, for "
            f"all cores, and {_MOST_WORKERS}"
        )
    given = {argument.split("=", 1)[0] for argument in beam_options}
    if "--direct_num_workers" not in given or direct.direct_num_workers == 0:
        direct.direct_num_workers = os.cpu_count() or 1


def run_pipeline(
    options: PipelineOptions, units: list[Unit], write_shard: WriteShard, console: Console
) -> None:
    """Has the shards written, after a line on the console about who does it; returns when all is done."""
    runner = options.view_as(StandardOptions).runner.rsplit(".", 1)[-1]
    workers, threads = "", 0
    if runner == "FnApiRunner":
        direct = options.view_as(DirectOptions)
        if direct.direct_running_mode in _THREADS:
            threads, direct.direct_num_workers = direct.direct_num_workers, 1
            direct.direct_running_mode = "in_memory"
        workers = f", {threads} threads" if threads else f", {direct.direct_num_workers} processes"
    elif runner == "DaskRunner":
        from apache_beam.runners.dask.dask_runner import DaskOptions

        dask = options.view_as(DaskOptions)
        if not dask.npartitions and not dask.partition_size:
            dask.npartitions = len(units)  # Dask would put up to 128 shards into one task
    console.print(f"preprocess: {len(units)} shards on Beam's {runner}{workers}")
    with _quiet_beam(logging.WARNING), _shared_interpreter(), _not_interactive():
        pipeline = beam.Pipeline(options=options)
        _ = pipeline | WriteShards(units, write_shard, threads)
        try:
            _run(pipeline)
        except Exception as error:  # of any type, as the engine likes
            logger.debug("Beam's %s failed", runner, exc_info=True)
            raise RunError(
                f"Beam's {runner} failed ({_shortened(error)}): see its log, or correct the options"
            ) from error
    if failure := WriteInThreads.failures.pop(write_shard.job_folder, None):
        raise failure


def _shortened(error: Exception) -> str:
    """What an engine says, without the tracebacks of other machines in it."""
    lines = [line for line in str(error).splitlines() if not line.startswith(("  ", "Traceback"))]
    return " ".join(" ".join(lines).split())[:_LONGEST_ERROR] or type(error).__name__


def _run(pipeline: beam.Pipeline) -> None:
    result: Any = pipeline.run()
    try:
        result.wait_until_finish()
    finally:
        if hasattr(result, "client"):  # Dask's, which the runner leaves open
            result.client.close()


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
def _not_interactive() -> Iterator[None]:
    """Keeps Beam from importing its interactive runner in a notebook: that needs pandas, older than 3."""
    module: Any = beam.pipeline
    alter_label, module.alter_label_if_ipython = module.alter_label_if_ipython, lambda *_: None
    try:
        yield
    finally:
        module.alter_label_if_ipython = alter_label


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
