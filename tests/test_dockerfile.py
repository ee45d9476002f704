"""The image: what can break in it without an engine to build it and, where there is one, the image itself."""

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import apache_beam
import pytest
import setuptools  # noqa: F401 - brings distutils
from packaging.requirements import Requirement

from latentfaces.preprocessing import drawn_faces, job

ROOT = Path(__file__).parents[1]
BOOT = "/opt/apache/beam/boot"
FOLDERS = ("common", "components", "pipelines", "preprocessing")


@pytest.fixture(scope="module")
def dockerfile():
    """The Dockerfile's instructions, [(name, rest)], without comments and with continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line]


def last(dockerfile, name):
    return [rest for instruction, rest in dockerfile if instruction == name][-1]


def read_lock(name):
    """The versions in a lock file, each of which has hashes."""
    text = (ROOT / f"requirements-{name}.lock").read_text()
    assert text.count("==") == len(
        re.findall(r"^[\w.\[\]-]+==\S+ \\\n    --hash=sha256:", text, re.MULTILINE)
    )
    return dict(re.findall(r"^([\w.-]+)(?:\[[\w,-]+\])?==(\S+)", text, re.MULTILINE))


def is_sent(path):
    """Whether .dockerignore lets a path through: the last pattern that matches it or a parent decides."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().split():
        pattern = line.removeprefix("!").removeprefix("**/")
        candidates = path.parts if "**/" in line else [path, *path.parents][:-1]
        if any(fnmatch.fnmatchcase(str(candidate), pattern) for candidate in candidates):
            sent = line.startswith("!")
    return sent


