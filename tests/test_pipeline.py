"""The pipeline: its compiled form, read back, and a whole run on photographs of all kinds."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import photograph
from kfp import dsl
from PIL import Image

from latentfaces.common.config import RunOptions
from latentfaces.common.models import all_parameters, find_model, joint_parameters, settle
from latentfaces.common.options import parameters, type_and_option
from latentfaces.components.check.component import check
from latentfaces.components.evaluate.component import evaluate
from latentfaces.components.preprocess.component import preprocess
from latentfaces.components.train.component import train
from latentfaces.preprocessing.options import PreprocessConfig

COMMAND = str(Path(sys.executable).parent / "latentfaces")


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


def test_the_steps_depend_on_one_another_as_they_should(tasks):
    after = {name: set(task.get("dependentTasks", [])) for name, task in tasks.items()}
    assert after == {
        "check": set(),
        "preprocess": {"check"},
        "train": {"preprocess"},
        "train-2": {"preprocess"},
        "evaluate": {"preprocess", "train", "train-2"},
    }
    kinds = {
        name: tasks[name]["inputs"]["parameters"]["kind"]["runtimeValue"]["constant"]
        for name in ("train", "train-2")
    }
    assert kinds == {"train": "vae", "train-2": "gan"}


def test_every_option_is_a_parameter_with_its_type_and_default(spec):
    said = spec["root"]["inputDefinitions"]["parameters"]
    kinds = {str: "STRING", int: "NUMBER_INTEGER", float: "NUMBER_DOUBLE", bool: "BOOLEAN", list[str]: "LIST"}
    options = [*parameters(PreprocessConfig), *joint_parameters(), *parameters(RunOptions)]
    expected = {each.name: (kinds[type_and_option(each)[0]], each.default) for each in options}
    places = dict.fromkeys(("source", "root", "destination"), ("STRING", None))
    assert {
        name: (value["parameterType"], value.get("defaultValue")) for name, value in said.items()
    } == expected | places
    assert {name for name, value in said.items() if not value.get("isOptional")} == places.keys()
    assert all(value["description"] for value in said.values())
    assert said["vae_preset"]["defaultValue"] == "faces" and said["gan_preset"]["defaultValue"] == "book"
    assert {"precision", "xla", "gan_rebalance", "checkpoint_minutes", "max_restarts"} <= said.keys()


@pytest.fixture
def checking(celeba, tmp_path):
    """Calls the check's function with the pipeline's defaults and some changes."""
    options = [*parameters(PreprocessConfig), *joint_parameters(), *parameters(RunOptions)]
    values = {each.name: each.default for each in options}
    places = {"source": str(celeba), "root": str(tmp_path / "root"), "destination": str(tmp_path / "out")}
    return lambda **changes: check.python_func(**{**places, **values, **changes})


def test_the_check_returns_the_gpus_as_text(checking, spec):
    # From a NUMBER, Kubeflow's driver drops the limit without a word.
    assert checking(workers=2, gpus_per_worker=4) == "8" and checking() == "0"
    output = spec["components"]["comp-check"]["outputDefinitions"]["parameters"]["Output"]
    assert output["parameterType"] == "STRING"


def test_the_check_refuses_with_status_2_and_leaves_the_sentence(checking, tmp_path, monkeypatch):
    words = tmp_path / "words"
    monkeypatch.setenv("LATENTFACES_LAST_WORDS", str(words))
    monkeypatch.setenv("no_proxy", "")  # which a program extends
    earlier = settle("vae", {"preset": "faces", "seed": 3}, (64, 64, 3))
    (tmp_path / "earlier" / "vae").mkdir(parents=True)
    (tmp_path / "earlier" / "vae" / "config.json").write_text(earlier.to_json())
    for changes, says in (
        ({"gan_batch_size": 9, "workers": 2}, "batch size 9 of the GAN can't be divided among 2 replicas"),
        ({"root": str(tmp_path / "earlier")}, "holds a run whose seed is 3, and 0 is asked for"),
        ({"source": str(tmp_path / "none")}, "none does not exist"),
    ):
        with pytest.raises(SystemExit) as ending:
            checking(**changes)
        assert ending.value.code == 2 and words.read_text().startswith("2 ") and says in words.read_text()
    assert checking(root=str(tmp_path / "earlier"), seed=3) == "0"

    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    with pytest.raises(SystemExit):
        checking()
    assert f"{tmp_path}/root lies on this pod's own disk" in words.read_text()


def test_preprocessing_passes_on_the_description_alone(celeba, tmp_path):
    dataset = dsl.Dataset(uri=str(tmp_path / "dataset.json"))
    values = {each.name: each.default for each in parameters(PreprocessConfig)} | {"image_size": 16}
    location = str(tmp_path / "dataset")
    preprocess.python_func(source=str(celeba), location=location, dataset=dataset, **values)
    assert dataset.metadata["location"] == location
    assert (tmp_path / "dataset.json").read_bytes() == (tmp_path / "dataset" / "dataset.json").read_bytes()


def test_training_and_evaluation_pass_on_few_files_and_numbers(tiny_dataset, tmp_path):
    dataset = dsl.Dataset(metadata={"location": str(tiny_dataset)})
    values = {each.name: each.default for each in [*all_parameters(), *parameters(RunOptions)]}
    models = {}
    for kind in ("vae", "gan"):
        models[kind] = dsl.Model(uri=str(tmp_path / "passed" / kind))
        options = values | {"preset": "small", "steps": 2, "batch_size": 8}
        place = str(tmp_path / kind)
        train.python_func(kind=kind, dataset=dataset, location=place, model=models[kind], **options)
        assert models[kind].metadata["location"] == place
        names = {path.name for path in (tmp_path / "passed" / kind).iterdir()}
        networks = {f"{name}.keras" for name in find_model(kind).network_names}
        assert names == {"config.json", "history.csv", *networks}
    metrics, report = dsl.Metrics(), dsl.HTML(uri=str(tmp_path / "report.html"))
    place = str(tmp_path / "evaluation")
    returned = evaluate.python_func(
        dataset=dataset, destination=place, metrics=metrics, report=report, seed=0, **models
    )
    assert returned == f"{place}/report.html" and "<html" in (tmp_path / "report.html").read_text()
    assert metrics.metadata["gan.diversity"] > 0 and metrics.metadata["vae.reconstruction_mse"] > 0


def test_every_step_has_the_image_and_resources(spec, tasks):
    executors = spec["deploymentSpec"]["executors"]
    assert {executor["container"]["image"] for executor in executors.values()} == {"registry/faces:7"}
    for name, task in tasks.items():
        label = spec["components"][task["componentRef"]["name"]]["executorLabel"]
        resources = executors[label]["container"].get("resources", {})
        if name != "check":
            assert resources["resourceCpuRequest"] == "2" and resources["resourceMemoryRequest"] == "4G"
        if name.startswith("train"):
            accelerator = resources["accelerator"]
            assert accelerator["resourceType"] == "nvidia.com/gpu"
            # what the step "check" computed from workers and gpus_per_worker
            (parameter,) = re.findall(r"inputs\.parameters\['(.*)'\]", accelerator["resourceCount"])
            source = task["inputs"]["parameters"][parameter]["taskOutputParameter"]
            assert source == {"outputParameterKey": "Output", "producerTask": "check"}
            assert task["retryPolicy"]["maxRetryCount"] == 2


def test_what_looks_at_the_world_is_never_taken_from_the_cache(tasks):
    cached = {name for name, task in tasks.items() if task["cachingOptions"].get("enableCache")}
    assert cached == {"train", "train-2", "evaluate"}


def test_it_holds_nothing_of_this_machine(text):
    assert str(Path(__file__).parents[1]) not in text and str(Path.home()) not in text
    assert not re.search(r"(?i)secret|password|token|credential", text)


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


def test_a_whole_run_on_photographs_and_the_same_again(photographs, bucket, tmp_path):
    command = [COMMAND, "run", "--source", photographs, "--root", tmp_path, "--destination", "gs://bucket/e"]
    for parameter in (
        "image_size=32",
        "vae_preset=small",
        "gan_preset=small",
        "vae_epochs=2",
        "gan_epochs=2",
    ):
        command += ["--param", parameter]
    command += ["--param", "vae_batch_size=8", "--param", "gan_batch_size=8", "--param", "max_rejected=0.1"]

    def run():
        # no proxy and no other Python: what the steps need is in the environment of this one
        done = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | {"PATH": "/usr/bin:/bin"}
        )
        assert done.returncode == 0, done.stderr + (tmp_path / "log.txt").read_text()
        return done

    done = run()
    assert "gs://bucket/e/report.html" in done.stdout
    data = json.loads((tmp_path / "dataset" / "dataset.json").read_text())
    assert sum(split["examples"] for split in data["splits"].values()) == 40 and data["rejected"] == 1
    (rejected,) = (tmp_path / "dataset" / "rejected.jsonl").read_text().splitlines()
    assert json.loads(rejected)["source"] == "notes.jpg"
    grids = {path.name for path in (bucket / "e" / "grids").iterdir()}
    assert {"gan_samples.png", "vae_samples.png", "reconstructions.png", "interpolations.png"} <= grids
    assert "<html" in (bucket / "e" / "report.html").read_text()
    assert json.loads((bucket / "e" / "metrics.json").read_text())["gan"]["diversity"] > 0
    made = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*.keras")}
    assert len(made) == 4
    # what it shows is our steps' lines, one each
    assert all(re.match(r"\d\d:\d\d:\d\d latentfaces: ", line) for line in done.stderr.splitlines() if line)

    again = run()
    assert again.stderr.count("is trained already") == 2
    assert made == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*.keras")}
