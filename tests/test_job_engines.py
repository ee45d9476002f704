"""The job on engines with real processes: Dask, and the portable runner with external workers."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from conftest import free_ports, write_celeba
from test_job import files

from latentfaces.common.errors import RunError
from latentfaces.preprocessing.engine import parse_options
from latentfaces.preprocessing.job import run
from latentfaces.preprocessing.options import PreprocessConfig
from latentfaces.preprocessing.sources.folder import Folder
from latentfaces.preprocessing.sources.idx import Idx
from latentfaces.preprocessing.sources.parquet import Parquet
from latentfaces.preprocessing.sources.tar import Tar
from latentfaces.preprocessing.sources.zip import Zip
from latentfaces.preprocessing.write import WriteShard, WriteShards

ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)]),
    "PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]]),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """2,000 small images in CelebA's layout."""
    root = tmp_path_factory.mktemp("faces")
    write_celeba(root, 2000, 109, 89)
    return root


@pytest.fixture(scope="module")
def reference(source, tmp_path_factory):
    """What the DirectRunner makes of them."""
    output = tmp_path_factory.mktemp("reference")
    run(str(source), str(output), image_size=32, beam_options=["--runner=DirectRunner"])
    return files(output)


@contextlib.contextmanager
def started(*arguments):
    """Runs `python -m ...`; ends it, and what it started, at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments], env=ENVIRONMENT, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.001)
    return result


def listening(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def dask():
    """A Dask scheduler and two worker processes: (its address, the workers)."""
    pytest.importorskip("distributed")
    (port,) = free_ports(1)
    address = f"tcp://127.0.0.1:{port}"
    worker = ("distributed.cli.dask_worker", address, "--nthreads=1", "--no-nanny", "--no-dashboard")
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            started("distributed.cli.dask_scheduler", "--host=127.0.0.1", f"--port={port}", "--no-dashboard")
        )
        wait_for(lambda: listening(port))
        workers = [stack.enter_context(started(*worker)) for _ in range(2)]
        from distributed import Client

        with Client(address) as client:
            client.wait_for_workers(2, timeout=60)
        yield address, workers


def test_dask_gives_the_same_bytes(source, reference, dask, tmp_path):
    address, _ = dask
    options = ["--runner=DaskRunner", f"--dask_client_address={address}"]
    run(str(source), str(tmp_path), image_size=32, beam_options=options)
    result = files(tmp_path)
    assert result == reference


def is_writing(process):
    """Whether a process has an unfinished shard open."""
    with contextlib.suppress(FileNotFoundError, PermissionError):
        for descriptor in os.scandir(f"/proc/{process.pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                if re.search(r"/\.job-\w+/.*\.tfrecord\.\w+$", os.readlink(descriptor.path)):
                    return True
    return False


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="finds out through /proc what a worker writes")
def test_dask_survives_the_loss_of_a_worker_that_is_writing(source, reference, dask, tmp_path):
    address, workers = dask
    script = (
        "import sys; from latentfaces.preprocessing.job import run; source, output, address = sys.argv[1:]; "
        "options = ['--runner=dask', '--dask_client_address', address]; "
        "run(source, output, image_size=32, beam_options=options)"
    )
    job = subprocess.Popen([sys.executable, "-c", script, source, tmp_path, address], env=ENVIRONMENT)
    wait_for(lambda: is_writing(workers[0]))
    workers[0].kill()
    assert job.wait(timeout=120) == 0
    assert files(tmp_path) == reference


def test_a_portable_job_service_with_an_external_worker_pool_gives_the_same_bytes(
    source, reference, tmp_path
):
    jobs, pool = free_ports(2)
    with (
        started("apache_beam.runners.portability.local_job_service_main", f"--port={jobs}"),
        started("apache_beam.runners.worker.worker_pool_main", f"--service_port={pool}"),
    ):
        wait_for(lambda: listening(jobs) and listening(pool))
        run(
            str(source),
            str(tmp_path),
            image_size=32,
            beam_options=[
                "--runner=PortableRunner",
                f"--job_endpoint=localhost:{jobs}",
                "--environment_type=EXTERNAL",
                f"--environment_config=localhost:{pool}",
            ],
        )
    assert files(tmp_path) == reference


def test_an_engine_that_fails_is_told_in_one_sentence(source, tmp_path):
    (jobs,) = free_ports(1)
    options = ["--runner=PortableRunner", f"--job_endpoint=localhost:{jobs}", "--environment_type=EXTERNAL"]
    with started("apache_beam.runners.portability.local_job_service_main", f"--port={jobs}"):
        wait_for(lambda: listening(jobs))
        with pytest.raises(RunError, match="Beam's PortableRunner failed .*refused") as error:
            run(str(source), str(tmp_path), beam_options=[*options, "--environment_config=localhost:1"])
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


REMOTE = {
    "FlinkRunner": [
        "--flink_master=flink:8081",
        "--environment_type=EXTERNAL",
        "--environment_config=localhost:50000",
    ],
    "PortableRunner": ["--job_endpoint=localhost:{port}", "--parallelism=8"],
}


@pytest.mark.parametrize("runner", REMOTE)
def test_remote_runners_take_the_documented_options(runner):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        options = parse_options([f"--runner={runner}", *(each.format(port=port) for each in REMOTE[runner])])
    assert options.view_as(StandardOptions).runner == runner


@pytest.mark.parametrize(
    "images",
    [
        Folder("gs://bucket/celeba"),
        Zip("gs://bucket/celeba.zip"),
        Tar("gs://bucket/celeba.tgz"),
        Parquet("gs://bucket/celeba"),
        Idx("gs://bucket/digits"),
    ],
)
def test_the_pipeline_is_small_and_a_fresh_worker_can_load_its_code(tmp_path, images):
    units = [(number * 1000, 1000) for number in range(2000)]  # a plan for five million images
    pipeline = beam.Pipeline(options=PipelineOptions([]))
    _ = pipeline | WriteShards(
        units, WriteShard(images, "gs://bucket/set/.job-x", 40, PreprocessConfig(), 5_000_000)
    )
    serialized = pipeline.to_runner_api().SerializeToString()
    assert len(serialized) < 100_000
    (tmp_path / "pipeline").write_bytes(serialized)
    script = (
        "import sys; from apache_beam.portability.api import beam_runner_api_pb2 as api; "
        "from apache_beam.internal import pickler; from apache_beam.portability import python_urns; "
        "components = api.Pipeline.FromString(open(sys.argv[1], 'rb').read()).components; "
        "parses = [api.ParDoPayload.FromString(t.spec.payload) for t in components.transforms.values() "
        "if t.spec.urn == 'beam:transform:pardo:v1']; "
        "functions = [pickler.loads(p.do_fn.payload)[0] for p in parses]; "
        "assert any(type(f).__name__ == 'WriteShard' for f in functions), functions"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path / "pipeline"], check=True, env=ENVIRONMENT)
