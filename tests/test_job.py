import contextlib
import errno
import hashlib
import io
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import photograph, write_celeba
from PIL import Image
from rich.console import Console

from latentfaces.common import storage
from latentfaces.common.dataset import add_checksum, read_dataset, shard_name
from latentfaces.common.errors import UserError
from latentfaces.common.examples import load_split
from latentfaces.preprocessing.commit import new_job
from latentfaces.preprocessing.job import run
from latentfaces.preprocessing.options import PreprocessConfig
from latentfaces.preprocessing.plan import PLAN, make_plan, write_plan
from latentfaces.preprocessing.resize import decode, smart_resize
from latentfaces.preprocessing.sources import find
from latentfaces.preprocessing.sources.celeba import ATTRIBUTES
from latentfaces.preprocessing.write import WriteShard

BESIDE = {  # the shards of a data set
    "dataset.json",
    "dataset_info.json",
    "duplicates.jsonl",
    "features.json",
    "grids/crops.png",
    "rejected.jsonl",
}


def files(folder):
    """{name: content} of everything in a local or bucket folder."""
    folder = storage.resolve(folder)
    return {name: storage.read(folder / name) for name in storage.list_files(folder)}


def examples(folder, split):
    """[(pixels, filename, attributes or None)] of a local data set, read by TensorFlow."""
    dataset = read_dataset(folder)
    paths = [str(Path(folder) / shard.name) for shard in dataset.splits[split].shards]
    result = []
    for record in tf.data.TFRecordDataset(paths):
        feature = tf.train.Example.FromString(record.numpy()).features.feature
        pixels = np.frombuffer(feature["image"].bytes_list.value[0], np.uint8).reshape(dataset.image_shape)
        labels = list(feature["attributes"].int64_list.value) if "attributes" in feature else None
        result.append((pixels, feature["filename"].bytes_list.value[0].decode(), labels))
    return result


@pytest.fixture(scope="module")
def reference(celeba, tmp_path_factory):
    """The data set that every way of running the job has to give, from the source `celeba`."""
    output = tmp_path_factory.mktemp("reference")
    run(
        str(celeba),
        str(output),
        image_size=16,
        examples_per_shard=10,
        beam_options=["--direct_num_workers=1"],
    )
    return files(output)


def test_celeba_becomes_resized_labelled_examples(celeba, tmp_path):
    dataset = run(str(celeba), str(tmp_path / "set"), image_size=32)
    assert read_dataset(tmp_path / "set") == dataset
    assert dataset.image_shape == (32, 32, 3) and dataset.attribute_names == ATTRIBUTES
    assert dataset.source == str(celeba) and dataset.rejected == 0
    assert {name: split.examples for name, split in dataset.splits.items()} == {
        "train": 96,
        "valid": 12,
        "test": 12,
    }
    lines = (celeba / "list_attr_celeba.txt").read_text().splitlines()[2:]
    every = [example for split in ("train", "valid", "test") for example in examples(tmp_path / "set", split)]
    assert [name for _, name, _ in every] == [line.split()[0] for line in lines]
    for (pixels, name, labels), line in zip(every, lines, strict=True):
        image = decode((celeba / "img_align_celeba" / name).read_bytes(), 3)
        np.testing.assert_array_equal(pixels, smart_resize(image, 32))
        assert labels == [int(value == "1") for value in line.split()[1:]]


def test_dataset_json_describes_the_shards_that_are_there(reference):
    dataset = json.loads(reference["dataset.json"])
    shards = [shard for split in dataset["splits"].values() for shard in split["shards"]]
    assert {shard["name"] for shard in shards} | BESIDE == set(reference)
    for shard in shards:
        assert len(reference[shard["name"]]) == shard["bytes"]
        assert hashlib.sha256(reference[shard["name"]]).hexdigest() == shard["sha256"]
        assert 0 < shard["examples"] <= 10
    for split, content in dataset["splits"].items():
        checksums = "".join(shard["sha256"] for shard in content["shards"])
        digest, count = hashlib.sha256(checksums.encode()).hexdigest()[:16], len(content["shards"])
        names = [f"{split}-{digest}-{index:05d}-of-{count:05d}.tfrecord" for index in range(count)]
        assert [shard["name"] for shard in content["shards"]] == names


