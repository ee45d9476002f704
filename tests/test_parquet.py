"""Images in Parquet files, as Hugging Face's data sets come, and as they should not."""

import io
import json
import os
import random
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import photograph
from PIL import Image as Picture
from test_sources import contents

from latentfaces.common import storage
from latentfaces.common.errors import UserError
from latentfaces.common.examples import load_split
from latentfaces.preprocessing import job
from latentfaces.preprocessing.fingerprint import fingerprint
from latentfaces.preprocessing.options import PreprocessConfig
from latentfaces.preprocessing.resize import RefusedImage, smart_resize
from latentfaces.preprocessing.sources import find, hash_split, parquet
from latentfaces.preprocessing.sources.celeba import ATTRIBUTES

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def images(count, first=0):
    return pa.array([{"bytes": b"%d" % (first + n), "path": f"{n}.jpg"} for n in range(count)], IMAGE)


def write(path, columns, features=None, **options):
    """Writes a Parquet file as Hugging Face does."""
    table = pa.table(columns)
    if features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(exist_ok=True, parents=True)
    pq.write_table(table, path, **{"row_group_size": 10} | options)
    return path


def labelled(source):
    """{name: the names of its attributes} of a source."""
    names = source.attribute_names
    return {
        image.name: {name for name, bit in zip(names, image.attributes(len(names)), strict=True) if bit}
        for split in source.splits.values()
        for image in split
    }


def read(path):
    return {name: data for split in contents(find(str(path))).values() for name, (_, data) in split.items()}


DIGITS = {"label": {"_type": "ClassLabel", "names": ["zero", "one", "two"]}, "image": {"_type": "Image"}}


@pytest.fixture
def repository(tmp_path):
    """A data set of Hugging Face's: 43 images to train on in two files, and 9 others."""
    folder = tmp_path / "set"
    for name, count, first in (
        ("train-00000-of-00002-0123456789abcdef", 25, 0),
        ("train-00001-of-00002-0123456789abcdef", 18, 25),
        ("test-00000-of-00001-0123456789abcdef", 9, 43),
    ):
        digits = pa.array([n % 3 for n in range(first, first + count)])
        write(folder / "data" / f"{name}.parquet", {"image": images(count, first), "label": digits}, DIGITS)
    (folder / "README.md").write_text("---\nlicense: mit\n---")
    (folder / ".gitattributes").write_text("*.parquet filter=lfs")
    return folder


def test_a_data_set_of_hugging_faces_is_read_with_its_splits_and_classes(repository, bucket, caplog):
    caplog.set_level("INFO", "latentfaces")
    source = find(str(repository))
    assert source.attribute_names == ("label_zero", "label_one", "label_two") and source.refused == []
    assert caplog.messages == [
        f"{repository}: labels from {repository} (its columns): label_zero, label_one, label_two; "
        f"partition from {repository} (names of its files)"
    ]
    found = contents(source)
    assert {int(data) for _, data in found["test"].values()} == set(range(43, 52))
    assert sorted(int(data) for split in found.values() for _, data in split.values()) == list(range(52))
    assert all(labels == 1 << int(data) % 3 for split in found.values() for labels, data in split.values())
    assert all((hash_split(name) == "valid") == (name in found["valid"]) for name in found["train"])
    assert found["valid"] and "data/test-00000-of-00001-0123456789abcdef.parquet/000008" in found["test"]
    for path in repository.rglob("*"):
        if path.is_file():
            storage.write(bucket / "set" / path.relative_to(repository).as_posix(), path.read_bytes())
    assert contents(find("gs://bucket/set")) == found
    assert len(read(repository / "data")) == 52


def test_one_file_of_any_name_is_a_source_and_split_by_hash(tmp_path):
    path = write(tmp_path / "train.parquet", {"image": images(30)})
    source = find(str(path))
    assert {image.name: split for split, images in source.splits.items() for image in images} == {
        f"{n:06d}": hash_split(f"{n:06d}") for n in range(30)
    }
    assert (
        read(path) == read(path.rename(tmp_path / "download")) == {f"{n:06d}": b"%d" % n for n in range(30)}
    )


