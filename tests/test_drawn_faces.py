import os
import re
import signal
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentfaces.common.errors import UserError
from latentfaces.preprocessing.drawn_faces import DRAWN, choose_look, draw_face, synthesize
from latentfaces.preprocessing.sources import find
from latentfaces.preprocessing.sources.celeba import ATTRIBUTES

COUNT, SEED = 900, 3
HAIR_COLOURS = {"Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair"}


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    synthesize(folder, COUNT, SEED)
    return folder


@pytest.fixture(scope="module")
def labels(drawn):
    """Attribute name -> its column of the label file, as -1 and 1."""
    lines = (drawn / "list_attr_celeba.txt").read_text().splitlines()
    values = np.array([line.split()[1:] for line in lines[2:]], int)
    return dict(zip(lines[1].split(), values.T, strict=True))


@pytest.fixture(scope="module")
def pixels(drawn):
    """The square in the middle, at 32x32 without antialiasing, as the demo sees it: float64 [COUNT, 3072]."""
    at = np.floor((np.arange(32) + 0.5) * 178 / 32).astype(int)
    images = [
        np.asarray(Image.open(drawn / "img_align_celeba" / f"{i:06d}.jpg")) for i in range(1, COUNT + 1)
    ]
    return np.stack([image[20:198][at][:, at].ravel() / 255 for image in images])


def test_label_file_is_in_the_official_format(drawn, labels):
    lines = (drawn / "list_attr_celeba.txt").read_text().split("\n")
    assert lines[0] == str(COUNT)
    assert lines[1].split(" ") == list(ATTRIBUTES)
    assert lines[-1] == "" and len(lines) == COUNT + 3
    for index, line in enumerate(lines[2:-1], 1):
        assert re.fullmatch(rf"{index:06d}\.jpg( (-1| 1)){{40}}", line)


def test_partition_is_contiguous_and_in_celebas_proportions(drawn):
    lines = (drawn / "list_eval_partition.txt").read_text().splitlines()
    # 900 * 162770 / 202599 = 723.07, and 900 * (162770 + 19867) / 202599 = 811.32
    parts = [0] * 723 + [1] * 88 + [2] * 89
    assert lines == [f"{index:06d}.jpg {part}" for index, part in enumerate(parts, 1)]


def test_images_are_rgb_jpegs_of_celebas_size(drawn):
    names = sorted(path.name for path in (drawn / "img_align_celeba").iterdir())
    assert names == [f"{index:06d}.jpg" for index in range(1, COUNT + 1)]
    for name in names[::50]:
        with Image.open(drawn / "img_align_celeba" / name) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (178, 218))


def test_the_job_reads_it_as_celeba(drawn):
    found = find(str(drawn))
    assert {split: len(images) for split, images in found.splits.items()} == {
        "train": 723,
        "valid": 88,
        "test": 89,
    }
    assert found.attribute_names == ATTRIBUTES and not found.refused


def test_labels_are_what_was_drawn(labels):
    for index in (0, 450, COUNT - 1):
        _, present = draw_face(np.random.default_rng((SEED, index + 1)))
        assert {name for name, column in labels.items() if column[index] == 1} == present


def test_attributes_are_frequent_and_independent():
    looks = [choose_look(np.random.default_rng((11, index))).present for index in range(5000)]
    shown = {name: np.array([name in present for present in looks]) for name in DRAWN}
    exclusive = {frozenset(pair) for pair in combinations(sorted(HAIR_COLOURS), 2)}
    exclusive |= {frozenset(("Bald", name)) for name in HAIR_COLOURS | {"Bangs", "Wavy_Hair"}}
    for name, column in shown.items():
        assert 0.08 < column.mean() < 0.75, name
    for a, b in combinations(DRAWN, 2):
        if {a, b} in exclusive:
            assert not (shown[a] & shown[b]).any()
        else:
            # Four standard errors and the little that baldness adds among bangs, waves and hair colours.
            assert abs(np.corrcoef(shown[a], shown[b])[0, 1]) < 0.1, (a, b)


def test_other_attributes_are_absent(labels):
    assert {name for name, column in labels.items() if (column == 1).any()} == set(DRAWN)
    assert len(DRAWN) >= 10


# Brown is a colour between others, which no linear function singles out.
@pytest.mark.parametrize("name", sorted(set(DRAWN) - {"Brown_Hair"}))
def test_a_linear_classifier_sees_it_at_32_pixels(pixels, labels, name):
    """Ridge regression on 700 faces; how surely it ranks others with the attribute above others without."""
    x, y = pixels - pixels[:700].mean(0), labels[name].astype(float)
    weights = x[:700].T @ np.linalg.solve(x[:700] @ x[:700].T + 20 * np.eye(700), y[:700] - y[:700].mean())
    score = x[700:] @ weights
    with_it, without = score[y[700:] == 1], score[y[700:] == -1]
    least = {"Eyeglasses": 0.99, "Smiling": 0.99, "Wavy_Hair": 0.85, "Wearing_Hat": 0.9}.get(name, 0.97)
    assert (with_it[:, None] > without).mean() > least  # area under the ROC curve


