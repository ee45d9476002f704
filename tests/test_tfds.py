import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import photograph

from latentfaces.common.dataset import read_dataset
from latentfaces.common.examples import load_split
from latentfaces.preprocessing.job import run
from latentfaces.preprocessing.sources.split import hash_split

PAGE = Path(__file__).parent.parent / "docs" / "reading.md"
EXAMPLES = dict(re.findall(r"^## (.*?)\n.*?```python\n(.*?)```", PAGE.read_text(), re.DOTALL | re.MULTILINE))

# In a process of its own: the package's protocol buffers have the names of TensorFlow's.
READ = """
import json, sys
from tfrecord.reader import tfrecord_loader
for path in sys.argv[1:]:
    for each in tfrecord_loader(path, None, {"filename": "byte", "image": "byte", "attributes": "int"}):
        print(json.dumps([each["filename"].decode(), each["image"].hex(), each["attributes"].tolist()]))
"""


@pytest.fixture(scope="module")
def dataset(celeba, tmp_path_factory):
    folder = tmp_path_factory.mktemp("elsewhere") / "dataset"
    run(str(celeba), str(folder), image_size=16, examples_per_shard=10)
    return folder


@pytest.fixture(scope="module")
def without_labels(tmp_path_factory):
    source, folder = tmp_path_factory.mktemp("photographs"), tmp_path_factory.mktemp("elsewhere") / "dataset"
    for number in range(3):
        cv2.imwrite(str(source / f"{number}.png"), photograph(number, 9, 12))
    run(str(source), str(folder), image_size=8, channels=1)
    return folder


def test_tensorflow_datasets_opens_it(dataset):
    builder, described = tfds.builder_from_directory(dataset), read_dataset(dataset)
    assert described.attribute_names[0] in builder.info.description
    for split, content in described.splits.items():
        assert builder.info.splits[split].num_examples == content.examples
        images, attributes, names = load_split(str(dataset), split)
        read = list(tfds.as_numpy(builder.as_dataset(split=split)))
        assert [example["filename"].decode() for example in read] == names
        np.testing.assert_array_equal([example["image"] for example in read], images)
        np.testing.assert_array_equal([example["attributes"] for example in read], attributes)


def test_tensorflow_datasets_opens_one_without_labels_or_a_split(without_labels):
    builder, described = tfds.builder_from_directory(without_labels), read_dataset(without_labels)
    assert set(builder.info.splits) == {name for name, split in described.splits.items() if split.examples}
    images, _, names = load_split(str(without_labels), "train")
    read = {each["filename"].decode(): each for each in tfds.as_numpy(builder.as_dataset(split="train"))}
    assert list(read) == names and all(set(each) == {"filename", "image"} for each in read.values())
    np.testing.assert_array_equal([each["image"] for each in read.values()], images)


def test_a_split_of_which_nothing_is_left_is_none(tmp_path):
    source = tmp_path / "photographs"
    source.mkdir()
    for number in range(30):
        image = photograph(0 if hash_split(f"{number}.png") == "valid" else number, 9, 12)
        cv2.imwrite(str(source / f"{number}.png"), image)
    (test,) = [name for name in map("copy{}.png".format, range(9)) if hash_split(name) == "test"][:1]
    cv2.imwrite(str(source / test), photograph(0, 9, 12))
    dataset = run(str(source), str(tmp_path / "set"), image_size=8, drop_duplicates=True)
    assert dataset.splits["valid"].shards and not dataset.splits["valid"].examples
    assert set(tfds.builder_from_directory(tmp_path / "set").info.splits) == {"train", "test"}


def test_the_package_tfrecord_reads_it(dataset):
    images, attributes, names = load_split(str(dataset), "valid")
    paths = [str(dataset / shard.name) for shard in read_dataset(dataset).splits["valid"].shards]
    read = subprocess.run([sys.executable, "-c", READ, *paths], stdout=subprocess.PIPE, check=True).stdout
    expected = zip(names, images, attributes, strict=True)
    assert [json.loads(line) for line in read.splitlines()] == [
        [name, image.tobytes().hex(), labels.tolist()] for name, image, labels in expected
    ]


@pytest.mark.parametrize("library", ["TensorFlow Datasets", "tf.data", "PyTorch"])
def test_the_examples_of_the_page_work(library, dataset, without_labels):
    if library == "PyTorch":
        pytest.importorskip("torch")  # which is no dependency of ours
    for folder, shape in ((dataset, [16, 16, 3]), (without_labels, [8, 8, 1])):
        command = [sys.executable, "-c", EXAMPLES[library]]
        printed = subprocess.run(command, cwd=folder.parent, stdout=subprocess.PIPE, text=True, check=True)
        sides = shape if library != "PyTorch" else [shape[2], *shape[:2]]
        assert ", ".join(map(str, sides)) in printed.stdout
