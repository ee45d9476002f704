"""Images in tars, as they come and as they should not."""

import io
import lzma
import tarfile
import time
import tracemalloc
from pathlib import Path

import pytest
from test_sources import by_class, contents, read_all

from latentfaces.common import storage
from latentfaces.common.errors import UserError
from latentfaces.common.examples import load_split
from latentfaces.preprocessing import job
from latentfaces.preprocessing.fingerprint import fingerprint
from latentfaces.preprocessing.options import PreprocessConfig
from latentfaces.preprocessing.sources import find, hash_split, tar

WAYS = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}


def tar_of(path, files, **options):
    """Writes a tar of {name: content}, or of (`TarInfo`, content) pairs."""
    ending = next(ending for ending in WAYS if path.name.endswith(ending))
    with tarfile.open(path, WAYS[ending], **options) as archive:
        for name, content in files.items() if isinstance(files, dict) else files:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def refused(path):
    return dict(find(str(path)).refused)


FACES = {f"lfw/{name}/{name}_{number:04d}.jpg": f"{name} {number}".encode() * 100
         for name in ("Ann_B", "Ünal_C", "X" * 120) for number in range(1, 20)}  # fmt: skip


@pytest.mark.parametrize("ending", WAYS)
@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_tar_is_read_locally_and_from_a_bucket_whatever_compresses_it(tmp_path, bucket, ending, format):
    path = tar_of(tmp_path / f"lfw{ending}", FACES, format=format)
    assert read_all(path) == FACES
    storage.write(bucket / path.name, path.read_bytes())
    assert contents(find(f"gs://bucket/{path.name}")) == contents(find(str(path)))
    other = path.rename(tmp_path / "download")
    assert read_all(other) == FACES
    assert set(by_class(find(str(other), labels="folders"))) == set(FACES)


@pytest.mark.parametrize("ending", [".tar", ".tgz"])
def test_celeba_as_a_tar_gives_the_same_with_its_lists_beside_and_in_it(tmp_path, celeba, ending):
    whole, images = tmp_path / f"celeba{ending}", tmp_path / "folder" / f"img_align_celeba{ending}"
    images.parent.mkdir()
    for path, inner in ((whole, "."), (images, "img_align_celeba")):
        with tarfile.open(path, WAYS[ending]) as archive:
            archive.add(celeba / inner, inner)
    for name in ("list_attr_celeba.txt", "list_eval_partition.txt"):
        (images.parent / name).write_bytes((celeba / name).read_bytes())
    expected = contents(find(str(celeba)))
    for source in (whole, images, images.parent):
        assert contents(find(str(source))) == expected and not refused(source)


@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_a_data_set_made_from_a_tar_is_that_of_the_folder(tmp_path, celeba, ending):
    with tarfile.open(tmp_path / f"x{ending}", WAYS[ending]) as archive:
        archive.add(celeba, "celeba")
    made = job.run(str(tmp_path / f"x{ending}"), str(tmp_path / "from tar"), image_size=16)
    assert made.splits == job.run(str(celeba), str(tmp_path / "from folder"), image_size=16).splits
    assert len(load_split(str(tmp_path / "from tar"), "train")[0]) == 96


def test_a_compressed_tar_is_decompressed_once(tmp_path, celeba):
    with tarfile.open(tmp_path / "x.tgz", "w:gz") as archive:
        archive.add(celeba, "celeba")
    tar._decompressed.cache_clear()
    job.run(str(tmp_path / "x.tgz"), str(tmp_path / "set"), image_size=16, examples_per_shard=10)
    assert tar._decompressed.cache_info().misses == 1


def test_a_folder_of_tars_is_their_union_and_one_with_other_files_is_none(tmp_path, bucket):
    folder = tmp_path / "tars"
    folder.mkdir()
    for number, ending in enumerate((".tar", ".tgz")):
        path = tar_of(folder / f"train-{number:06d}{ending}", {"000001.jpg": b"%d" % number})
        storage.write(bucket / "tars" / path.name, path.read_bytes())
    for name in ("README.md", "sizes.json", "._train-000000.tar"):
        (folder / name).write_text("beside")
    expected = {"train-000000.tar/000001.jpg": b"0", "train-000001.tgz/000001.jpg": b"1"}
    assert read_all(folder) == read_all("gs://bucket/tars") == expected
    (folder / "face.jpg").write_bytes(b"x")
    assert read_all(folder).keys() == {"README.md", "face.jpg", "train-000000.tar", "train-000001.tgz"}