@pytest.mark.parametrize(
    "beam_options",
    [
        ["--direct_num_workers=3"],
        ["--runner=DirectRunner", "--direct_running_mode=in_memory"],
        ["--direct_running_mode=multi_processing", "--direct_num_workers=2"],
    ],
)
def test_the_bytes_do_not_depend_on_runner_and_workers(celeba, tmp_path, reference, beam_options):
    run(str(celeba), str(tmp_path), image_size=16, examples_per_shard=10, beam_options=beam_options)
    assert files(tmp_path) == reference


def test_a_zip_and_a_bucket_give_the_same_bytes(celeba, tmp_path, reference, bucket):
    with zipfile.ZipFile(tmp_path / "img_align_celeba.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((celeba / "img_align_celeba").iterdir()):
            archive.write(path, f"img_align_celeba/{path.name}")
    for path in (*celeba.glob("*.txt"), tmp_path / "img_align_celeba.zip"):
        storage.write(bucket / "celeba" / path.name, path.read_bytes())
    run("gs://bucket/celeba", "gs://bucket/set", image_size=16, examples_per_shard=10)
    result = files("gs://bucket/set")
    dataset = json.loads(result["dataset.json"])
    assert dataset.pop("source") == "gs://bucket/celeba"
    expected = json.loads(reference["dataset.json"])
    del expected["source"]
    assert dataset == expected
    assert result | {"dataset.json": b""} == reference | {"dataset.json": b""}


@pytest.fixture
def photographs(tmp_path):
    """A folder with 10 photographs and 4 files that are none."""
    folder = tmp_path / "photographs"
    (folder / "holiday").mkdir(parents=True)
    for number in range(10):
        mode = ("RGB", "L", "RGBA", "CMYK")[number % 4]
        suffix = "jpg" if mode in ("RGB", "L", "CMYK") else "png"
        image = Image.fromarray(photograph(number, 40 + number, 60)).convert(mode)
        image.save(folder / "holiday" / f"{number}.{suffix}")
    (folder / "notes.doc").write_text("not an image")
    (folder / "empty.jpg").touch()
    (folder / "cut.jpg").write_bytes((folder / "holiday" / "0.jpg").read_bytes()[:700])
    (folder / "huge.pgm").write_bytes(b"P5 60000 60000 255\n")
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    return folder


REFUSALS = {
    "notes.doc": "not an image",
    "empty.jpg": "empty file",
    "cut.jpg": "truncated",
    "huge.pgm": "too many pixels",
}


@pytest.mark.parametrize("channels", [1, 3])
def test_any_photographs_with_bad_files_among_them(photographs, tmp_path, channels):
    output = tmp_path / "set"
    dataset = run(str(photographs), str(output), image_size=16, channels=channels, max_rejected=0.5)
    every = [example for split in ("train", "valid", "test") for example in examples(output, split)]
    expected = {f"holiday/{path.name}" for path in (photographs / "holiday").iterdir()}
    assert {name for _, name, _ in every} == expected and len(every) == 10
    assert all(pixels.shape == (16, 16, channels) and labels is None for pixels, _, labels in every)
    rejected = [json.loads(line) for line in (output / "rejected.jsonl").read_text().splitlines()]
    assert dataset.rejected == len(rejected) == 4
    for line, (name, reason) in zip(rejected, sorted(REFUSALS.items()), strict=True):
        assert line["source"] == name and reason in line["reason"]


@pytest.mark.parametrize("place", ["local", "gs"])
@pytest.mark.parametrize("earlier", [False, True])
def test_too_many_refusals_fail_the_job_after_the_list_is_written(
    celeba, photographs, tmp_path, request, place, earlier
):
    output = tmp_path / "set" if place == "local" else request.getfixturevalue("bucket") / "set"
    if earlier:
        run(str(celeba), str(output), image_size=16)
    before = files(output)
    with pytest.raises(
        UserError, match=r"4 of 14 inputs were refused \(.*: .*, …\), more than --max-rejected 0.28"
    ) as error:
        run(str(photographs), str(output), image_size=16, max_rejected=0.28)
    result = files(output)
    failed = result.pop("rejected.failed.jsonl")
    assert str(output / "rejected.failed.jsonl") in str(error.value)
    assert result == before
    assert {json.loads(line)["source"] for line in failed.splitlines()} == REFUSALS.keys()
    assert run(str(photographs), str(output), image_size=16, max_rejected=0.29).rejected == 4
    result = files(output)
    assert result["rejected.jsonl"] == failed and "rejected.failed.jsonl" not in result
    shards = {shard.name for split in read_dataset(output).splits.values() for shard in split.shards}
    assert result.keys() == BESIDE | shards


def test_where_all_are_refused_no_share_is_said_to_be_too_small(photographs, tmp_path):
    with pytest.raises(
        UserError, match=r"^all 14 inputs were refused \(.*: .*, …\): mend what .*failed.jsonl"
    ):
        run(str(photographs), str(tmp_path / "set"), min_size=1000, max_rejected=1)


def test_small_images_are_refused_by_name(photographs, tmp_path):
    for size, names in ((42, {"0.jpg", "1.jpg"}), (0, set())):
        run(str(photographs), str(tmp_path / "set"), image_size=16, min_size=size, max_rejected=0.5)
        lines = map(json.loads, (tmp_path / "set" / "rejected.jsonl").read_text().splitlines())
        small = {line["source"]: line["reason"] for line in lines if line["source"] not in REFUSALS}
        assert small == {f"holiday/{name}": f"too small: 60×4{name[0]} pixels" for name in names}


def test_flip_doubles_the_split_train_and_no_other(celeba, tmp_path):
    dataset = run(str(celeba), str(tmp_path / "set"), image_size=16, flip=True)
    plain = run(str(celeba), str(tmp_path / "plain"), image_size=16)
    for split in ("valid", "test"):
        assert dataset.splits[split] == plain.splits[split]
    assert dataset.splits["train"].examples == 2 * plain.splits["train"].examples == 192
    flipped, expected = (examples(tmp_path / name, "train") for name in ("set", "plain"))
    assert [name for _, name, _ in flipped[::2]] == [name for _, name, _ in expected]
    for (pixels, name, labels), one, other in zip(expected, flipped[::2], flipped[1::2], strict=True):
        assert other[1] == f"{name}#flipped" and one[2] == other[2] == labels
        np.testing.assert_array_equal(one[0], pixels)
        np.testing.assert_array_equal(other[0], pixels[:, ::-1])


def test_what_is_mirrored_does_not_make_the_refused_fewer(photographs, tmp_path):
    output, console = tmp_path / "set", Console(file=io.StringIO(), force_terminal=True, color_system=None)
    with pytest.raises(UserError, match="4 of 14 inputs were refused"):
        run(str(photographs), str(output), image_size=16, flip=True, max_rejected=0.28)
    run(str(photographs), str(output), image_size=16, flip=True, max_rejected=0.29, console=console)
    assert "14 of 14 images" in console.file.getvalue() and "14 inputs in" in console.file.getvalue()


def test_a_source_whose_name_is_not_utf8_is_read(photographs, tmp_path):
    source = photographs.rename(tmp_path / os.fsdecode(b"caf\xe9\n"))
    dataset = run(str(source), str(tmp_path / "set"), image_size=16, max_rejected=0.5)
    assert read_dataset(tmp_path / "set") == dataset and dataset.source.endswith("caf\\udce9\\n")


def test_progress_and_the_closing_table_are_shown(photographs, tmp_path):
    for terminal in (True, False):
        console = Console(file=io.StringIO(), force_terminal=terminal, color_system=None, width=120)
        run(str(photographs), str(tmp_path / "set"), image_size=16, max_rejected=0.5, console=console)
        text = console.file.getvalue()
        assert "shards on Beam's FnApiRunner, " in text
        assert ("14 of 14 images" in text and "left, 4 refused" in text) == terminal
        for words in ("refused: not an image", "refused: too many pixels", "14 inputs in", "images/s"):
            assert words in text


def test_refused_inputs_and_few_images_are_told(photographs, tmp_path, caplog):
    run(str(photographs), str(tmp_path / "set"), image_size=16, max_rejected=0.5)
    first = min(REFUSALS)
    assert f"4 of 14 inputs were refused, such as {first} (" in caplog.text
    assert "the split train has 7 images: some hundreds are the least" in caplog.text


def test_what_is_no_terminal_gets_no_bar_and_no_colours(photographs, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as notebooks and build servers do
    run(str(photographs), str(tmp_path / "set"), image_size=16, max_rejected=0.5)
    shown = capsys.readouterr().err
    assert "14 inputs in" in shown and "\x1b" not in shown


@pytest.mark.parametrize("place", ["local", "gs"])
def test_an_earlier_data_set_and_leftovers_of_killed_jobs_are_replaced(
    celeba, photographs, tmp_path, request, reference, place
):
    output = tmp_path / "set" if place == "local" else request.getfixturevalue("bucket") / "set"
    run(str(photographs), str(output), image_size=8, max_rejected=0.5)
    names = [f"test-00007-of-00009{content}.tfrecord" for content in ("", f"-{'0' * 16}")]
    for number, account in enumerate([None, json.dumps([*names, "../x", "a"]).encode()]):
        folder = output / f".job-{number:032x}"
        storage.write(folder / "train-00000-of-00009.tfrecord.1234", b"half a shard")
        storage.write(folder / "plan.jsonl", b"")
        if account:
            storage.write(folder / "commit.json", account)
    for name in names:  # as far as it came
        storage.write(output / name, b"of another plan")
    storage.write(output.parent / "x", b"someone else's")
    storage.write(output / "rejected.failed.jsonl", b"of an earlier try")
    storage.write(output / ".lease", b"")  # of a process that was killed
    if place == "gs":
        storage.delete(output / ".lease")  # it would have to run out
    run(str(celeba), str(output), image_size=16, examples_per_shard=10)
    assert files(output) | {"dataset.json": b""} == reference | {"dataset.json": b""}
    assert place == "gs" or not list(output.glob(".*"))
    assert storage.read(output.parent / "x") == b"someone else's"


def make_foreign(folder, name):
    """Puts something of someone else's into a folder."""
    content = b"theirs"
    if name == "dataset.json of another kind":
        name, content = "dataset.json", b'{"version": 1, "rows": 5}'
    elif name == "damaged dataset.json":
        name, content = "dataset.json", storage.read(folder / "dataset.json")[:-100]
    storage.write(folder / name, content)


FOREIGN = [
    "notes.txt",
    "grids/notes.txt",
    "train-00000-of-00010.tfrecord",
    "deeper/x.tfrecord",
    ".job-mine/plan.jsonl",
]


@pytest.mark.parametrize("place", ["local", "gs"])
@pytest.mark.parametrize(
    "earlier, name",
    [
        *((earlier, name) for earlier in (False, True) for name in FOREIGN),
        (False, "dataset.json of another kind"),
        (False, "dataset.json/x"),
        (False, "grids/crops.png/x"),
        (True, "damaged dataset.json"),
    ],
)
def test_an_output_that_holds_anything_not_ours_is_refused(
    celeba, photographs, tmp_path, request, place, earlier, name
):
    output = tmp_path / "set" if place == "local" else request.getfixturevalue("bucket") / "set"
    if earlier:
        run(str(photographs), str(output), image_size=8, max_rejected=0.5)
    make_foreign(output, name)
    before = files(output)
    with pytest.raises(UserError) as error:
        run(str(celeba), str(output), image_size=16)
    assert str(output) in str(error.value) and "name an empty folder" in str(error.value)
    assert files(output) == before


def test_a_description_that_someone_puts_there_meanwhile_is_left_alone(celeba, tmp_path, monkeypatch):
    put, output = WriteShard.setup, tmp_path / "set"
    monkeypatch.setattr(WriteShard, "setup", lambda self: (put(self), make_foreign(output, "dataset.json")))
    with pytest.raises(UserError, match="dataset.json is not a description that this program wrote"):
        run(str(celeba), str(output), image_size=16)
    assert files(output) == {"dataset.json": b"theirs"}


JOB = """
import sys
from latentfaces.preprocessing.job import run
if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], image_size=64)
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """3,000 photographs of CelebA's size, a tenth of a second's reading apart from the decoding."""
    root = tmp_path_factory.mktemp("many")
    write_celeba(root / "first", 300, 218, 178)
    (root / "many").mkdir()
    for number in range(3000):
        os.link(root / f"first/img_align_celeba/{number % 300 + 1:06d}.jpg", root / f"many/{number:06d}.jpg")
    return root / "many"


def test_a_job_killed_at_any_moment_leaves_the_earlier_data_set_and_can_be_run_again(celeba, many, tmp_path):
    output = tmp_path / "set"
    script = tmp_path / "script.py"
    script.write_text(JOB)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    run(str(many), str(tmp_path / "whole"))
    whole = files(tmp_path / "whole")
    earlier = run(str(celeba), str(output), image_size=16)
    moments = {
        "planned": lambda: any(output.glob(".job-*/plan.jsonl")),
        "writing": lambda: any(output.glob(".job-*/*.tfrecord.*")),
        "some shards": lambda: sum(1 for _ in output.glob(".job-*/*.tfrecord")) >= 5,
        "most shards": lambda: sum(1 for _ in output.glob(".job-*/*.tfrecord")) >= len(whole) - 10,
        "committing": lambda: any(output.glob(".job-*/commit.json")),
        "putting in place": lambda: sum(1 for _ in output.glob("*.tfrecord")) > 25,
    }
    committed = False
    for moment, reached in moments.items():
        process = subprocess.Popen([sys.executable, str(script), str(many), str(output)], env=environment)
        while process.poll() is None:
            with contextlib.suppress(FileNotFoundError):  # the job removes folders while we look
                if reached():
                    break
            time.sleep(0.0001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if moment in ("committing", "putting in place"):  # may have been too fast for us
            committed = committed or read_dataset(output) != earlier
        if not committed:
            assert read_dataset(output) == earlier, moment
            assert len(load_split(str(output), "train")[0]) == 96, moment
    run(str(many), str(output))
    assert files(output) == whole
    assert not list(output.glob(".*"))


class Interrupted:
    """Images; something happens before they are read."""

    def __init__(self, images, before_reading):
        self.images = images
        self.before_reading = before_reading

    def read(self, places):
        self.before_reading()
        return self.images.read(places)


def make_writer(source, output, before_reading=lambda: None):
    """A `WriteShard` of a planned job, where its shards stand in the plan, and the job's folder."""
    found, folder = find(str(source)), output / f".job-{'a' * 32}"
    if isinstance(folder, Path):
        folder.mkdir(parents=True)
    units = write_plan(folder, make_plan(found.splits, 16 * 16 * 3, 10))
    images, config = Interrupted(found.images, before_reading), PreprocessConfig(image_size=16)
    writer = WriteShard(images, str(folder), 40, config, 120)
    writer.setup()
    return writer, units, folder


def test_a_retried_shard_is_the_same_and_leaves_nothing_behind(celeba, tmp_path, reference):
    writer, units, folder = make_writer(celeba, tmp_path)
    for unit in (*units, *units[:3]):
        writer.process(unit)
    written = {path.name: path.read_bytes() for path in folder.glob("*.tfrecord")}
    expected = {}
    for split, content in json.loads(reference["dataset.json"])["splits"].items():
        for index, shard in enumerate(content["shards"]):
            planned = shard_name(split, index, len(content["shards"]))
            expected[add_checksum(planned, shard["sha256"])] = reference[shard["name"]]
    assert written == expected
    assert {path.suffix for path in folder.iterdir()} == {".jsonl", ".json", ".hashes", ".png", ".tfrecord"}
    assert list(tmp_path.iterdir()) == [folder]


def test_a_straggler_of_a_dead_job_cannot_write(celeba, tmp_path, bucket):
    # The next job to the same output deletes the dead one's folder, in a bucket the objects in it.
    writer, units, folder = make_writer(celeba, tmp_path / "set", lambda: shutil.rmtree(folder))
    with pytest.raises((FileNotFoundError, RuntimeError)):
        writer.process(units[0])
    assert list((tmp_path / "set").iterdir()) == []

    writer, units, remote = make_writer(celeba, bucket / "set", lambda: storage.delete(remote / PLAN))
    with pytest.raises(RuntimeError, match="is over"):
        writer.process(units[0])
    assert files("gs://bucket/set") == {}


@pytest.mark.parametrize(
    "late", [0, 1, 2]
)  # when it publishes the shard, what it shows of it, or its summary
def test_a_sweep_leaves_a_straggler_nothing_to_publish(celeba, tmp_path, monkeypatch, late):
    writer, units, _ = make_writer(celeba, tmp_path / "set")
    publish, times = storage.publish, itertools.count()

    def sweep_and_publish(*args, **kwargs):
        if next(times) == late:
            with new_job(tmp_path / "set"):
                pass
        publish(*args, **kwargs)

    monkeypatch.setattr(storage, "publish", sweep_and_publish)
    with pytest.raises(FileNotFoundError):
        writer.process(units[0])
    assert list((tmp_path / "set").iterdir()) == []


def test_a_storage_that_fails_fails_the_job_and_refuses_no_image(celeba, tmp_path, monkeypatch):
    read = storage.read

    def failing(path, *args, **kwargs):
        if str(path).endswith("000050.jpg"):
            raise OSError(errno.EIO, "input/output error")
        return read(path, *args, **kwargs)

    monkeypatch.setattr(storage, "read", failing)
    with pytest.raises(OSError) as error:
        run(str(celeba), str(tmp_path / "set"))
    assert error.value.errno == errno.EIO  # as it was, not as the engine would have it
    assert list((tmp_path / "set").iterdir()) == []


def listening():
    """The ports on which this process listens: of /proc/net/tcp's lines those in state 0A."""
    inodes = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            inodes.add(os.readlink(f"/proc/self/fd/{descriptor}"))
    lines = [line.split() for name in ("tcp", "tcp6") for line in open(f"/proc/self/net/{name}")]
    return {line[1] for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in inodes}


@pytest.mark.parametrize("beam_options", [[], ["--direct_running_mode=multi_threading"]])
def test_no_one_can_connect_to_a_job(celeba, tmp_path, monkeypatch, beam_options):
    write, seen, before = WriteShard.write, [], listening()  # as servers of other tests' may

    def look_and_write(*arguments):
        seen.append(listening() - before)
        return write(*arguments)

    with socket.create_server(("127.0.0.1", 0)):
        assert len(listening() - before) == 1
    monkeypatch.setattr(WriteShard, "write", look_and_write)
    run(str(celeba), str(tmp_path), image_size=16, beam_options=beam_options)
    assert seen and not set.union(*seen)


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_workers_is_that_of_the_threads(celeba, tmp_path, monkeypatch, workers):
    write, meeting, inside, most = WriteShard.write, threading.Barrier(workers), [], []

    def meet_and_write(*arguments):
        inside.append(0)
        most.append(len(inside))
        if len(most) <= workers:
            meeting.wait(20)
        result = write(*arguments)
        inside.pop()
        return result

    monkeypatch.setattr(WriteShard, "write", meet_and_write)
    options = [f"--direct_num_workers={workers}"]
    run(str(celeba), str(tmp_path), image_size=16, examples_per_shard=10, beam_options=options)
    assert max(most) == workers


def test_when_a_shard_fails_the_others_stop(celeba, tmp_path, monkeypatch):
    write, meeting, stopped = WriteShard.write, threading.Barrier(2), []

    def fail_and_look(self, unit, stop):
        if meeting.wait(20):
            raise OSError(errno.EIO, "input/output error")
        assert stop.wait(20)
        try:
            write(self, unit, stop)
        except RuntimeError as error:
            stopped.append(str(error))
            raise

    monkeypatch.setattr(WriteShard, "write", fail_and_look)
    with pytest.raises(OSError, match="input/output error"):
        run(str(celeba), str(tmp_path), examples_per_shard=10, beam_options=["--direct_num_workers=2"])
    assert len(stopped) == 1 and "told to stop" in stopped[0]


def test_a_proxy_in_the_environment_is_not_asked(celeba, tmp_path):
    script = "import sys; from latentfaces.preprocessing.job import run; run(*sys.argv[1:], image_size=16)"
    environment = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"}
    environment |= {"http_proxy": "http://127.0.0.1:9", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script, celeba, tmp_path / "set"]
    subprocess.run(command, check=True, env=environment, timeout=30)


def test_all_lasts_through_a_power_cut_before_the_description_tells_of_it(celeba, tmp_path, monkeypatch):
    events, fsync, replace = [], os.fsync, os.replace

    def tell_fsync(descriptor):
        fsync(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        events.append(("lasting", "set" if path == tmp_path / "set" else path.name.split(".json.")[0]))

    def tell_replace(source, target):
        replace(source, target)
        if Path(target).parent == tmp_path / "set":
            events.append(("named", Path(target).name.removesuffix(".json")))

    monkeypatch.setattr(os, "fsync", tell_fsync)
    monkeypatch.setattr(os, "replace", tell_replace)
    dataset = run(str(celeba), str(tmp_path / "set"), image_size=16)
    shards = [
        (shard_name(split, index, len(content.shards)), shard.sha256, shard.name)
        for split, content in dataset.splits.items()
        for index, shard in enumerate(content.shards)
    ]
    described = events.index(("named", "dataset"))
    before = [kind_and_name for kind_and_name in events[:described]]
    for planned, sha256, name in shards:
        assert before.index(("lasting", add_checksum(planned, sha256))) < before.index(("named", name))
    last = max(before.index(("named", name)) for *_, name in shards)
    assert ("lasting", "set") in before[last:] and ("lasting", "dataset") in before[last:]
    assert ("lasting", "set") in events[described:]


@pytest.fixture
def small_disk(tmp_path):
    """An empty file system whose size can be changed: (its folder, how to)."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100m,nr_inodes=1000", "tmpfs", folder]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    yield folder, lambda options: subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("what", ["space", "inodes"])
def test_a_full_disk_is_told_and_harms_no_earlier_data_set(celeba, photographs, small_disk, what):
    folder, resize = small_disk
    output = folder / "set"
    run(str(photographs), str(output), image_size=8, max_rejected=0.5)
    before, status, failures = files(output), os.statvfs(folder), 0
    for more in itertools.count(step := 10 if what == "space" else 1, step):
        blocks, inodes = (status.f_blocks - status.f_bfree), (status.f_files - status.f_ffree)
        resize(f"nr_blocks={blocks + more}" if what == "space" else f"nr_inodes={inodes + more}")
        try:
            run(str(celeba), str(output), image_size=16, examples_per_shard=30)
        except UserError as error:
            assert str(error).startswith(f"there is no space left for the data set in {output}")
            assert "\n" not in str(error)
            assert files(output) == before
            failures += 1
        else:
            break
    assert failures > 3
    assert len(load_split(str(output), "train")[0]) == 96


@pytest.mark.parametrize(
    "options, words",
    [
        ({"image_size": 0}, "--image-size 0 is out of bounds"),
        ({"channels": 4}, "--channels 4 is unknown: choose one of 1, 3"),
        ({"crop": "eyes"}, "--crop eyes is unknown: choose one of center, faces"),
        ({"labels": "names"}, "--labels names is unknown: choose one of lists, folders"),
        ({"labels": "folders", "attributes": "x.csv"}, "--attributes and --labels folders both name labels"),
        ({"labels": "folders"}, "has images in 0 folders beside one another"),
        ({"max_rejected": 1.5}, "--max-rejected 1.5 is out of bounds"),
        ({"examples_per_shard": -1}, "examples_per_shard -1 is out of bounds"),
        ({"source": "nowhere"}, "does not exist"),
        ({"source": "gs://no-such-bucket/celeba"}, "no bucket gs://no-such-bucket"),
        ({"output": "gs://no-such-bucket/set"}, "no bucket gs://no-such-bucket"),
        ({"output": "s3://bucket/set"}, "s3://bucket/set cannot be read"),
        ({"beam_options": ["--direct_num_worker=2"]}, "no option --direct_num_worker"),
        ({"beam_options": ["--direct_num_workers=many"]}, "invalid int value: 'many'"),
        ({"beam_options": ["--runner=NoSuchRunner"]}, "no runner NoSuchRunner"),
        ({"beam_options": ["--runner=collections.OrderedDict"]}, "OrderedDict is no runner of Beam's"),
        ({"beam_options": ["--runner=os.path"]}, "no runner os.path"),
        ({"beam_options": ["two"]}, "'two' is no option"),
        ({"beam_options": ["--direct_num_workers=-1"]}, "between 0, for all cores, and 1024"),
        ({"beam_options": ["--direct_num_workers=99999"]}, "between 0, for all cores, and 1024"),
        ({"beam_options": ["--runner=DataflowRunner"]}, "does not take these options: Missing .* region"),
        ({"beam_options": ["--runner=PortableRunner"]}, "needs --job_endpoint=HOST:PORT"),
        (
            {"beam_options": ["--runner=PortableRunner", "--job_endpoint=localhost:1"]},
            "no one listens at --job_endpoint=localhost:1 .*refused",
        ),
        (
            {"beam_options": ["--runner=FlinkRunner", "--job_endpoint=localhost"]},
            "no one listens at --job_endpoint=localhost .*not of the form HOST:PORT",
        ),
        (
            {"beam_options": ["--runner=dask", "--dask_client_address=tcp://127.0.0.1:1"]},
            "no one listens at --dask_client_address=tcp://127.0.0.1:1 .*refused",
        ),
    ],
)
def test_mistakes_are_told_before_any_work(celeba, tmp_path, bucket, options, words):
    arguments = {"source": str(celeba), "output": str(tmp_path / "set")} | options
    with pytest.raises(UserError, match=words):
        run(**arguments)
    assert not (tmp_path / "set").exists()


def test_an_output_that_cannot_be_is_told(celeba, tmp_path):
    (tmp_path / "file").touch()
    for output, words in ((tmp_path / "file", "cannot be written"), (celeba / "set", "lies in the source")):
        with pytest.raises(UserError, match=words):
            run(str(celeba), str(output))


def test_writing_a_data_set_needs_no_tensorflow_and_no_other_runner():
    code = (
        "import sys, latentfaces.preprocessing.job; from latentfaces.preprocessing import engine; "
        "engine.parse_options(['--runner=DirectRunner']); "
        "assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules; "
        "assert 'apache_beam.runners.portability.prism_runner' not in sys.modules"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
