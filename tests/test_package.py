"""The package as it is installed and imported."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def python(code, **options):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **options)


def test_importing_it_is_cheap_and_leaves_logging_alone():
    code = """
import logging, sys
root = logging.root
before = root.filters[:], root.handlers[:], root.level, root.manager.disable
import latentfaces, latentfaces.pipelines.cli
assert not {"tensorflow", "keras", "apache_beam", "kfp"} & sys.modules.keys()
assert before == (root.filters, root.handlers, root.level, root.manager.disable)
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import latentfaces"], capture_output=True, text=True
    )
    line = next(line for line in done.stderr.splitlines() if line.endswith("| latentfaces"))
    assert int(line.split("|")[1]) < 100_000  # microseconds


def test_its_interface_is_what_it_says():
    import latentfaces

    for name in latentfaces.__all__:
        assert getattr(latentfaces, name).__doc__
    with pytest.raises(AttributeError, match="no_such"):
        _ = latentfaces.no_such


def test_python_m_is_the_command(tmp_path):
    command = [sys.executable, "-m", "latentfaces", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and "synthesize" in done.stdout


def test_a_source_distribution_has_all_that_a_beam_worker_needs(tmp_path):
    # What Beam does with --setup_file
    subprocess.run(
        [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", tmp_path, "sdist", "-d", tmp_path],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    target, source = tmp_path / "installed", tmp_path / archive.name.removesuffix(".tar.gz")
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*install, "--target", target, source], check=True)
    assert {path.name for path in target.iterdir() if not path.name.endswith(".dist-info")} <= {
        "latentfaces",
        "bin",
    }
    code = """
import json, latentfaces, latentfaces.preprocessing.write
from importlib.resources import files
template = files("latentfaces.components.evaluate").joinpath("report.html.jinja")
print(json.dumps([latentfaces.__file__, template.is_file()]))
"""
    done = python(code, env=os.environ | {"PYTHONPATH": str(target)}, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [str(target / "latentfaces" / "__init__.py"), True]


def test_the_import_of_tensorflow_is_quiet_but_for_last_words(tmp_path):
    quiet = python("from latentfaces.common.program import import_tensorflow as i; i()")
    assert (quiet.returncode, quiet.stderr) == (0, "")
    (tmp_path / "tensorflow.py").write_text(
        "import os\nos.write(2, b'I0000 00:00 greeting\\nF0000 00:00 no such instruction\\n')\nos.abort()\n"
    )
    crash = python(
        "from latentfaces.common.program import import_tensorflow as i; i()",
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert crash.returncode < 0 and crash.stderr == "F0000 00:00 no such instruction\n"


def test_programs_keep_traffic_to_this_machine_from_a_proxy_and_their_children_from_the_working_folder():
    code = """
import os
from latentfaces.common.program import start_logging
start_logging()
print(os.environ["no_proxy"], os.environ["NO_PROXY"], os.environ["PYTHONSAFEPATH"])
"""
    done = python(code, env=os.environ | {"NO_PROXY": "corp.example,localhost", "no_proxy": ""})
    hosts = "corp.example,localhost,127.0.0.1,::1"
    assert done.stdout.split() == [hosts, hosts, "1"]


def test_keras_is_set_up_as_we_need_it_whatever_the_environment_says(tmp_path):
    (tmp_path / "keras.json").write_text(
        json.dumps(
            {"backend": "jax", "floatx": "float16", "image_data_format": "channels_first", "epsilon": 0.1}
        )
    )
    code = """
from latentfaces.common.program import import_tensorflow
import_tensorflow()
from keras import config
print(config.backend(), config.floatx(), config.image_data_format(), config.epsilon())
"""
    done = python(code, env=os.environ | {"KERAS_HOME": str(tmp_path), "KERAS_BACKEND": "torch"})
    assert done.stdout.split() == ["tensorflow", "float32", "channels_last", "1e-07"], done.stderr