def test_the_tar_that_is_missing_is_named(tmp_path):
    (folder := tmp_path / "tars").mkdir()
    tar_of(folder / "a.tar", {"a.jpg": b"a"})
    (folder / "b.tar").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="tars/b.tar cannot be read: No such file or directory"):
        find(str(folder))


def test_the_fingerprint_is_of_each_tar_by_its_name_in_a_folder(tmp_path):
    def of(path):
        return fingerprint(str(path), PreprocessConfig())

    (folder := tmp_path / "tars").mkdir()
    path = tar_of(folder / "a.tar", {"a.jpg": b"a"})
    alone, together = of(path), of(folder)
    (folder / "notes.txt").write_text("beside")
    path = path.rename(folder / "b.tar")
    assert of(path) == alone and of(folder) != together
    tar_of(path, {"a.jpg": b"b"})
    assert of(path) != alone


def special(name, kind, **fields):
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info, b""


def test_members_that_are_no_files_are_refused_by_name_and_nothing_is_a_path(tmp_path):
    members = [
        ("../../etc/passwd", b"not the machine's own"),
        ("/etc/shadow", b"likewise"),
        special("folder", tarfile.DIRTYPE),
        special("link.jpg", tarfile.SYMTYPE, linkname="/etc/passwd"),
        special("hard.jpg", tarfile.LNKTYPE, linkname="a.jpg"),
        special("pipe.jpg", tarfile.FIFOTYPE),
        special("disk.jpg", tarfile.BLKTYPE, devmajor=8),
        special("sparse.jpg", tarfile.REGTYPE, pax_headers={"GNU.sparse.size": "1000"}),
        ("./a.jpg", b"a"),
    ]
    path = tar_of(tmp_path / "x.tar", members)
    assert read_all(path) == {
        "../../etc/passwd": b"not the machine's own",
        "/etc/shadow": b"likewise",
        "a.jpg": b"a",
    }
    assert refused(path) == {
        "link.jpg": "a link in a tar: put the file itself there",
        "hard.jpg": "a link in a tar: put the file itself there",
        "pipe.jpg": "not a file but of type b'6' in a tar",
        "disk.jpg": "not a file but of type b'4' in a tar",
        "sparse.jpg": "a sparse file in a tar: make the tar without --sparse",
    }


def header(size=0, kind=tarfile.REGTYPE, name="x.jpg"):
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


END = bytes(1024)
A = header(1, name="a.jpg") + b"a".ljust(512, b"\0")


def test_old_sparse_members_are_refused_and_what_follows_is_read(tmp_path):
    sparse = bytearray(header(512, tarfile.GNUTYPE_SPARSE, "sparse.jpg"))
    sparse[482] = 1
    sparse[148:156] = b"%06o\0 " % (sum(sparse[:148]) + 8 * 32 + sum(sparse[156:]))
    blocks = bytearray(1024)
    blocks[504] = 1
    (tmp_path / "x.tar").write_bytes(bytes(sparse) + bytes(blocks) + bytes(512) + A + END)
    assert read_all(tmp_path / "x.tar") == {"a.jpg": b"a"} and refused(tmp_path / "x.tar").keys() == {
        "sparse.jpg"
    }


def test_two_members_of_one_name_are_told(tmp_path):
    with pytest.raises(UserError, match="two entries named 'a.jpg'"):
        find(str(tar_of(tmp_path / "x.tar", [("a.jpg", b"1"), ("./a.jpg", b"2")])))