def test_a_data_set_made_from_it_has_the_same_pixels(tmp_path):
    pixels = [photograph(number, 40, 30) for number in range(40)]
    files = [io.BytesIO() for _ in pixels]
    for file, each in zip(files, pixels, strict=True):
        Picture.fromarray(each).save(file, "PNG")
    folder = tmp_path / "set"
    for split, part in (("train", slice(0, 30)), ("validation", slice(30, 34)), ("test", slice(34, 40))):
        values = [file.getvalue() for file in files[part]]
        write(folder / f"{split}.parquet", {"img": pa.array(values, pa.large_binary())}, row_group_size=3)
    made = job.run(str(folder), str(tmp_path / "out"), image_size=16, examples_per_shard=7)
    assert {name: split.examples for name, split in made.splits.items()} == {
        "train": 30,
        "valid": 4,
        "test": 6,
    }
    found, _, names = load_split(str(tmp_path / "out"), "test")
    np.testing.assert_array_equal(found, [smart_resize(each, 16) for each in pixels[34:]])
    assert names == [f"test.parquet/{n:06d}" for n in range(6)]


def test_celebas_forty_booleans_are_its_attributes(tmp_path):
    truths = np.random.default_rng(0).random((40, len(ATTRIBUTES))) < 0.5
    columns = {name: pa.array(truths[:, n]) for n, name in enumerate(ATTRIBUTES)}
    other = {"celeb_id": pa.array(range(40)), "name": pa.array(["x"] * 40), "box": pa.array([[1, 2]] * 40)}
    source = find(str(write(tmp_path / "x.parquet", {"image": images(40), **other, **columns})))
    celeb_ids = tuple(f"celeb_id_{n}" for n in range(40))
    assert source.attribute_names == (*celeb_ids, *ATTRIBUTES)
    for name, found in labelled(source).items():
        assert found - set(celeb_ids) == {ATTRIBUTES[n] for n in np.flatnonzero(truths[int(name)])}


def test_which_columns_are_labels_and_how(tmp_path):
    path = write(
        tmp_path / "x.parquet",
        {
            "image": images(4),
            "truth": pa.array([0, 1, 1, 0], pa.uint8()),
            "sign": pa.array([-1, 1, 1, -1], pa.int8()),
            "number": pa.array([10, 9, 9, 1], pa.int32()),
            "kind": pa.array([1, -1, 0, 7]),  # -1 and 7 are none of them
            "gap": pa.array([1, None, 0, 1]),
            "huge": pa.array([2**64 - 1, 0, 1, 2], pa.uint64()),
            "weight": pa.array([0.5, 1, 1, 1]),
        },
        {"kind": {"_type": "ClassLabel", "names": ["a", "b"]}, "number": {"_type": "Value"}},
    )
    found = labelled(find(str(path)))
    assert {name: {each for each in labels if "huge" not in each} for name, labels in found.items()} == {
        "000000": {"number_10", "kind_b"},
        "000001": {"truth", "sign", "number_9"},
        "000002": {"truth", "sign", "number_9", "kind_a"},
        "000003": {"number_1"},
    }


def test_a_column_of_more_than_a_hundred_numbers_and_one_that_is_not_everywhere_are_no_labels(tmp_path):
    for name, other in (("a", {"here": pa.array([0] * 120)}), ("b", {})):
        columns = {"image": images(120), "id": pa.array(range(120)), "kept": pa.array([0, 1] * 60)}
        write(tmp_path / "set" / f"{name}.parquet", columns | other)
    assert find(str(tmp_path / "set")).attribute_names == ("kept",)


def test_labels_of_ones_own_go_by_the_rows(tmp_path):
    path = write(tmp_path / "x.parquet", {"image": images(3), "label": pa.array([0, 1, 0])})
    (tmp_path / "own.csv").write_text("row,Odd\n000000,0\n000001,1\n000002,0\n")
    assert labelled(find(str(path), attributes=str(tmp_path / "own.csv")))["000001"] == {"Odd"}


def test_rows_without_an_image_are_refused(tmp_path):
    values = [
        {"bytes": None, "path": "a.jpg"},
        None,
        {"bytes": b"", "path": None},
        {"bytes": b"x", "path": "b"},
    ]
    found = read(write(tmp_path / "x.parquet", {"image": pa.array(values, IMAGE)}))
    reasons = {name: str(data) for name, data in found.items() if isinstance(data, RefusedImage)}
    assert reasons == dict.fromkeys(("000000", "000001"), "no image in this row")
    assert found["000002"] == b"" and found["000003"] == b"x"


def test_rows_are_read_in_any_order_and_places_are_plain(tmp_path):
    source = find(str(write(tmp_path / "x.parquet", {"image": images(35)})))
    places = [image.place for split in source.splits.values() for image in split]
    random.Random(0).shuffle(places)
    found = source.images.read(json.loads(json.dumps(places)))
    assert list(found) == [b"%d" % (group * 10 + row) for _, group, row in places]