@pytest.fixture(scope="module")
def sent(tmp_path_factory):
    """A copy of the files that the build gets to see."""
    folder = tmp_path_factory.mktemp("sent")
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.check_output(listed, cwd=ROOT, text=True).splitlines():
        if is_sent(Path(name)) and (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def test_all_images_start_from_the_base_image_and_the_last_runs_as_a_numeric_user(dockerfile):
    assert dockerfile[0][0] == "ARG" and dockerfile[0][1].startswith("BASE_IMAGE=")
    origins = [rest.split()[0] for name, rest in dockerfile if name == "FROM"]
    assert set(origins) <= {"${BASE_IMAGE}", "build"} and origins[-1] == "${BASE_IMAGE}"
    assert int(last(dockerfile, "USER").split(":")[0]) > 0  # Kubernetes' runAsNonRoot takes no name


def test_the_lock_has_a_fitting_version_of_all_that_the_package_requires():
    from distutils.core import run_setup

    required = run_setup(str(ROOT / "setup.py"), stop_after="init").install_requires
    assert len(required) > 10
    for lock in ("cpu", "gpu", "dev"):
        pins = read_lock(lock)
        if lock == "cpu":
            pins["tensorflow"] = pins.pop("tensorflow-cpu")
        for requirement in map(Requirement, required):
            assert requirement.specifier.contains(pins[requirement.name]), (lock, requirement)


def test_what_is_tested_is_what_the_images_have():
    tested, cpu, gpu = read_lock("dev"), read_lock("cpu"), read_lock("gpu")
    assert cpu.pop("tensorflow-cpu") == tested["tensorflow"]
    for pins in (cpu, gpu):
        ours = {name: version for name, version in pins.items() if not name.startswith("nvidia-")}
        assert {name: tested.get(name) for name in ours} == ours
    assert any(name.startswith("nvidia-nccl") for name in gpu)


def test_the_boot_program_is_of_beams_version(dockerfile):
    command = re.search(r'sed -n "s/\^apache-beam.*? requirements-cpu\.lock', str(dockerfile)).group()
    command = command.replace("\\\\", "\\")  # str() doubled them
    version = subprocess.check_output(["sh", "-c", command], cwd=ROOT, text=True).strip()
    assert version == apache_beam.__version__


def test_the_build_sees_what_it_copies_and_nothing_else(dockerfile, sent):
    copied = [rest.split()[:-1] for name, rest in dockerfile if name == "COPY" and "--from" not in rest]
    assert copied and all(source == "." or list(sent.glob(source)) for each in copied for source in each)
    assert {path.name for path in sent.iterdir()} == {
        *(f"requirements-{name}.lock" for name in ("boot", "cpu", "dev", "gpu")),
        *("setup.py", "pyproject.toml", "__init__.py", "__main__.py", *FOLDERS),
    }
    assert not is_sent(Path("components/train/__pycache__/run.pyc"))


def test_a_wheel_of_what_the_build_sees_has_every_file_of_the_package(sent, tmp_path):
    source = shutil.copytree(sent, tmp_path / "source")  # the build leaves files behind
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", tmp_path, source], check=True)
    files = {
        f"latentfaces/{path.relative_to(sent)}"
        for path in (
            sent / "__init__.py",
            sent / "__main__.py",
            *(p for name in FOLDERS for p in (sent / name).rglob("*")),
        )
        if path.is_file()
    }
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == files  # one name in site-packages, and nothing else


@pytest.mark.parametrize(
    ("arguments", "output"),
    [(["--id=1", "--a=b c"], "boot:--id=1:--a=b c:"), (["printf", "%s.", "a b", "-c"], "a b.-c.")],
)
def test_options_alone_start_beams_boot_program(dockerfile, arguments, output, tmp_path):
    boot = tmp_path / "boot"
    boot.write_text("#!/bin/sh\nprintf '%s:' boot \"$@\"\n")
    boot.chmod(0o755)
    entrypoint = json.loads(last(dockerfile, "ENTRYPOINT").replace(BOOT, str(boot)))
    assert subprocess.check_output([*entrypoint, *arguments], text=True) == output
    assert BOOT in [rest.split()[-1] for name, rest in dockerfile if name == "COPY"]


@pytest.fixture
def container():
    """A container of the image, built by buildah on $BASE_IMAGE."""
    network = ["--network", "host"]
    certificates = os.environ.get("SSL_CERT_FILE")  # of a proxy, perhaps
    mount = ["--volume", f"{certificates}:/etc/ssl/certs/ca-certificates.crt:ro"] if certificates else []
    base = f"BASE_IMAGE={os.environ['BASE_IMAGE']}"
    build = ["buildah", "bud", "--quiet", *network, *mount, "--build-arg", base, ROOT]
    image = subprocess.check_output(build, text=True).split()[-1]
    name = subprocess.check_output(["buildah", "from", image], text=True).strip()
    yield name
    subprocess.run(["buildah", "rm", name], check=True)
    subprocess.run(["buildah", "rmi", image], check=True)


@pytest.mark.slow
@pytest.mark.skipif(
    not (shutil.which("buildah") and "BASE_IMAGE" in os.environ),
    reason="needs buildah, and in BASE_IMAGE the name of an image with Python 3.11",
)
def test_the_image_trains_as_its_user_and_writes_to_tmp_alone(container, tmp_path):
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    drawn_faces.synthesize(str(scratch / "faces"), 60, 0)
    job.run(str(scratch / "faces"), str(scratch / "dataset"), image_size=32)
    for path in (tmp_path, *tmp_path.parents[:3], scratch):
        path.chmod(path.stat().st_mode | 0o755)
    scratch.chmod(0o1777)
    # find fails on folders that the user can't read; nor can it write there
    script = """
        test "$(id -u)" != 0 && touch /tmp/started
        latentfaces preprocess --source faces --output again --image-size 32
        latentfaces train gan --dataset again --output gan --preset small --steps 2 --workers 2
        find / -xdev -newer /tmp/started -type f ! -path '/tmp/*' 2>/dev/null || true
    """
    run = ["buildah", "run", "--network", "host", "--volume", f"{scratch}:/tmp", container, "--"]
    output = subprocess.check_output([*run, "sh", "-ec", script], text=True)
    assert (scratch / "gan" / "generator.keras").exists()
    for shard in (scratch / "dataset").glob("*.tfrecord"):
        assert (scratch / "again" / shard.name).read_bytes() == shard.read_bytes()
    assert not re.findall(r"^/.*", output, re.MULTILINE), "written outside /tmp"