def test_a_member_that_is_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tar, "MAX_FILE_BYTES", 1000)
    path = tar_of(tmp_path / "x.tar", {"a.jpg": bytes(1001), "b.jpg": bytes(1000)})
    assert refused(path) == {"a.jpg": "too large: 1,001 bytes, more than 1,000"}
    assert read_all(path) == {"b.jpg": bytes(1000)}


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "none: there is no empty block at its end"),
        (b"no tar" * 1000, "invalid header|bad checksum"),
        (A, "there is no empty block at its end"),
        (A[:700], "cut off"),
        (A[:1000] + A + END, "bad checksum|invalid header"),
        (header(10**9) + END, "cut off"),
        (header(-1) + END, "a member of -1 bytes"),
        (header(-(10**6)) + END, "a member of -1000000 bytes"),
        (header(2 << 20, b"x") + bytes(2 << 20) + A + END, "an extended header of 2,097,152 bytes"),
        (header(5, b"x") + b"1" * 512 + A + END, "an extended header is damaged|invalid literal"),
        (header(40, b"x") + b"12 path=abc\n".ljust(511, b"x") + b"=" + A + END, "an extended header"),
        (header(512, b"x") + b"12 path=abc\n".ljust(511, b"x") + b"=" + A + END, "an extended header"),
        (header(45, b"x") + (b"45 size=1" + b"0" * 35 + b"\n").ljust(512) + A + END, "a member of 1000"),
        (header(1 << 80) + END, "a member of 12089"),
        (header(512, b"x") + b"0 path=x\n".ljust(512) + A + END, "an extended header is damaged"),
        (header(12, b"x") + b"12 size=-99\n".ljust(512) + A + END, "a member of -99 bytes"),
        (header(9000, b"L") + b"n" * 9216 + A + END, "a name of 9,000 characters"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("compressed", [False, True])
def test_a_damaged_tar_is_told_in_a_sentence(tmp_path, content, words, compressed):
    path = tmp_path / "x\x1b.tar"
    path.write_bytes(lzma.compress(content) if compressed else content)
    with pytest.raises(UserError, match=rf"x\\x1b.tar is not a readable tar \(.*({words})") as error:
        find(str(path))
    assert str(error.value).isprintable()


def test_many_extended_headers_take_no_memory_and_little_time(tmp_path):
    extended = header(12, b"x") + b"12 path=abc\n".ljust(512, b"\0")
    (tmp_path / "x.tar").write_bytes(extended * 20_000 + A + END)
    tracemalloc.start()
    started = time.process_time()
    assert read_all(tmp_path / "x.tar") == {"abc": b"a"}
    assert time.process_time() - started < 20
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 << 20


@pytest.mark.parametrize("ending", [ending for ending in WAYS if ending != ".tar"])
def test_a_compressed_tar_that_is_cut_off_or_damaged_is_told(tmp_path, ending):
    path = tar_of(tmp_path / f"x{ending}", FACES)
    content = path.read_bytes()
    damaged = bytearray(content)
    damaged[len(content) // 2] ^= 255
    for other in (content[: len(content) // 2], content[:-5], content[:3], bytes(damaged), content + b"more"):
        path.write_bytes(other)
        with pytest.raises(UserError, match=f"x{ending} is not a readable tar"):
            find(str(path))
    path.write_bytes(content + content)  # of two streams; the second one's tar is beyond the first one's end
    assert read_all(path) == FACES


@pytest.mark.parametrize("ending", [ending for ending in WAYS if ending != ".tar"])
def test_a_bomb_is_not_decompressed(tmp_path, ending, monkeypatch):
    monkeypatch.setattr(tar, "_ALWAYS", 4 << 20)
    path = tar_of(tmp_path / f"x{ending}", {f"{number}.jpg": bytes(1 << 20) for number in range(20)})
    tracemalloc.start()
    if path.stat().st_size * tar._MOST_TIMES < 20 << 20:
        with pytest.raises(UserError, match="implausible: it decompresses to more than 4,194,304 bytes"):
            find(str(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 << 20


def test_an_xz_that_asks_for_much_memory_is_told(tmp_path):
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 30}]
    (tmp_path / "x.tar.xz").write_bytes(lzma.compress(A + END, filters=filters))
    with pytest.raises(UserError, match="x.tar.xz is not a readable tar .*[Mm]emory"):
        find(str(tmp_path / "x.tar.xz"))


def test_no_space_for_what_is_decompressed_is_told(tmp_path, monkeypatch):
    path = tar_of(tmp_path / "x.tgz", FACES)
    tar._decompressed.cache_clear()
    monkeypatch.setattr("tempfile.TemporaryFile", lambda: Path("/dev/full").open("wb"))
    with pytest.raises(UserError, match="no space in .* for what .*x.tgz decompresses to: .* TMPDIR"):
        find(str(path))


def test_names_that_are_not_utf8_are_escaped(tmp_path):
    path = tar_of(tmp_path / "x.tar", {b"M\xfcller.jpg".decode("utf-8", "surrogateescape"): b"x"})
    assert read_all(path) == {r"M\xfcller.jpg": b"x"}


def sample(number, digit, ending="png"):
    return {f"{number:06d}.{ending}": b"%d" % number, f"{number:06d}.cls": b"%d\n" % digit,
            f"{number:06d}.json": b"{}", f"{number:06d}.txt": b"a face"}  # fmt: skip


def samples(count, digit):
    return {
        name: content for number in range(count) for name, content in sample(number, digit(number)).items()
    }


def test_class_numbers_of_webdataset_are_labels(tmp_path, bucket, caplog):
    caplog.set_level("INFO", "latentfaces")
    path = tar_of(tmp_path / "x.tar", samples(60, lambda number: number % 11))
    source = find(str(path))
    assert source.attribute_names == tuple(f"class_{digit}" for digit in range(11)) and not source.refused
    found = by_class(source)
    assert {name: label for name, (_, label, _) in found.items()} == {
        f"{number:06d}.png": f"class_{number % 11}" for number in range(60)
    }
    assert all(content == b"%d" % int(name[:6]) for name, (_, _, content) in found.items())
    names = ", ".join(source.attribute_names)
    split = "no partition: split by hash of the names"
    assert caplog.messages == [
        f"{path}: files beside the images are no inputs: 60 .cls, 60 .json, 60 .txt",
        f"{path}: labels from {path} (.cls): {names}; {split}",
    ]
    storage.write(bucket / "x.tar", path.read_bytes())
    assert by_class(find("gs://bucket/x.tar")) == found


def test_shards_of_webdataset_have_their_splits_in_their_names(tmp_path, caplog):
    caplog.set_level("INFO", "latentfaces")
    for name, count in (("train-000000", 40), ("train-000001", 40), ("test-000000", 10)):
        tar_of(tmp_path / f"digits-{name}.tar", samples(count, lambda number: number % 2))
    source = find(str(tmp_path))
    assert source.attribute_names == ("class_0", "class_1")
    splits = {split: {image.name[:19] for image in images} for split, images in source.splits.items()}
    train = {"digits-train-000000", "digits-train-000001"}
    assert splits == {"train": train, "valid": train, "test": {"digits-test-000000."}}
    assert [len(images) for images in source.splits.values()][2] == 10
    assert all(hash_split(image.name) == "valid" for image in source.splits["valid"])
    assert f"; partition from {tmp_path} (the names of its tars)" in caplog.text
    tar_of(tmp_path / "extra.tar", samples(1, int))
    assert {split: len(images) for split, images in find(str(tmp_path)).splits.items()}["test"] != 10


def test_an_image_without_a_class_number_where_others_have_one_is_refused(tmp_path):
    path = tar_of(tmp_path / "x.tar", samples(5, int) | {"new.png": b"x"})
    assert refused(path) == {"new.png": "no line in x.tar (.cls)"}


def test_lists_in_a_tar_or_named_go_before_its_class_numbers(tmp_path):
    (tmp_path / "own.csv").write_text("name,Odd\n" + "".join(f"{n:06d}.png,{n % 2}\n" for n in range(5)))
    path = tar_of(tmp_path / "x.tar", samples(5, int))
    assert find(str(path), attributes=str(tmp_path / "own.csv")).attribute_names == ("Odd",)
    files = samples(5, int) | {"list_attr_celeba.csv": (tmp_path / "own.csv").read_bytes()}
    assert find(str(tar_of(path, files))).attribute_names == ("Odd",)


@pytest.mark.parametrize(
    "content, words",
    [
        (b"cat", "000003.cls holds no class number"),
        (b"", "000003.cls holds no class number"),
        (b"-1", "000003.cls holds no class number"),
        (b"1" * 5000, ""),
        (None, "more than 100 classes"),
    ],
)
def test_class_numbers_that_are_no_labels_are_told(tmp_path, caplog, content, words):
    files = samples(101 if content is None else 20, int)
    if content is not None:
        files["000003.cls"] = content
    path = tar_of(tmp_path / "x.tar", files)
    source = find(str(path))
    if words:
        assert f"the .cls files of {path} are no labels: {words}" in caplog.messages
        assert source.attribute_names == () and source.refused == []
    else:
        assert source.attribute_names[-1] == f"class_{'1' * 20}"
