import dataclasses
import io
import json
import zipfile

import keras
import numpy as np
import pytest
from PIL import Image

from latentfaces.common import model_folder, storage
from latentfaces.common.errors import UserError
from latentfaces.common.model_folder import (
    check_weights,
    copy_model,
    is_finished,
    read_config,
    read_history,
    read_network,
    read_samples,
    refuse_other_run,
)
from latentfaces.common.models import settle
from latentfaces.common.pictures import png

CONFIG = settle("gan", {"preset": "small"}, (8, 8, 3))
NETWORKS = ("generator.keras", "discriminator.keras")
HISTORY = "step,epoch,seconds,loss\n10,0,1.5,9.0\n20,1,3.0,nan\n"


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """The bytes of a `.keras` file."""
    inputs = keras.Input((4,))
    path = tmp_path_factory.mktemp("network") / "network.keras"
    keras.Model(inputs, keras.layers.Dense(3)(inputs)).save(path)
    return path.read_bytes()


@pytest.fixture(params=["local", "bucket"])
def folder(request, tmp_path):
    return tmp_path if request.param == "local" else request.getfixturevalue("bucket") / "gan"


def test_a_run_is_finished_when_all_its_networks_are_whole(folder, network):
    assert not is_finished(folder, CONFIG)
    for content in (b"", network[:100], network[:-1], network[:1000] + bytes(len(network) - 1000)):
        for name in NETWORKS:
            storage.write(folder / name, content)
        assert not is_finished(folder, CONFIG)
    storage.write(folder / NETWORKS[0], network)
    assert not is_finished(folder, CONFIG)
    storage.write(folder / NETWORKS[1], network)
    assert is_finished(folder, CONFIG)


def test_weights_with_any_byte_damaged_are_read_or_refused(network):
    archive = zipfile.ZipFile(io.BytesIO(network))
    weights = archive.read("model.weights.h5")
    refused = set()
    for place in range(0, len(weights), 24):  # among them lengths, places of other parts and names
        damaged = io.BytesIO()
        with zipfile.ZipFile(damaged, "w") as made:
            made.writestr("model.weights.h5", weights[:place] + b"\x7f" + weights[place + 1 :])
        try:
            check_weights(damaged.getvalue())
        except ValueError as error:
            refused.add(str(error))
    assert len(refused) > 5


def test_how_many_images_there_are_makes_no_other_run(folder):
    # the data set's digest says it, and what earlier versions wrote has no number
    (folder / "config.json").write_text(CONFIG.to_json())
    refuse_other_run(folder, dataclasses.replace(CONFIG, examples=7))
    with pytest.raises(UserError, match="whose steps is 0, and 7 is asked for"):
        refuse_other_run(folder, dataclasses.replace(CONFIG, steps=7))


def test_only_what_keras_writes_is_a_network(tmp_path, network):
    path = tmp_path / "a.keras"
    path.write_bytes(network)
    assert read_network(path) == network
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for changes, how, says in (
        ({"model.weights.h5": None}, zipfile.ZIP_STORED, "its members are not"),
        ({"assets/x": b""}, zipfile.ZIP_STORED, "its members are not"),
        ({"model.weights.h5": bytes(1 << 20)}, zipfile.ZIP_DEFLATED, "larger when it is unpacked"),
    ):
        with zipfile.ZipFile(path, "w", how) as archive:
            for name, content in {**members, **changes}.items():
                if content is not None:
                    archive.writestr(name, content)
        with pytest.raises(zipfile.BadZipFile, match=says):
            read_network(path)


def test_damaged_bytes_are_noticed_whatever_they_make_the_zip_say(tmp_path, network):
    path, rng = tmp_path / "a.keras", np.random.default_rng(0)
    directory = network.rindex(b"PK\x01\x02", 0, network.rindex(b"PK\x05\x06") - 120)
    for _ in range(300):
        damaged = bytearray(network)
        damaged[rng.integers(directory, len(network))] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            read_network(path)
        except zipfile.BadZipFile:
            pass


def test_a_network_beyond_the_limit_is_not_read(tmp_path, network, monkeypatch):
    monkeypatch.setattr(model_folder, "LARGEST_NETWORK", 1000)
    (tmp_path / "a.keras").write_bytes(network)
    with pytest.raises(zipfile.BadZipFile, match="larger than 1,000 bytes"):
        read_network(tmp_path / "a.keras")


def test_a_configuration_is_read_as_it_was_written(folder):
    storage.write(folder / "config.json", CONFIG.to_json().encode())
    assert read_config(folder) == CONFIG


@pytest.mark.parametrize(
    "change",
    [
        {"steps": "many"},
        {"steps": True},
        {"beta_1": float("nan")},
        {"beta_1": 10**400},
        {"learning_rate": None},
        {"image_shape": [8, 8]},
        {"image_shape": [8, 8, {}]},
        {"image_shape": 3},
        {"model": ["gan"]},
        {"model": "\x1b[31m"},
        {"dataset": {"a": "b"}},
    ],
)
def test_a_nonsensical_configuration_is_one_sentence(tmp_path, change):
    (tmp_path / "config.json").write_text(json.dumps({**json.loads(CONFIG.to_json()), **change}))
    with pytest.raises(UserError, match="config.json does not describe a run of this version") as caught:
        read_config(tmp_path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"[" * 100_000, b"[]", b"1" * 5000, b"{}", b'"' + b"x" * 300]
)
def test_what_is_no_configuration_is_one_sentence(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match="config.json does not describe a run of this version") as caught:
        read_config(tmp_path)
    assert len(str(caught.value)) < 500


