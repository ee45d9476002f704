"""The pipeline: its compiled form, read back, and a whole run on photographs of all kinds."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from conftest import photograph
from kfp import dsl
from PIL import Image

from latentfaces.common import storage
from latentfaces.common.config import EvaluateOptions, RunOptions
from latentfaces.common.lease import hold
from latentfaces.common.models import all_parameters, find_model, joint_parameters, settle
from latentfaces.common.options import parameters, type_and_option
from latentfaces.common.pods import PodOptions
from latentfaces.common.program import COMMAND as COMMAND_VARIABLE
from latentfaces.common.promoted import PromoteOptions
from latentfaces.common.root import prune, runs
from latentfaces.components.check.component import check
from latentfaces.components.evaluate.component import evaluate
from latentfaces.components.preprocess.component import preprocess
from latentfaces.components.train.component import train
from latentfaces.pipelines import local
from latentfaces.preprocessing.options import PreprocessConfig

COMMAND = str(Path(sys.executable).parent / "latentfaces")
RUN_ID = "{{$.pipeline_job_uuid}}"


def defaults(*options):
    return {each.name: each.default for each in options}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """The compiled pipeline for another image than the default."""
    file = tmp_path_factory.mktemp("compiled") / "new" / "faces.yaml"
    subprocess.run([COMMAND, "compile", "--output", file, "--image", "registry/faces:7"], check=True)
    return file.read_text()


@pytest.fixture(scope="module")
def spec(text):
    return next(yaml.safe_load_all(text))


@pytest.fixture(scope="module")
def tasks(spec):
    return spec["root"]["dag"]["tasks"]


def test_the_components_depend_on_one_another_as_they_should(tasks):
    after = {name: set(task.get("dependentTasks", [])) for name, task in tasks.items()}
    assert after == {
        "check": set(),
        "preprocess": {"check"},
        "train": {"preprocess"},
        "train-2": {"preprocess"},
        "evaluate": {"preprocess", "train", "train-2"},
        "promote": {"preprocess", "evaluate"},
    }
    kinds = {
        name: tasks[name]["inputs"]["parameters"]["kind"]["runtimeValue"]["constant"]
        for name in ("train", "train-2")
    }
    assert kinds == {"train": "vae", "train-2": "gan"}


def test_every_option_is_a_parameter_with_its_type_and_default(spec):
    said = spec["root"]["inputDefinitions"]["parameters"]
    kinds = {str: "STRING", int: "NUMBER_INTEGER", float: "NUMBER_DOUBLE", bool: "BOOLEAN", list[str]: "LIST"}
    options = [*joint_parameters()]
    for each in (PreprocessConfig, RunOptions, EvaluateOptions, PromoteOptions, PodOptions):
        options += parameters(each)
    expected = {each.name: (kinds[type_and_option(each)[0]], each.default) for each in options}
    places = dict.fromkeys(("source", "root"), ("STRING", None)) | {"destination": ("STRING", "")}
    assert {
        name: (value["parameterType"], value.get("defaultValue")) for name, value in said.items()
    } == expected | places
    assert {name for name, value in said.items() if not value.get("isOptional")} == {"source", "root"}
    assert all(value["description"] for value in said.values())
    assert said["vae_preset"]["defaultValue"] == "faces" and said["gan_preset"]["defaultValue"] == "book"
    assert {"precision", "xla", "gan_rebalance", "checkpoint_minutes", "max_restarts"} <= said.keys()


def test_every_component_gets_the_run_s_id_as_a_whole_argument(spec, tasks, text):
    # Kubeflow fills it in nowhere else.
    for task in tasks.values():
        assert task["inputs"]["parameters"]["run_id"]["runtimeValue"]["constant"] == RUN_ID
    assert text.count("pipeline_job_uuid") == len(tasks)


@pytest.fixture
def checking(celeba, tmp_path):
    """Calls the check's function with the pipeline's defaults and some changes."""
    values = defaults(*joint_parameters())
    for each in (PreprocessConfig, RunOptions, EvaluateOptions, PromoteOptions, PodOptions):
        values |= defaults(*parameters(each))
    places = {"source": str(celeba), "root": str(tmp_path / "root"), "destination": str(tmp_path / "out")}
    other = {"run_id": "now", "compiled": json.dumps(defaults(*parameters(PodOptions)))}
    other |= {name: str(tmp_path / name) for name in ("pod_cpu", "pod_memory")}
    return lambda **changes: check.python_func(**{**places, **other, **values, **changes})


def test_the_check_returns_the_gpus_as_text(checking, spec, tmp_path):
    # From a NUMBER, Kubeflow's driver drops the limit without a word.
    assert checking(workers=2, gpus_per_worker=4) == "8" and checking() == "0"
    assert (tmp_path / "pod_cpu").read_text().isdigit() and (tmp_path / "pod_memory").read_text()[-2:] == "Gi"
    output = spec["components"]["comp-check"]["outputDefinitions"]["parameters"]["Output"]
    assert output["parameterType"] == "STRING"


def test_the_check_refuses_with_status_2_and_leaves_the_sentence(checking, tmp_path, monkeypatch):
    words = tmp_path / "words"
    monkeypatch.setenv("LATENTFACES_LAST_WORDS", str(words))
    monkeypatch.setenv("no_proxy", "")  # which a program extends
    earlier = settle("vae", {"preset": "faces", "seed": 3}, (64, 64, 3))
    folder = tmp_path / "root" / "runs" / "earlier" / "vae"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(earlier.to_json())
    for changes, says in (
        ({"gan_batch_size": 9, "workers": 2}, "batch size 9 of the GAN can't be divided among 2 replicas"),
        ({"run_id": "earlier"}, "holds a run whose seed is 3, and 0 is asked for"),
        ({"keep": 0}, "--keep 0 is out of bounds"),
        ({"cpu": "3"}, "cpu is for the pods of several workers, and one trains in a pod as it was compiled"),
        ({"env": ["1=2"]}, "--env '1=2' can't be read"),
        ({"run_id": "../earlier"}, "'../earlier' can't be a folder's name"),
        ({"source": str(tmp_path / "none")}, "none does not exist"),
    ):
        with pytest.raises(SystemExit) as ending:
            checking(**changes)
        assert ending.value.code == 2 and words.read_text().startswith("2 ") and says in words.read_text()
    assert checking(run_id="earlier", seed=3) == "0"

    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    with pytest.raises(SystemExit):
        checking()
    assert f"{tmp_path}/root lies on this pod's own disk" in words.read_text()


def test_runs_in_a_bucket(bucket, tmp_path, capsys, monkeypatch):
    """The first makes everything; the next ones resize only if there are other images."""
    monkeypatch.setenv("no_proxy", "")  # which a program extends
    root, faces = "gs://bucket/root", tmp_path / "faces"
    faces.mkdir()
    for number in range(60):
        Image.fromarray(photograph(number, 30, 30)).save(faces / f"{number:02d}.png")

    def resize(run_id):
        dataset = dsl.Dataset(uri=str(tmp_path / run_id / "dataset.json"))
        values = defaults(*parameters(PreprocessConfig)) | {"image_size": 16}
        preprocess.python_func(source=str(faces), root=root, run_id=run_id, dataset=dataset, **values)
        location = storage.resolve(dataset.metadata["location"])
        # only the description is passed on
        assert (tmp_path / run_id / "dataset.json").read_bytes() == storage.read(location / "dataset.json")
        assert location.parent == bucket / "root" / "datasets"
        assert location.name == {run.id: run.dataset for run in runs(root)}[run_id]
        written = {name: storage.version(location / name) for name in storage.list_files(location)}
        return dataset, written, capsys.readouterr().err

    dataset, written, _ = resize("first")
    values = defaults(*all_parameters(), *parameters(RunOptions), *parameters(PodOptions))
    models = {}
    for kind in ("vae", "gan"):
        models[kind] = dsl.Model(uri=str(tmp_path / "passed" / kind))
        options = values | {"preset": "small", "steps": 2, "batch_size": 8}
        train.python_func(
            kind=kind, dataset=dataset, root=root, run_id="first", model=models[kind], **options
        )
        assert models[kind].metadata["location"] == f"{root}/runs/first/{kind}"
        names = {path.name for path in (tmp_path / "passed" / kind).iterdir()}
        networks = {f"{name}.keras" for name in find_model(kind, "small").network_names}
        assert names == {"config.json", "history.csv", "samples", *networks}
    metrics, report = dsl.Metrics(), dsl.HTML(uri=str(tmp_path / "report.html"))
    returned = evaluate.python_func(
        **{"dataset": dataset, "root": root, "run_id": "first", "destination": ""},
        **defaults(*parameters(EvaluateOptions)),
        **{"metrics": metrics, "report": report},
        **models,
    )
    assert returned == f"{root}/runs/first/evaluation/report.html"
    assert (tmp_path / "report.html").read_bytes() == storage.read(storage.resolve(returned))
    assert metrics.metadata["gan.diversity"] > 0 and metrics.metadata["vae.reconstruction_mse"] > 0

    unchanged, again, said = resize("second")
    assert unchanged.metadata == dataset.metadata and again == written
    assert "the source is as it was: its images are resized already" in said

    Image.fromarray(photograph(60, 30, 30)).save(faces / "60.png")
    other, _, said = resize("third")
    assert other.metadata != dataset.metadata and "as it was" not in said

    # a data set without one of its shards counts as none
    (faces / "60.png").unlink()
    storage.delete(storage.resolve(dataset.metadata["location"]) / max(written))
    mended, made, said = resize("fourth")
    assert mended.metadata == dataset.metadata and made.keys() == written.keys() and "as it was" not in said


def test_every_component_has_the_image_and_resources(spec, tasks):
    executors = spec["deploymentSpec"]["executors"]
    assert {executor["container"]["image"] for executor in executors.values()} == {"registry/faces:7"}
    for name, task in tasks.items():
        label = spec["components"][task["componentRef"]["name"]]["executorLabel"]
        resources = executors[label]["container"].get("resources", {})
        if name.startswith("train"):
            assert resources["accelerator"]["resourceType"] == "nvidia.com/gpu"
            assert task["retryPolicy"]["maxRetryCount"] == 2
            # what the check found that a pod needs
            found = {
                "Output": resources["accelerator"]["resourceCount"],
                "pod_cpu": resources["resourceCpuRequest"],
                "pod_memory": resources["resourceMemoryRequest"],
            }
            for output, asked in found.items():
                (parameter,) = re.findall(r"inputs\.parameters\['(.*)'\]", asked)
                source = task["inputs"]["parameters"][parameter]["taskOutputParameter"]
                assert source == {"outputParameterKey": output, "producerTask": "check"}
        elif name != "check":
            assert resources["resourceCpuRequest"] == "2" and resources["resourceMemoryRequest"] == "4G"


def test_what_looks_at_the_world_is_never_taken_from_the_cache(tasks):
    cached = {name for name, task in tasks.items() if task["cachingOptions"].get("enableCache")}
    assert cached == {"train", "train-2", "evaluate"}


def test_it_holds_nothing_of_this_machine(text):
    assert str(Path(__file__).parents[1]) not in text and str(Path.home()) not in text
    assert not re.search(r"(?i)secretname|secretkey|password|token|credential", text)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """40 pictures of many sizes, formats and colour modes, and a file that is none."""
    folder = tmp_path_factory.mktemp("photographs")
    (folder / "holiday" / "2024").mkdir(parents=True)
    modes = [
        *("RGB.jpg", "RGB.png", "RGB.webp", "RGB.bmp", "RGB.tiff", "L.jpg", "L.png", "CMYK.jpg"),
        *("P.png", "P.gif", "RGBA.png", "RGBA.webp", "LA.png", "1.png", "I;16.png", "rotated.jpg"),
    ]
    for number in range(40):
        mode, kind = modes[number % len(modes)].split(".")
        height, width = np.random.default_rng(number).integers(20, 400, 2)
        image = Image.fromarray(photograph(number, height, width))
        options = {}
        if mode == "rotated":
            options["exif"] = Image.Exif()
            options["exif"][0x0112] = 6
        elif mode == "I;16":
            image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
        else:
            image = image.convert(mode)
        image.save(folder / ("holiday/2024" if number % 3 else ".") / f"{number:02d}.{kind}", **options)
    (folder / "notes.jpg").write_text("not a picture")
    return folder


SMALL = [
    *("image_size=32", "vae_preset=small", "gan_preset=small", "vae_epochs=2", "gan_epochs=2"),
    *("vae_batch_size=8", "gan_batch_size=8", "max_rejected=0.1"),
]


def is_component(process):
    with contextlib.suppress(psutil.Error):  # it has ended since
        return "kfp.dsl.executor_main" in process.cmdline()


def run_on_this_machine(source, root, *parameters, kill_in=None):
    """Runs the pipeline as a command; returns its status and lines; may kill the component that begins so."""
    options = [f"--param={parameter}" for parameter in (*SMALL[:-1], *parameters)]
    command = [COMMAND, "run", "--source", str(source), "--root", str(root), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        lines = []
        for line in process.stderr:
            lines.append(line)
            victims = []
            while kill_in and line.endswith(f"{kill_in}\n") and not victims:
                children = psutil.Process(process.pid).children(recursive=True)
                victims = [each for each in children if is_component(each)]
            for each in victims:
                each.kill()
    return process.returncode, lines


def test_why_a_component_failed_is_the_last_line(tmp_path):
    source, root = tmp_path / "source", tmp_path / "root"
    source.mkdir()
    for number in range(8):
        Image.fromarray(photograph(number, 40, 40)).save(source / f"{number}.png")
    (source / "notes.jpg").write_text("not a picture")

    status, lines = run_on_this_machine(source, root)
    assert status == 2 and "[2/6] preprocess\n" in "".join(lines)
    assert "error: preprocess failed: 1 of 9 inputs were refused (notes.jpg: " in lines[-1]
    assert lines[-1].endswith(f"all that the components printed is in {root}/log.txt\n")

    status, lines = run_on_this_machine(source, root, "max_rejected=0.5", kill_in="[3/6] train VAE")
    assert status == 1 and "error: train VAE failed: it told no reason, as when it is killed" in lines[-1]

    status, lines = run_on_this_machine(source, root, "max_rejected=0.5", "gpus_per_worker=1")
    assert status == 1
    assert "error: train VAE failed: worker 0 of 1: this worker sees 0 GPUs, and" in lines[-1]
    for printed in ("".join(lines), (root / "log.txt").read_text()):
        assert "\x1b" not in printed and "Executing task" in (root / "log.txt").read_text()


def test_a_line_that_nobody_reads_any_more_is_in_the_log():
    reading, writing = os.pipe()
    os.close(reading)
    log = io.StringIO()
    shown = io.TextIOWrapper(os.fdopen(writing, "wb", buffering=0), write_through=True)
    local._OurLines(log, shown, {}, threading.Event()).write("12:00:00 latentfaces: a line\n")
    assert "a line" in log.getvalue()


def test_ctrl_c_ends_a_component_that_is_only_being_started():
    stopping = threading.Event()
    os.environ[COMMAND_VARIABLE] = str(os.getpid())
    try:
        with local._leaving(stopping):
            os.kill(os.getpid(), signal.SIGINT)
            code = "from latentfaces.common.program import reporting\nwith reporting(): input()"
            started = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
            assert stopping.is_set() and started.wait(10) == -signal.SIGTERM
    finally:
        del os.environ[COMMAND_VARIABLE]


def test_an_error_that_nobody_expected_is_shown_whole_and_leaves_a_sentence(tmp_path):
    words = tmp_path / "words"
    code = "from latentfaces.common.program import reporting\nwith reporting(): raise ValueError('\\x1b\\nb')"
    environment = os.environ | {"LATENTFACES_LAST_WORDS": str(words)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" in done.stderr
    assert words.read_text() == r"1 ValueError: \x1b b"


def test_a_run_on_photographs_is_stopped_goes_on_and_is_run_again(photographs, bucket, tmp_path):
    command = [COMMAND, "run", "--source", photographs, "--root", tmp_path, "--destination", "gs://bucket/e"]
    for parameter in SMALL:
        command += ["--param", parameter]

    def run(stop_at="never"):
        """Returns status and lines; Ctrl-C comes, to all its processes, after a line with some words."""
        # no proxy and no other Python: what the components need is in the environment of this one
        environment = os.environ | {"PATH": "/usr/bin:/bin"}
        process = subprocess.Popen(
            list(map(str, command)),
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )
        lines = []
        for line in process.stderr:
            lines.append(line)
            if stop_at in line:
                os.killpg(process.pid, signal.SIGINT)
                stop_at = "never"
        status = process.wait()
        if status == 130:
            assert lines.pop() == "Aborted. Give the same command again to go on.\n"
        lines = [line for line in lines if line.strip()]
        # what it shows is our components' lines, one each
        assert all(re.match(r"\d\d:\d\d:\d\d latentfaces: ", line) for line in lines), lines
        return status, "".join(lines)

    status, printed = run(stop_at=f"is in {tmp_path}/runs/")  # the first of the two models
    assert status == 130, printed
    began = re.findall(r"latentfaces: (\[\d/6\] (?:check|preprocess|train \w+))\n", printed)
    assert began == ["[1/6] check", "[2/6] preprocess", "[3/6] train VAE"]
    assert "[2/6] preprocess: 41 of 41 images" in printed
    (folder,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"20\d{6}-\d{6}", folder.name) and f"run {folder.name} begins" in printed
    made = {path: path.stat().st_mtime_ns for path in folder.glob("*/*.keras")}
    assert {path.parent.name for path in made} == {"vae"} and len(made) == 3  # it is trained first

    status, printed = run(stop_at=f"samples to look at come into {folder}/gan")
    assert status == 130 and re.search(r"leaving; the checkpoint of step \d+ is saved\n$", printed), printed

    status, printed = run()
    assert status == 0, printed + (tmp_path / "log.txt").read_text()
    assert f"run {folder.name} was stopped, and goes on" in printed and "GAN goes on from step" in printed
    assert printed.count("is trained already") == 1 and "images are resized already" in printed
    assert made.items() < {path: path.stat().st_mtime_ns for path in folder.glob("*/*.keras")}.items()
    (dataset,) = (tmp_path / "datasets").iterdir()
    data = json.loads((dataset / "dataset.json").read_text())
    assert sum(split["examples"] for split in data["splits"].values()) == 40 and data["rejected"] == 1
    (rejected,) = (dataset / "rejected.jsonl").read_text().splitlines()
    assert json.loads(rejected)["source"] == "notes.jpg"
    grids = {path.name for path in (bucket / "e" / "grids").iterdir()}
    assert {"gan_samples.png", "vae_samples.png", "reconstructions.png", "vae_interpolations.png"} <= grids
    assert "<html" in (bucket / "e" / "report.html").read_text()
    assert json.loads((bucket / "e" / "metrics.json").read_text())["gan"]["diversity"] > 0

    assert (folder / "promotion.json").exists() and (tmp_path / "promoted.json").exists()
    assert not list(tmp_path.glob(".passed-on"))

    with hold(tmp_path):  # as another one does that runs
        log = (tmp_path / "log.txt").read_bytes()
        status, printed = run()
        assert status == 2 and f"{tmp_path} is in use by another process" in printed
        assert (tmp_path / "log.txt").read_bytes() == log

    status, printed = run(stop_at="images are resized already")
    assert status == 130 and len(list((tmp_path / "runs").iterdir())) == 2, printed
    assert re.search(r"run 20\d{6}-\d{6} begins", printed) and folder.name not in printed

    prune(str(tmp_path), 1, tuple, "none")  # which knows all that a run leaves
    assert not folder.exists() and (dataset / "dataset.json").exists()
