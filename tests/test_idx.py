"""Digits in IDX files, as MNIST is distributed: the same as in Keras' mnist.npz."""

import gzip
import shutil
import struct
import tracemalloc

import numpy as np
import pytest
from test_sources import contents

from latentfaces.common import storage
from latentfaces.common.errors import UserError
from latentfaces.preprocessing import job
from latentfaces.preprocessing.fingerprint import fingerprint
from latentfaces.preprocessing.options import PreprocessConfig
from latentfaces.preprocessing.sources import find, idx

FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}


def packed(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture(scope="module")
def arrays():
    random = np.random.default_rng(0)
    images, classes = random.integers(0, 256, (300, 28, 28), np.uint8), random.integers(0, 10, 300, np.uint8)
    return {
        "x_train": images[:250],
        "y_train": classes[:250],
        "x_test": images[250:],
        "y_test": classes[250:],
    }


@pytest.fixture
def digits(arrays, tmp_path):
    """The folder, and the same as an .npz beside it."""
    (folder := tmp_path / "digits").mkdir()
    for name, array in arrays.items():
        (folder / f"{FILES[name]}.gz").write_bytes(gzip.compress(packed(array)))
    np.savez(tmp_path / "mnist.npz", **arrays)
    return folder


def unpacked(folder):
    for path in folder.glob("*.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()


def with_dots(folder):
    for path in list(folder.iterdir()):
        path.rename(folder / path.name.replace("-idx", ".idx"))


@pytest.mark.parametrize("change", [lambda folder: None, unpacked, with_dots])
def test_digits_are_those_of_the_npz(digits, bucket, change, caplog):
    caplog.set_level("INFO", "latentfaces")
    expected = find(str(digits.parent / "mnist.npz"))
    change(digits)
    source = find(str(digits))
    assert source.attribute_names == expected.attribute_names and source.refused == []
    assert contents(source) == contents(expected)
    labels = f"labels from {digits} (train-labels-idx1-ubyte and t10k-labels-idx1-ubyte): class_0, class_1, "
    assert labels in caplog.messages[1]
    for path in digits.iterdir():
        storage.write(bucket / "digits" / path.name, path.read_bytes())
    assert contents(find("gs://bucket/digits")) == contents(expected)


def test_the_data_set_is_that_of_the_npz(digits, tmp_path):
    options = {"image_size": 28, "channels": 1}
    made = job.run(str(digits), str(tmp_path / "a"), **options)
    assert made.splits == job.run(str(digits.parent / "mnist.npz"), str(tmp_path / "b"), **options).splits
    assert made.rejected == 0 and made.image_shape == (28, 28, 1)


def test_the_fingerprint_is_of_each_file(digits, arrays):
    config = PreprocessConfig()
    before = fingerprint(str(digits), config)
    shutil.copytree(digits, digits.parent / "copy")
    assert fingerprint(str(digits.parent / "copy"), config) == before
    (digits / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(packed(arrays["y_train"] % 2)))
    assert fingerprint(str(digits), config) != before
    assert find(str(digits)).attribute_names[:2] == ("class_0", "class_1")


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("x_train", None, "it has no file train-images-idx3-ubyte, and none that ends in .gz besides"),
        ("y_test", packed(np.zeros(49, np.uint8)), "t10k-labels-idx1-ubyte has not one class for each image"),
        ("x_test", packed(np.zeros((50, 784), np.uint8)), r"t10k-images-idx3-ubyte is uint8 \[50, 784\]"),
        ("y_train", packed(np.arange(250, dtype=np.uint8)), "tell of more than 100 classes"),
        ("x_train", b"", "train-images-idx3-ubyte.gz cannot be read, not an array of bytes"),
        ("x_train", b"\0\0\x08\x03\0\0", "not an array of bytes"),
        ("x_train", b"\0\0\x0d\x01\0\0\0\x01" + bytes(4), "not an array of bytes"),
        ("x_train", packed(np.zeros((250, 28, 28), np.uint8))[:-1], "not an array of bytes"),
        ("x_train", packed(np.zeros((0, 28, 28), np.uint8)), "not an array of bytes"),
        ("x_train", b"\0\0\x08\xff" + b"\xff" * 1020, "not an array of bytes"),
        ("x_train", b"\0\0\x08\x03" + b"\xff" * 12 + bytes(100), "not an array of bytes"),
        ("x_train", gzip.compress(bytes(1000), mtime=0)[:-10], "it is cut off"),
        ("x_train", b"\x1f\x8b damaged", "Error -3"),
    ],
)
def test_what_is_no_such_folder_is_told_in_a_sentence(digits, name, content, words):
    path = digits / f"{FILES[name]}.gz"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UserError, match=f"digits cannot be used, .*{words}.*: download it again"):
        find(str(digits))


def test_the_folder_above_is_told_to_go_below(digits, tmp_path):
    (above := tmp_path / "above").mkdir()
    digits.rename(above / "raw")
    with pytest.raises(
        UserError, match="above cannot be used, it has no file train-.*: .*, or name the folder"
    ):
        find(str(above))


def test_a_bomb_is_not_inflated(digits, monkeypatch):
    monkeypatch.setattr(idx, "MAX_FILE_BYTES", 1 << 20)
    (digits / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(50 << 20)))
    tracemalloc.start()
    with pytest.raises(UserError, match="train-images-idx3-ubyte.gz cannot be read, too large: more than"):
        find(str(digits))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 << 20
