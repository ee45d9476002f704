import gzip
import hashlib
import io
import json
import sys
import tarfile

import numpy as np
import pytest
import tensorflow as tf
from conftest import make_dataset, photograph
from test_evaluate import SHAPE, draw, random_generator, save_model

from latentfaces.common import storage
from latentfaces.common.config import EvaluateOptions
from latentfaces.common.errors import UserError
from latentfaces.components.evaluate import inception, inputs
from latentfaces.components.evaluate.evaluate import evaluate
from latentfaces.components.evaluate.inception import Inception, load_inception, resize

FEW = 16  # features, in the place of 2048
GRAPH = "classify_image_graph_def.pb"


def small_graph():
    """A graph of the same operations and names as that of 2015, as old, and the function that it is."""
    rng = np.random.default_rng(0)
    filters = rng.normal(0, 0.2, (4, 4, 3, FEW)).astype(np.float32)
    mean, beta = rng.normal(0, 0.1, (2, FEW)).astype(np.float32)
    variance, gamma = rng.uniform(0.5, 2, (2, FEW)).astype(np.float32)
    graph = tf.compat.v1.GraphDef()
    graph.versions.producer = 8

    def node(name, operation, *inputs, **attributes):
        added = graph.node.add(name=name, op=operation, input=inputs)
        for key, value in attributes.items():
            added.attr[key].CopyFrom(value)

    def attribute(**value):
        return tf.compat.v1.AttrValue(**value)

    def constant(name, value):
        tensor = tf.make_tensor_proto(value)
        node(name, "Const", dtype=attribute(type=tensor.dtype), value=attribute(tensor=tensor))

    floats = attribute(type=tf.float32.as_datatype_enum)

    def numbers(*values):
        return attribute(list=tf.compat.v1.AttrValue.ListValue(i=values))

    buffer = tf.io.encode_jpeg(np.zeros((8, 8, 3), np.uint8)).numpy()
    constant("DecodeJpeg/contents", buffer)
    node("DecodeJpeg", "DecodeJpeg", "DecodeJpeg/contents")
    node("Cast", "Cast", "DecodeJpeg", SrcT=attribute(type=tf.uint8.as_datatype_enum), DstT=floats)
    constant("ExpandDims/dim", np.int32(0))
    node("ExpandDims", "ExpandDims", "Cast", "ExpandDims/dim", T=floats)
    constant("ResizeBilinear/size", np.array([299, 299], np.int32))
    node("ResizeBilinear", "ResizeBilinear", "ExpandDims", "ResizeBilinear/size", T=floats)
    constant("Sub/y", np.float32(128))
    node("Sub", "Sub", "ResizeBilinear", "Sub/y", T=floats)
    constant("Mul/y", np.float32(1 / 128))
    node("Mul", "Mul", "Sub", "Mul/y", T=floats)
    for name, value in (("f", filters), ("m", mean), ("v", variance), ("b", beta), ("g", gamma)):
        constant(f"conv/{name}", value)
    node("conv/Conv2D", "Conv2D", "Mul", "conv/f", T=floats, strides=numbers(1, 100, 100, 1),
         padding=attribute(s=b"VALID"))  # fmt: skip
    node("conv/batchnorm", "BatchNormWithGlobalNormalization", "conv/Conv2D",
         *(f"conv/{name}" for name in "mvbg"), T=floats, variance_epsilon=attribute(f=0.001),
         scale_after_normalization=attribute(b=True))  # fmt: skip
    node("conv", "Relu", "conv/batchnorm", T=floats)
    node("pool_3", "AvgPool", "conv", T=floats, ksize=numbers(1, 3, 3, 1), strides=numbers(1, 1, 1, 1),
         padding=attribute(s=b"VALID"))  # fmt: skip

    def reference(batch):
        scaled = (batch.astype(np.float64) - 128) / 128
        patches = [scaled[:, y : y + 4, x : x + 4] for y in (0, 100, 200) for x in (0, 100, 200)]
        found = np.stack([np.tensordot(patch, filters, 3) for patch in patches], axis=1)
        normal = (found - mean) / np.sqrt(variance + 0.001) * gamma + beta
        return np.maximum(normal, 0).mean(axis=1)

    return graph.SerializeToString(), reference


