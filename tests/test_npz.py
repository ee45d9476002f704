"""Images and classes in an .npz such as Keras' mnist.npz."""

import io
import threading
import tracemalloc
import zipfile

import numpy as np
import pytest

from latentfaces.common import storage
from latentfaces.common.errors import UserError
from latentfaces.common.examples import load_split
from latentfaces.preprocessing import job
from latentfaces.preprocessing.fingerprint import fingerprint
from latentfaces.preprocessing.options import PreprocessConfig
from latentfaces.preprocessing.resize import decode, smart_resize
from latentfaces.preprocessing.sources import find, hash_split
from latentfaces.preprocessing.sources.npz import Npz


@pytest.fixture(scope="module")
def arrays():
    """The four arrays: 400 images to train on and 100 others, of ten classes."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (500, 28, 28), dtype=np.uint8)
    classes = random.integers(0, 10, 500, dtype=np.uint8)
    return {
        "x_train": images[:400],
        "y_train": classes[:400],
        "x_test": images[400:],
        "y_test": classes[400:],
    }


@pytest.fixture(scope="module", params=[np.savez, np.savez_compressed])
def mnist(request, arrays, tmp_path_factory):
    """The file, uncompressed and compressed; tests must not change it."""
    path = tmp_path_factory.mktemp("mnist") / "mnist.npz"
    request.param(path, **arrays)
    return path


def read_all(source):
    """{name: (split, labels, pixels [height, width, 3])} of a source."""
    return {
        image.name: (split, image.labels, decode(content, 3))
        for split, images in source.splits.items()
        for image, content in zip(images, source.images.read([each.place for each in images]), strict=True)
    }


def test_every_image_is_there_to_the_pixel_with_its_class(mnist, arrays, caplog):
    caplog.set_level("INFO", "latentfaces")
    source = find(str(mnist))
    assert source.refused == []
    names = ", ".join(f"class_{digit}" for digit in range(10))
    assert caplog.messages == [
        f"{mnist}: labels from {mnist} (y_train and y_test): {names}; partition from {mnist} (train and test)"
    ]
    assert source.attribute_names == tuple(f"class_{digit}" for digit in range(10))
    found = read_all(source)
    assert len(found) == 500
    for part in ("train", "test"):
        for number, (pixels, digit) in enumerate(zip(arrays[f"x_{part}"], arrays[f"y_{part}"], strict=True)):
            _, labels, decoded = found[f"{part}-{number:06d}"]
            assert labels == 1 << int(digit)
            np.testing.assert_array_equal(decoded, np.stack([pixels] * 3, axis=-1))


def test_the_files_own_test_images_are_held_out_and_a_tenth_of_the_others_is_for_validation(mnist):
    splits = {name: [image.name for image in images] for name, images in find(str(mnist)).splits.items()}
    assert splits["test"] == [f"test-{number:06d}" for number in range(100)]
    assert sorted(splits["train"] + splits["valid"]) == [f"train-{number:06d}" for number in range(400)]
    assert splits["valid"] == [
        name for name in sorted(splits["train"] + splits["valid"]) if hash_split(name) == "valid"
    ]
    assert 25 <= len(splits["valid"]) <= 55


def test_the_data_set_holds_the_digits_and_is_the_same_from_a_bucket(mnist, arrays, tmp_path, bucket):
    options = {"image_size": 28, "channels": 1}
    made = job.run(str(mnist), str(tmp_path / "set"), **options)
    assert made.rejected == 0
    images, attributes, names = load_split(str(tmp_path / "set"), "test")
    np.testing.assert_array_equal(images[..., 0], arrays["x_test"])
    np.testing.assert_array_equal(attributes.argmax(axis=1), arrays["y_test"])
    assert (attributes.sum(axis=1) == 1).all() and names[7] == "test-000007"
    storage.write(bucket / "mnist.npz", mnist.read_bytes())
    assert job.run("gs://bucket/mnist.npz", "gs://bucket/set", **options).splits == made.splits


def test_colour_images_and_other_sizes_are_resized_as_files_are(tmp_path):
    images = np.random.default_rng(1).integers(0, 256, (60, 20, 31, 3), dtype=np.uint8)
    classes = np.arange(60)[:, None] % 3  # as CIFAR-10 has them
    np.savez(
        tmp_path / "x.npz", x_train=images[:50], y_train=classes[:50], x_test=images[50:], y_test=classes[50:]
    )
    job.run(str(tmp_path / "x.npz"), str(tmp_path / "set"), image_size=16)
    found, attributes, _ = load_split(str(tmp_path / "set"), "test")
    np.testing.assert_array_equal(found, [smart_resize(image, 16) for image in images[50:]])
    np.testing.assert_array_equal(attributes.argmax(axis=1), classes[50:, 0])


def test_arrays_in_fortrans_order_and_with_a_last_axis_of_one_are_the_same(tmp_path, arrays, mnist):
    turned = {name: np.asfortranarray(array) for name, array in arrays.items()}
    turned["x_test"] = arrays["x_test"][..., None]
    np.savez(tmp_path / "x.npz", **turned)
    expected, found = read_all(find(str(mnist))), read_all(find(str(tmp_path / "x.npz")))
    assert found.keys() == expected.keys()
    for name, (split, labels, pixels) in found.items():
        assert (split, labels) == expected[name][:2]
        np.testing.assert_array_equal(pixels, expected[name][2])


def test_labels_and_partition_of_ones_own_take_the_place_of_the_files(mnist, tmp_path):
    names = [
        f"{part}-{number:06d}" for part, count in (("train", 400), ("test", 100)) for number in range(count)
    ]
    (tmp_path / "labels.csv").write_text(
        "image,Odd\n" + "".join(f"{name},{number % 2}\n" for number, name in enumerate(names))
    )
    (tmp_path / "parts.csv").write_text(
        "image,part\n" + "".join(f"{name},{number % 3}\n" for number, name in enumerate(names))
    )
    source = find(str(mnist), str(tmp_path / "labels.csv"), str(tmp_path / "parts.csv"))
    assert source.attribute_names == ("Odd",) and source.refused == []
    for part, images in enumerate(source.splits.values()):
        assert [image.name for image in images] == names[part::3]
        assert [image.labels for image in images] == [number % 2 for number in range(500)][part::3]


def test_threads_read_an_array_once(mnist, monkeypatch):
    from latentfaces.preprocessing.sources import npz

    npz._read_array.cache_clear()
    threads = [threading.Thread(target=list, args=[Npz(str(mnist)).read([["train", 5]])]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert npz._read_array.cache_info().misses == 1


def test_another_content_of_the_same_name_is_another(arrays, tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, **arrays)
    first, before = fingerprint(str(path), PreprocessConfig()), read_all(find(str(path)))
    np.savez(path, **arrays | {"x_train": 255 - arrays["x_train"]})
    after = read_all(find(str(path)))
    np.testing.assert_array_equal(after["train-000000"][2], 255 - before["train-000000"][2])
    assert fingerprint(str(path), PreprocessConfig()) != first


def npy(header, data=b""):
    """A .npy whose header says what it likes."""
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text + data


def claiming(shape, descr="'|u1'"):
    return npy(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}", bytes(784))


NO_ARRAY = "not an array of numbers"


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("x_train", None, "it has no array x_train"),
        ("y_test", None, "it has no array y_test"),
        ("x_train", np.zeros((400, 28, 28), np.float32), r"x_train is float32 \[400, 28, 28\] and not uint8"),
        ("x_train", np.zeros((400, 784), np.uint8), r"x_train is uint8 \[400, 784\]"),
        ("x_train", np.zeros((400, 28, 28, 4), np.uint8), r"x_train is uint8 \[400, 28, 28, 4\]"),
        ("x_train", np.zeros((1_000_001, 1, 1), np.uint8), "x_train has more than 1,000,000 images"),
        ("y_train", np.zeros(400), r"y_train is float64 \[400\] and not whole numbers"),
        ("y_train", np.zeros((400, 10), np.uint8), r"y_train is uint8 \[400, 10\] and not whole numbers"),
        ("y_train", np.uint8(3), r"y_train is uint8 \[\] and not whole numbers"),
        ("y_train", np.zeros(399, np.uint8), "y_train has not one class for each image of x_train"),
        ("y_train", np.arange(400), "tell of more than 100 classes"),
        ("y_train", np.array([{}] * 400), NO_ARRAY),
        ("x_test", np.zeros((0, 28, 28), np.uint8), NO_ARRAY),
        ("x_train", b"", NO_ARRAY),
        ("x_train", b"no array", NO_ARRAY),
        ("x_train", claiming("(2, 28, 28)"), NO_ARRAY),  # of which one is there
        ("x_train", claiming("(10**9, 10**9, 10**9)"), NO_ARRAY),
        ("x_train", claiming("(1000000000000, 28, 28)"), NO_ARRAY),
        ("x_train", claiming("(-1, 28, 28)"), NO_ARRAY),
        ("x_train", claiming("(1, 28, 28)", "'O'"), NO_ARRAY),
        ("x_train", claiming("(1, 28, 28)", "'|V0'"), NO_ARRAY),
        ("x_train", claiming("(1, 28, 28)", "__import__('os').abort()"), NO_ARRAY),
        ("x_train", npy("(" * 116), NO_ARRAY),
        ("x_train", npy("{'''"), NO_ARRAY),
    ],
)
def test_what_is_no_such_file_is_told_in_a_sentence(tmp_path, arrays, name, content, words):
    path = tmp_path / "x\x1b.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for each, value in (arrays | {name: content}).items():
            if isinstance(value, bytes):
                archive.writestr(f"{each}.npy", value)
            elif value is not None:
                buffer = io.BytesIO()
                np.save(buffer, value)
                archive.writestr(f"{each}.npy", buffer.getvalue())
    with pytest.raises(UserError, match=rf"x\\x1b.npz cannot be used, .*{words}") as error:
        find(str(path))
    assert str(error.value).isprintable()


def test_a_bomb_is_not_inflated(tmp_path, arrays, monkeypatch):
    monkeypatch.setattr("latentfaces.preprocessing.sources.zip.MAX_FILE_BYTES", 1 << 20)
    path = tmp_path / "x.npz"
    np.savez_compressed(path, **arrays)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        with pytest.warns(UserWarning, match="Duplicate"), archive.open("x_train.npy", "w") as file:
            for _ in range(30):
                file.write(bytes(1 << 20))
    tracemalloc.start()
    with pytest.raises(UserError, match="x_train cannot be read, too large: 31,457,280 bytes"):
        find(str(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 << 20


def test_a_damaged_array_is_told(mnist, tmp_path):
    content = bytearray(mnist.read_bytes())
    content[content.index(b"x_train.npy") + 5000] ^= 255
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(UserError, match="x.npz cannot be used, x_train cannot be read, unreadable zip entry"):
        find(str(tmp_path / "x.npz"))
    (tmp_path / "x.npz").write_bytes(content[:1000])
    with pytest.raises(UserError, match="x.npz is not a readable zip"):
        find(str(tmp_path / "x.npz"))


def test_arrays_take_memory_once(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (20_000, 28, 28), dtype=np.uint8)
    classes = np.arange(20_000) % 10
    np.savez(tmp_path / "x.npz", x_train=images, y_train=classes, x_test=images[:10], y_test=classes[:10])
    source = find(str(tmp_path / "x.npz"))
    places = [image.place for image in source.splits["train"]]
    tracemalloc.start()
    assert sum(len(content) for content in source.images.read(places)) == len(places) * (784 + 13)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.2 * images.nbytes  # the zip's bytes, and those of the array