def test_the_fingerprint_is_of_each_file(repository):
    config = PreprocessConfig()
    before = fingerprint(str(repository), config)
    (repository / "README.md").write_text("other words")
    assert fingerprint(str(repository), config) == before
    path = next(repository.rglob("test-*"))
    os.utime(path, ns=(1, 1))
    assert fingerprint(str(repository), config) != before


@pytest.mark.parametrize(
    "columns, words",
    [
        ({"text": ["a"]}, "it has 0 columns of bytes, and none of them is called image"),
        ({"a": [b"a"], "b": [b"b"]}, "it has 2 columns of bytes, and none of them is called image"),
        ({"image": [b"a"], "x\x1b": [1]}, "cannot be labels, .*printable"),
    ],
)
def test_what_is_no_file_of_images_is_told(tmp_path, columns, words):
    path = write(tmp_path / "x.parquet", columns)
    with pytest.raises(UserError, match=words) as error:
        find(str(path))
    assert "x.parquet" in str(error.value) and str(error.value).isprintable()


@pytest.mark.parametrize(
    "change", [lambda c: c[:-1], lambda c: c[: len(c) // 2], lambda c: b"", lambda c: b"PAR1"]
)
def test_a_file_that_is_cut_off_is_told(tmp_path, change):
    path = write(tmp_path / "x.parquet", {"image": images(30)})
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match="x.parquet is not a readable Parquet file of images"):
        find(str(path))


def test_limits_are_told_before_anything_is_read(tmp_path, monkeypatch):
    path = write(tmp_path / "x.parquet", {"image": images(30), "label": pa.array([0, 1, 2] * 10)})
    for name, limit, words in (
        ("_MOST_IMAGES", 29, "more than 29 rows"),
        ("_MOST_LABELS", 29, "more than 29 labels"),
        ("_LONGEST_FOOTER", 100, "its footer has more than 100 bytes"),
    ):
        with monkeypatch.context() as patch, pytest.raises(UserError, match=words):
            patch.setattr(parquet, name, limit)
            find(str(path))


def test_a_bomb_is_not_decompressed(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "_ALWAYS", 1 << 20)
    path = write(
        tmp_path / "x.parquet", {"image": [bytes(5 << 20)]}, compression="zstd", use_dictionary=False
    )
    with pytest.raises(UserError, match="implausible: a row group decompresses to more than 1,048,576 bytes"):
        find(str(path))


def in_a_process(code, megabytes):
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_DATA, ({megabytes} << 20,) * 2)\n"
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code.replace("LIMIT", limited)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_one_value_in_many_rows_and_a_large_row_group_take_little_memory(tmp_path):
    once = pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int32()), pa.array([bytes(4 << 20)]))
    write(tmp_path / "x.parquet", {"image": once}, row_group_size=2000, store_schema=False)
    write(tmp_path / "y.parquet", {"image": [os.urandom(100_000) for _ in range(2000)]}, row_group_size=2000)
    code = (
        "from latentfaces.preprocessing.sources.parquet import Parquet\nLIMIT"
        "for name in 'xy':\n"
        f"    images = Parquet({str(tmp_path)!r} + f'/{{name}}.parquet')\n"
        "    print(sum(map(len, images.read([place for _, place in images.entries()]))))"
    )
    result = in_a_process(code, 900)
    assert result.stdout.split() == [str(2000 * (4 << 20)), str(200_000_000)], result.stderr


def test_damaged_files_end_in_refusals_or_a_sentence(tmp_path):
    """In a process of its own: what is wrong in there could end it."""
    path = write(tmp_path / "x.parquet", {"image": images(200), "label": pa.array([0, 1] * 100)}, DIGITS)
    code = (
        "import random\nfrom pathlib import Path\n"
        "from latentfaces.common.errors import UserError\n"
        "from latentfaces.preprocessing.sources.parquet import Parquet\nLIMIT"
        f"path = Path({str(path)!r}); content = path.read_bytes(); source = random.Random(0)\n"
        "told = 0\n"
        "for case in range(400):\n"
        "    damaged = bytearray(content)\n"
        "    for _ in range(source.choice((1, 1, 3, 30))):\n"
        "        damaged[source.randrange(len(damaged))] = source.randrange(256)\n"
        "    path.write_bytes(damaged)\n"
        "    images = Parquet(str(path))\n"
        "    try:\n"
        "        places = [place for _, place in images.entries() if type(place) is tuple]\n"
        "        list(images.read(places[::7]))\n"
        "    except UserError as error: told += str(error).isprintable()\n"
        "print('told', told)"
    )
    result = in_a_process(code, 3000)
    assert result.returncode == 0 and int(result.stdout.split()[1]) > 20, result.stderr