@pytest.fixture
def network(monkeypatch, tmp_path):
    """Files with the small graph, for once one that is known: as it is and packed; and what it computes."""
    data, reference = small_graph()
    monkeypatch.setattr(inception, "FEATURES", FEW)
    monkeypatch.setitem(inception._KNOWN, hashlib.sha256(data).hexdigest(), inception._load_graph)
    (tmp_path / "any_name").write_bytes(data)
    pack(tmp_path / "inception.tgz", GRAPH, data)
    return tmp_path / "any_name", tmp_path / "inception.tgz", reference


def pack(path, name, data, **fields):
    with tarfile.open(path, "w:gz") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        for field, value in fields.items():
            setattr(entry, field, value)
        archive.addfile(entry, io.BytesIO(data))


def test_the_graph_of_2015_takes_images_before_its_resizing_and_gives_its_last_pool(network, bucket):
    plain, packed, reference = network
    storage.write(bucket / "graph", plain.read_bytes())
    images = np.stack([photograph(seed, 40, 50) for seed in range(35)])  # more than a batch
    expected = reference(np.stack([resize(image) for image in images]))
    for place in (str(plain), str(packed), "gs://bucket/graph"):
        features = load_inception(place)(images)
        assert features.dtype == np.float32 and np.ptp(features, axis=0).min() > 0
        np.testing.assert_allclose(features, expected, atol=1e-4)


def test_floats_are_rounded_to_bytes_and_grey_images_have_three_equal_channels(network):
    run = load_inception(str(network[0]))
    images = np.stack([photograph(seed, 30, 30) for seed in range(3)])
    np.testing.assert_array_equal(run((images + 0.3).astype(np.float32) / 255), run(images))
    grey = images[..., :1]
    np.testing.assert_array_equal(run(grey), run(grey.repeat(3, axis=3)))


def weights(size):
    """Keys' cubic filter with a = -1/2, as wide as the step where that is above 1, [299, size]."""
    step = size / 299
    x = np.abs(np.arange(size) + 0.5 - (np.arange(299)[:, None] + 0.5) * step) / max(step, 1)
    found = np.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x < 2, -0.5 * (x - 1) * (x - 2) ** 2, 0))
    return found / found.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("shape", [(32, 48), (299, 299), (700, 400)])
def test_images_are_resized_as_in_clean_fid(shape):
    """By the definition of Pillow's filter; clean-fid's own function needs PyTorch."""
    image = np.random.default_rng(0).integers(0, 2, (*shape, 3), np.uint8) * 255
    found = resize(image)
    expected = np.einsum("ih,hwc,jw->ijc", weights(shape[0]), image, weights(shape[1]), optimize=True)
    assert found.shape == (299, 299, 3) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-3)
    if shape != (299, 299):
        assert found.min() < 0 and found.max() > 255 and np.any(found % 1)  # neither clipped nor rounded


def test_no_other_file_is_run(network, tmp_path):
    graph = tf.compat.v1.GraphDef.FromString(network[0].read_bytes())
    graph.node.add(name="x", op="ReadFile", input=["DecodeJpeg/contents"])
    files = {
        "changed.pb": graph.SerializeToString(),
        "inception-2015-12-05.pt": b"PK\x03\x04 any TorchScript",
        "empty": b"",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=f"{name}' is not the FID's network.* give inception-2015-12-05"):
            load_inception(str(tmp_path / name))
    pack(tmp_path / "changed.tgz", GRAPH, files["changed.pb"])
    with pytest.raises(UserError, match="is not the FID's network, by its sha256"):
        load_inception(str(tmp_path / "changed.tgz"))