def test_same_seed_same_bytes_whatever_the_count(drawn, tmp_path):
    synthesize(tmp_path / "few", 60, SEED)
    first = files(tmp_path / "few")
    for name, content in first.items():
        if name.endswith(".jpg"):
            assert content == (drawn / name).read_bytes()
    synthesize(tmp_path / "few", 60, SEED)
    assert files(tmp_path / "few") == first

    synthesize(tmp_path / "other", 60, SEED + 1)
    other = files(tmp_path / "other")
    assert other.keys() == first.keys()
    assert not any(other[name] == first[name] for name in first if name.endswith(".jpg"))


def test_refuses_a_folder_that_holds_anything_else(tmp_path):
    photograph = tmp_path / "img_align_celeba" / "000001.jpg"
    photograph.parent.mkdir()
    photograph.write_bytes(b"a real one")
    with pytest.raises(UserError, match="is not empty"):
        synthesize(tmp_path, 5, 0)
    assert files(tmp_path) == {"img_align_celeba/000001.jpg": b"a real one"}


def test_refuses_drawn_faces_of_another_seed_or_count(tmp_path):
    synthesize(tmp_path, 3, 0)
    before = files(tmp_path)
    for count, seed in ((3, 1), (4, 0)):
        with pytest.raises(UserError, match="count and seed"):
            synthesize(tmp_path, count, seed)
    assert files(tmp_path) == before


def test_refuses_what_is_out_of_range(tmp_path):
    (tmp_path / "file").write_text("")
    for output, count, seed, reason in (
        (tmp_path / "new", 0, 0, "--count 0 is out of bounds: it has to be at least 1"),
        (tmp_path / "new", 1, -1, "--seed -1 is out of bounds: it has to be at least 0"),
        (tmp_path / "file", 1, 0, "is a file"),
        ("gs://bucket/faces", 1, 0, "not a local folder"),
        (Path("gs://bucket/faces"), 1, 0, "not a local folder"),
        ("~no-one-of-this-name/faces", 1, 0, "names no one's home"),
    ):
        with pytest.raises(UserError, match=reason):
            synthesize(output, count, seed)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("seed", [2**31, 2**32, 20_260_101_120_000, 10**40])
def test_takes_any_seed_from_zero_on(tmp_path, seed):
    synthesize(tmp_path, 2, seed)
    synthesize(tmp_path, 2, seed)  # it is known again
    image, _ = draw_face(np.random.default_rng((seed, 1)))
    image.save(tmp_path / "expected.jpg", quality=93)
    drawn = (tmp_path / "img_align_celeba" / "000001.jpg").read_bytes()
    assert drawn == (tmp_path / "expected.jpg").read_bytes()


def test_finds_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for number, output in enumerate(("~/faces0", Path("~/faces1"))):
        synthesize(output, 1, 0)
        assert (tmp_path / f"faces{number}" / "img_align_celeba" / "000001.jpg").is_file()
    assert not (tmp_path / "~").exists()


def test_runs_nothing_that_lies_in_the_working_directory(tmp_path):
    """Also where the caller, a program in another folder, has not asked for that."""
    (tmp_path / "program.py").write_text(
        "from latentfaces.preprocessing.drawn_faces import synthesize\n"
        "if __name__ == '__main__': synthesize('faces', 1, 0)\n"
    )
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    for name in ("multiprocessing", "random", "struct"):
        (downloads / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, str(tmp_path / "program.py")]
    subprocess.run(command, cwd=downloads, env=environment, check=True, timeout=60)
    assert (downloads / "faces" / "img_align_celeba" / "000001.jpg").is_file()
    assert not (tmp_path / "ran").exists()


def test_an_interrupt_leaves_no_process_and_no_data_set(tmp_path):
    code = (
        "import signal, sys; from latentfaces.preprocessing.drawn_faces import synthesize;"
        "signal.signal(signal.SIGINT, signal.default_int_handler);"  # a background job's is ignored
        "synthesize(sys.argv[1], 5000, 0)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    job = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        deadline = time.monotonic() + 30
        while len(list(tmp_path.glob(".img_align_celeba/*.jpg"))) < 20 and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(job.pid, signal.SIGINT)  # what Ctrl-C does: every process of the terminal's group gets it
        _, errors = job.communicate(timeout=30)  # returns when the last process that has stderr open is gone
        assert job.returncode != 0 and errors.count("KeyboardInterrupt") == 1
    finally:
        job.kill()
    assert not (tmp_path / "img_align_celeba").exists() and not list(tmp_path.glob("list_*"))
