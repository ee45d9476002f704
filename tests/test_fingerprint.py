"""The fingerprint of what a data set is made from: equal for the same, another for anything else."""

import os
import shutil
import zipfile

import pytest
from google.cloud.storage import Client

from latentfaces.common.errors import UserError
from latentfaces.preprocessing import fingerprint as module
from latentfaces.preprocessing.options import PreprocessConfig

LISTS = ("list_attr_celeba.txt", "list_eval_partition.txt")


def fingerprint(source, **options):
    found = module.fingerprint(str(source), PreprocessConfig(**options))
    assert len(found) == 32 and int(found, 16)
    return found


@pytest.fixture
def faces(tmp_path):
    """Files in CelebA's layout; nobody reads them."""
    folder = tmp_path / "faces"
    (folder / "img_align_celeba" / "below").mkdir(parents=True)
    for number in range(5):
        (folder / "img_align_celeba" / f"{number}.jpg").write_text(str(number))
    (folder / "img_align_celeba" / "below" / "é.jpg").write_text("below")
    for name in LISTS:
        (folder / name).write_text(name)
    return folder


def test_a_copy_elsewhere_made_in_another_order_is_the_same(faces, tmp_path):
    copy = tmp_path / "elsewhere" / "copied"
    for path in sorted(faces.rglob("*"), reverse=True):
        if path.is_file():
            target = copy / path.relative_to(faces)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)
    assert fingerprint(copy) == fingerprint(faces) == fingerprint(f"{faces}/")


def write(path):
    path.write_text("another")


def write_anew(path):
    """With as many bytes, a nanosecond later."""
    status = path.stat()
    path.write_bytes(b"x" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def rename(path):
    path.rename(path.with_name("renamed.jpg"))


@pytest.mark.parametrize("change", [write, write_anew, rename, os.unlink])
@pytest.mark.parametrize("name", ["img_align_celeba/3.jpg", "img_align_celeba/below/é.jpg", *LISTS])
def test_every_change_of_a_file_is_another(faces, name, change):
    before = fingerprint(faces)
    change(faces / name)
    assert fingerprint(faces) != before


def test_what_is_no_input_does_not_count(faces):
    before = fingerprint(faces)
    (faces / "img_align_celeba" / ".DS_Store").write_text("a window's place")
    (faces / "notes.txt").write_text("beside the images")
    assert fingerprint(faces) == before
    (faces / "img_align_celeba" / "new.jpg").write_text("new")
    assert fingerprint(faces) != before


def test_links_that_lead_nowhere_and_links_to_folders_count_by_name(faces):
    seen = {fingerprint(faces)}
    (faces / "img_align_celeba" / "nowhere.jpg").symlink_to(faces / "none")
    seen.add(fingerprint(faces))
    (faces / "img_align_celeba" / "folder").symlink_to(faces)
    seen.add(fingerprint(faces))
    assert len(seen) == 3


def test_options_count_where_they_change_the_data_set(faces, tmp_path):
    seen = {fingerprint(faces, **{name: value}) for name, value in PreprocessConfig().__dict__.items()}
    assert seen == {fingerprint(faces)}
    assert fingerprint(faces, beam_options=["--runner=DataflowRunner"]) in seen
    for options in (
        {"image_size": 32},
        {"channels": 1},
        {"max_rejected": 0.5},
        {"labels": "folders"},
        {"crop": "faces"},
        {"min_size": 64},
        {"flip": True},
        {"drop_duplicates": True},
        {"examples_per_shard": 10},
    ):
        assert fingerprint(faces, **options) not in seen
        seen.add(fingerprint(faces, **options))
    # a list that is named counts as if it were found, wherever it lies
    (tmp_path / "lists").mkdir()
    for option, name in zip(("attributes", "partition"), LISTS, strict=True):
        shutil.copy2(faces / name, tmp_path / "lists" / name)
        assert fingerprint(faces, **{option: str(tmp_path / "lists" / name)}) in seen
        (tmp_path / "lists" / name).write_text("other labels")
        assert fingerprint(faces, **{option: str(tmp_path / "lists" / name)}) not in seen


def test_what_was_refused_for_want_of_heic_is_made_anew_once_it_is_read(faces, monkeypatch):
    seen = set()
    for name in (None, "3.HEIC", "4.heif"):
        if name:
            (faces / "img_align_celeba" / name).write_text("a telephone's")
        found = set()
        for formats in (("JPEG",), ("JPEG", "HEIF")):
            monkeypatch.setattr(module.sources, "FORMATS", formats)
            found.add(fingerprint(faces))
        assert len(found) == (2 if name else 1) and not found & seen
        seen |= found


def test_what_earlier_versions_made_is_found_again(monkeypatch):
    monkeypatch.setattr(module.sources, "stamps", lambda *_: [["a.jpg", [1, 2]]])
    assert fingerprint("anywhere") == "5b417190f4e438c63ff7a36796d24d09"


def test_a_zip_counts_as_a_file_without_its_name(tmp_path):
    archive = tmp_path / "faces.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("0.jpg", "0")
    before = fingerprint(archive)
    archive = archive.rename(tmp_path / "renamed.zip")
    assert fingerprint(archive) == before
    os.utime(archive)
    assert fingerprint(archive) != before


def test_a_source_that_is_missing_is_told(tmp_path):
    with pytest.raises(UserError, match="none does not exist"):
        fingerprint(tmp_path / "none")


def test_in_a_bucket_the_bytes_count_and_not_when_they_came(faces, bucket):
    client = Client.create_anonymous_client().bucket("bucket")
    for path in faces.rglob("*"):
        if path.is_file():
            for place in ("a", "deep/b"):
                name = f"{place}/{path.relative_to(faces).as_posix()}"
                client.blob(name).upload_from_filename(path)
    before = fingerprint("gs://bucket/a")
    assert fingerprint("gs://bucket/deep/b/") == before
    blob = client.blob("a/img_align_celeba/3.jpg")
    blob.upload_from_string("3")
    assert fingerprint("gs://bucket/a") == before
    blob.upload_from_string("4")
    assert fingerprint("gs://bucket/a") != before
    blob.upload_from_string("3")
    client.blob("a/list_attr_celeba.txt").upload_from_string("other labels")
    assert fingerprint("gs://bucket/a") != before