def test_damaged_archives_and_missing_files_are_told(network, tmp_path):
    packed = network[1].read_bytes()
    pack(tmp_path / "other.tgz", "README", b"")
    pack(tmp_path / "header.tgz", GRAPH, b"", pax_headers={"GNU.sparse.map": "words"})
    archives = {
        "cut.tgz": packed[:-200],
        "spoiled.tgz": packed[:200] + bytes(200) + packed[400:],
        "text.tgz": gzip.compress(b"text" * 1000),
        "long.tgz": gzip.compress(bytes(200 << 20), 1),
        "other.tgz": (tmp_path / "other.tgz").read_bytes(),
        "header.tgz": (tmp_path / "header.tgz").read_bytes(),
    }
    for name, data in archives.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=f"{name}' is not an archive that holds classify_image_graph_def"):
            load_inception(str(tmp_path / name))
    for place in (tmp_path / "none", tmp_path):
        with pytest.raises(UserError, match="can't be read .*: give inception-2015-12-05.tgz of download"):
            load_inception(str(place))


def test_an_archive_may_name_itself_or_say_that_it_holds_terabytes(tmp_path):
    sparse = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(1 << 45)}
    pack(tmp_path / "sparse.tgz", GRAPH, b"x", pax_headers=sparse)
    pack(tmp_path / "link.tgz", GRAPH, b"", type=tarfile.SYMTYPE, linkname=GRAPH)
    for name in ("sparse.tgz", "link.tgz"):
        with pytest.raises(UserError, match="is not the FID's network, by its sha256"):
            load_inception(str(tmp_path / name))


def test_torchscript_needs_pytorch(monkeypatch, tmp_path):
    monkeypatch.setitem(inception._KNOWN, hashlib.sha256(b"script").hexdigest(), inception._load_torchscript)
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "file").write_bytes(b"script")
    with pytest.raises(UserError, match="which needs PyTorch: pip install torch, or give"):
        load_inception(str(tmp_path / "file"))


def test_torchscript_gives_its_layers_output_for_scaled_images(monkeypatch):
    torch = pytest.importorskip("torch")  # which is no dependency of ours
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, FEW, 9, stride=90), torch.nn.AdaptiveAvgPool2d(1))
    data = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.ModuleDict({"layers": layers})), data)
    monkeypatch.setattr(inception, "FEATURES", FEW)
    batch = np.random.default_rng(0).uniform(0, 255, (3, 299, 299, 3)).astype(np.float32)
    with torch.no_grad():
        expected = layers(torch.tensor(batch.transpose(0, 3, 1, 2)) / 128 - 1).numpy()[..., 0, 0]
    run = Inception(inception._load_torchscript(data.getvalue()))
    np.testing.assert_allclose(run._run(batch), expected, atol=1e-4)


def test_the_options_go_together():
    for values in ({"features": "inception"}, {"inception": "file"}):
        with pytest.raises(UserError, match="--features inception and --inception go together"):
            EvaluateOptions(**values)
    EvaluateOptions(features="inception", inception="file")


def test_only_with_that_network_the_number_is_called_fid(network, tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "SAMPLES", 30)
    splits = {split: draw(30, seed)[0] for seed, split in enumerate(("train", "test"))}
    make_dataset(tmp_path / "data", **splits)
    save_model(tmp_path / "gan", "gan", SHAPE, 5, generator=random_generator(SHAPE, 5))
    pages = {}
    for features, options in (("inception", {"inception": str(network[1])}), ("random", {})):
        output = tmp_path / features
        models = {"gan": str(tmp_path / "gan")}
        found = evaluate(str(tmp_path / "data"), str(output), models, features=features, **options)
        assert found == json.loads((output / "metrics.json").read_text())
        assert found["distances"]["features"] == features
        pages[features] = (output / "report.html").read_text(), found["distances"]["gan_samples"]
    page, numbers = pages["inception"]
    assert numbers["fid"] > 0 and "frechet_distance" not in numbers
    assert "FID of 30 GAN samples" in page and "<th>FID</th>" in page and "resized as in clean-fid" in page
    page, numbers = pages["random"]
    assert numbers["frechet_distance"] > 0 and "fid" not in numbers
    assert "not the FID" in page and "<th>FID</th>" not in page
