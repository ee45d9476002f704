"""The command line as a user meets it: exit status and what it prints, of a process where that matters."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
import typer.testing
import yaml
from conftest import invoke

from latentfaces.pipelines.cli import app

COMMAND = str(Path(sys.executable).parent / "latentfaces")


def run(*arguments, **options):
    return subprocess.run([COMMAND, *map(str, arguments)], capture_output=True, text=True, **options)


def tree(folder):
    return sorted(str(path) for path in folder.rglob("*"))


@pytest.fixture
def places(celeba, tiny_dataset, tmp_path):
    """What the arguments below name in braces."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("no folder")
    return {"celeba": celeba, "dataset": tiny_dataset, "tmp": tmp_path, "out": tmp_path / "out"}


MISTAKES = [
    ("preprocess --source {tmp}/none --output {out}", "{tmp}/none"),
    ("preprocess --source {tmp}/empty --output {out}", "{tmp}/empty"),
    ("preprocess --source {celeba} --output {tmp}/file", "{tmp}/file"),
    ("preprocess --source {celeba} --output {out} --image-size 0", "0"),
    ("preprocess --source {celeba} --output {out} --channels 2", "2"),
    ("preprocess --source {celeba} --output {out} --max-rejected 2", "2"),
    ("preprocess --source {celeba} --output {out} -- --runner=NoRunner", "NoRunner"),
    ("train vae --dataset {tmp}/empty --output {out} --preset small", "{tmp}/empty"),
    ("train vae --dataset {dataset} --output {out} --preset tiny", "tiny"),
    ("train gan --dataset {dataset} --output {out} --preset huge", "huge"),
    ("train gan --dataset {dataset} --output {out} --preset small --batch-size 9 --workers 2", "9"),
    ("train gan --dataset {dataset} --output {out} --preset small --workers 0", "0"),
    ("train gan --dataset {dataset} --output {out} --preset small --epochs 1 --steps 1", "--epochs"),
    ("train gan --dataset {dataset} --output {out} --preset small --steps -1", "--steps"),
    ("train gan --dataset {dataset} --output {out} --preset small --precision int8", "int8"),
    ("train vae --dataset {dataset} --output {out} --preset small --rebalance", "--rebalance"),
    ("train gan --dataset {dataset} --output {tmp}/file --preset small", "{tmp}/file"),
    ("run --source {tmp}/none --root {out}", "{tmp}/none"),
    ("run --source {celeba} --root {out} --param no_such=1", "no_such"),
    ("run --source {celeba} --root {out} --param workers=two", "workers"),
    ("run --source {celeba} --root {out} --param vae_preset=none", "none"),
    ("run --source {celeba} --root {out} --param image_size=30", "30"),
    ("compile --output {tmp}/faces.txt", "{tmp}/faces.txt"),
    ("compile --output {tmp}/a.yaml --env NAME", "--env 'NAME' can't be read"),
    ("compile --output {tmp}/a.yaml --target vertex", "--gpu-type nvidia.com/gpu"),
    ("compile --output {tmp}/a.yaml --target vertex --gpu-type NVIDIA_L4 --mount pvc/a=/b", "--mount"),
    (
        "compile --output {tmp}/a.yaml --target vertex --gpu-type NVIDIA_L4 --shared-memory 2Gi",
        "--shared-memory",
    ),
    ("compile --output {tmp}/a.yaml --target vertex --gpu-type NVIDIA_L4 --memory 8Gi", "--memory 8Gi"),
    ("synthesize --count 0 --output {out}", "0"),
    ("synthesize --count 5 --output {tmp}", "{tmp}"),
]


@pytest.mark.parametrize(("command", "names"), MISTAKES, ids=[command for command, _ in MISTAKES])
def test_a_mistake_is_told_in_one_sentence_before_anything_is_done(places, command, names):
    before = tree(places["tmp"])
    result = invoke(*command.format(**places).split())
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit), result.output
    assert "Traceback" not in result.output
    errors = [line for line in result.stderr.splitlines() if "error:" in line]
    assert errors and names.format(**places) in errors[0], result.stderr
    assert not list(places["tmp"].rglob("*.tfrecord")) and not list(places["tmp"].rglob("*.keras"))
    assert tree(places["tmp"]) == before


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("train vae --dataset {tmp}/empty --output {out} --preset small", "it has no dataset.json"),
        ("run --source {celeba} --root {out} --param image_size=30", "these are 30x30"),
    ],
)
def test_the_installed_command_ends_with_status_2_and_no_library_says_anything(places, command, says):
    result = run(*command.format(**places).split())
    assert (result.returncode, result.stdout) == (2, "")
    [line] = result.stderr.splitlines()
    assert "latentfaces: error: " in line and says in line


def test_a_bucket_that_does_not_exist(bucket, celeba, tiny_dataset):
    for command in (
        f"preprocess --source {celeba} --output gs://none/x",
        f"preprocess --source gs://none --output {celeba}/x",
        f"train gan --dataset {tiny_dataset} --output gs://none/x --preset small",
    ):
        result = run(*command.split())
        assert result.returncode == 2 and "gs://none" in result.stderr, result.stderr
        assert "Traceback" not in result.stderr