def test_a_folder_in_a_files_place_is_one_sentence(tmp_path):
    for name, read in (("config.json", read_config), ("history.csv", read_history)):
        (tmp_path / name).mkdir()
        with pytest.raises(UserError, match=name):
            read(tmp_path)


def test_a_history_is_read_and_may_be_missing(folder):
    assert read_history(folder) == []
    storage.write(folder / "history.csv", HISTORY.encode())
    assert read_history(folder)[1] == {"step": "20", "epoch": "1", "seconds": "3.0", "loss": "nan"}


@pytest.mark.parametrize(
    "content",
    [
        HISTORY[:-1],
        HISTORY[:-9] + "\n",
        HISTORY + "30,1,3.0,1,5\n",
        HISTORY + "30,1,3.0,lo\x1b[31m\n",
        HISTORY.replace("step", "stop"),
        HISTORY.replace("20,", "1e3,"),
        HISTORY.replace("20,", "-1,"),
        HISTORY.replace("20,", "9" * 5000 + ","),
        HISTORY + "30,1,3.0,\x00\n",
        HISTORY + '30,1,3.0,"' + "1" * 200_000 + '"\n',
        HISTORY + '30,1,3.0,"1',
        "\ud800",
    ],
)
def test_a_damaged_history_is_one_sentence(tmp_path, content):
    (tmp_path / "history.csv").write_bytes(content.encode(errors="surrogatepass"))
    with pytest.raises(UserError, match="history.csv is damaged") as caught:
        read_history(tmp_path)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def picture(side, level=0):
    return png(Image.new("RGBA", (side, side), (level, 0, 0, 255)))


def test_sample_pictures_are_read_by_epoch_evenly_spaced_and_reduced(folder):
    assert read_samples(folder) == ({}, 0)
    for epoch in range(1, 71):
        storage.write(folder / "samples" / f"epoch-{epoch:04d}.png", picture(500, epoch))
    for name in ("epoch-1.png", "epoch-0001.png.tmp", "mine.png", "epoch-00001.png/epoch-0099.png"):
        storage.write(folder / "samples" / name, picture(500))
    pictures, left_out = read_samples(folder)
    assert len(pictures) == 24 and list(pictures)[:3] == [1, 4, 7] and list(pictures)[-1] == 70
    for epoch, shown in pictures.items():
        assert shown.size == (400, 400) and shown.getpixel((200, 200)) == (epoch, 0, 0, 255)
    assert left_out == 0


def test_sample_pictures_that_may_be_anyones_are_left_out_where_they_are_not_as_they_should(tmp_path):
    jpeg, cut, huge = io.BytesIO(), picture(300)[:-60], bytearray(picture(8))
    Image.new("RGB", (300, 300)).save(jpeg, "JPEG")
    huge[16:24] = (50_000).to_bytes(4, "big") * 2  # a header that asks for gigabytes
    bad = [jpeg.getvalue(), cut, bytes(huge), b"", picture(200), picture(300) + bytes(16 << 20)]
    bad.append(picture(300).replace(b"IDAT", b"IDOT"))
    for epoch, content in enumerate([picture(300), *bad, picture(300)]):
        storage.write(tmp_path / "samples" / f"epoch-{epoch:04d}.png", content)
    (tmp_path / "samples" / "epoch-0050.png").mkdir()
    pictures, left_out = read_samples(tmp_path)
    assert list(pictures) == [0, len(bad) + 1] and left_out == len(bad)


def test_a_damaged_sample_picture_never_stops_the_others(tmp_path):
    rng = np.random.default_rng(0)
    whole = picture(40)
    for epoch in range(24):
        damaged = bytearray(whole)
        for place in rng.integers(8, len(whole), 3):
            damaged[place] = rng.integers(256)
        storage.write(tmp_path / "samples" / f"epoch-{epoch:04d}.png", whole if epoch == 23 else damaged)
    pictures, left_out = read_samples(tmp_path)
    assert len(pictures) + left_out == 24 and 23 in pictures and left_out > 12


def test_a_copy_has_the_networks_and_small_sample_pictures(tmp_path, network):
    folder, target = tmp_path / "gan", tmp_path / "copy"
    files = {"config.json": CONFIG.to_json().encode(), "history.csv": b"", **dict.fromkeys(NETWORKS, network)}
    for name, content in {**files, "checkpoints/1": b"", "samples/epoch-0002.png": picture(900)}.items():
        storage.write(folder / name, content)
    copy_model(str(folder), str(target))
    assert set(storage.list_files(target)) == {*files, "samples/epoch-0002.png"}
    assert all((target / name).read_bytes() == content for name, content in files.items())
    (copied,), (read,) = (read_samples(place)[0].values() for place in (target, folder))
    assert copied.size == (400, 400) and copied.tobytes() == read.tobytes()