def test_every_option_is_explained():
    runner = typer.testing.CliRunner()
    for name, command in typer.main.get_command(app).commands.items():
        shown = runner.invoke(app, [name, "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
        assert command.help and command.help.split(".")[0] in shown
        for option in command.params:
            assert option.help, f"{name} {option.name}"
            assert all(text in shown for text in option.opts if text.startswith("--")), (
                f"{name} {option.name}"
            )


def compiled(*arguments, folder):
    result = invoke("compile", "--output", str(folder / "faces.yaml"), *arguments)
    assert result.exit_code == 0, result.output
    return list(yaml.safe_load_all((folder / "faces.yaml").read_text()))


def test_what_pods_are_given_is_said_by_flags_that_may_be_repeated(tmp_path):
    flags = ["--env", "A=1 2", "--env", "B=x=y", "--node-selector", "disk=ssd", "--node-selector", "zone=a"]
    spec, platforms = compiled(*flags, "--gpu-type", "amd.com/gpu", folder=tmp_path)
    container = spec["deploymentSpec"]["executors"]["exec-train"]["container"]
    assert container["env"] == [{"name": "A", "value": "1 2"}, {"name": "B", "value": "x=y"}]
    assert container["resources"]["accelerator"]["resourceType"] == "amd.com/gpu"
    given = platforms["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-train"]
    assert given["nodeSelector"]["labels"] == {"disk": "ssd", "zone": "a"}


def test_for_vertex_the_ir_has_nothing_of_kubernetes(tmp_path):
    flags = ["--gpu-type", "NVIDIA_L4", "--env", "A=1", "--cpu", "8", "--memory", "30G"]
    (spec,) = compiled("--target", "vertex", *flags, folder=tmp_path)  # one document: no platform's
    for executor in spec["deploymentSpec"]["executors"].values():
        resources = executor["container"].get("resources", {})
        assert resources.get("accelerator", {}).get("resourceType") in (None, "NVIDIA_L4")
        for name in ("resourceMemoryRequest", "resourceMemoryLimit"):
            # what is not known yet is another component's output
            assert re.fullmatch(r"[0-9.]+[KMG]?|\{\{\$.inputs.parameters\[.*\]\}\}", resources.get(name, "1"))
    assert "nvidia.com/gpu" not in json.dumps(spec)


def test_two_commands_from_faces_to_a_data_set(tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # which makes no terminal of a log
    result = run("synthesize", "--count", 30, "--seed", 4, "--output", tmp_path / "faces")
    assert "30 of 30 faces" in result.stderr and "\x1b" not in result.stderr
    assert result.returncode == 0 and "30 faces" in result.stdout, result.stderr
    target = tmp_path / "dataset"
    result = run("preprocess", "--source", tmp_path / "faces", "--output", target, "--image-size", 16)
    assert result.returncode == 0 and "\x1b" not in result.stderr, result.stderr
    splits = json.loads((target / "dataset.json").read_text())["splits"]
    assert sum(split["examples"] for split in splits.values()) == 30


@pytest.fixture(scope="module")
def many(celeba, tmp_path_factory):
    """A folder of 12,000 images: work for seconds."""
    folder = tmp_path_factory.mktemp("many")
    images = sorted((celeba / "img_align_celeba").iterdir())
    for number in range(12_000):
        os.link(images[number % len(images)], folder / f"{number:05d}.jpg")
    return folder


def test_ctrl_c_ends_without_a_traceback(many, tmp_path):  # while training: test_launch.py
    output = tmp_path / "out"
    process = subprocess.Popen(
        [COMMAND, "preprocess", "--source", many, "--output", output],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(output.glob("*/*.tfrecord*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    printed = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in "".join(printed), printed
    assert not list(output.glob("dataset.json")) and not list(output.glob("*/*.tfrecord*"))


def test_ctrl_c_while_the_command_is_imported_shows_no_traceback():
    command = [sys.executable, "-X", "importtime", "-m", "latentfaces", "--help"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        while not process.stderr.readline().endswith(" latentfaces.common\n"):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert "Traceback" not in process.stderr.read()
    assert process.returncode == -signal.SIGINT


def test_ctrl_c_ends_with_its_status_if_what_reads_got_it_first(tmp_path):  # in `2>&1 | cat`
    command = [COMMAND, "synthesize", "--count", "100000", "--output", tmp_path / "faces"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        while not list(tmp_path.rglob("*.jpg")):
            assert process.poll() is None
            time.sleep(0.01)
        process.stderr.close()
        process.send_signal(signal.SIGINT)
    assert process.returncode == 130


def test_the_version_is_the_installed_one():
    result = invoke("--version")
    assert (result.exit_code, result.stdout) == (0, f"latentfaces {version('latentfaces')}\n")


def test_a_reader_that_stops_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run([COMMAND, "--help"], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert "Traceback" not in process.stderr
