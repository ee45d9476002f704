"""The FID's network, of which the user gives the file: TensorFlow's of 2015, or NVIDIA's translation of it.

A graph can read and write files and TorchScript is code, so nothing but the two known files is run: by their
sha256, whatever they are called.
"""

import gzip
import hashlib
import io
import tarfile
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from PIL import Image

from latentfaces.common import storage
from latentfaces.common.errors import UserError, printable
from latentfaces.common.images import to_uint8

FEATURES = 2048
SIDE = 299  # pixels

_BATCH = 32
_LONGEST = 128 << 20  # bytes of a file, and of the archive unpacked; they have 96 MB
_GRAPH = "classify_image_graph_def.pb"
_SOURCE = (
    "give inception-2015-12-05.tgz of download.tensorflow.org/models/image/imagenet, or "
    "inception-2015-12-05.pt of nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics"
)

# A batch of images, float32 [n, 299, 299, 3] in [0, 255], to features, float32 [n, 2048].
Batch = Callable[[np.ndarray], np.ndarray]


class Inception:
    """Images to the features of the FID (Heusel et al. 2017, arXiv:1706.08500), as clean-fid computes them.

    Images are resized to 299 x 299 as there (Parmar et al. 2022, arXiv:2104.11222); grey ones are given three
    equal channels.

    Args:
        run: the network.
    """

    def __init__(self, run: Batch) -> None:
        self._run = run

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Returns the features, float32 [N, `FEATURES`], of images [N, H, W, 1 or 3], uint8 or in [0, 1]."""
        features = np.empty((len(images), FEATURES), np.float32)
        for start in range(0, len(images), _BATCH):
            rows = slice(start, start + _BATCH)
            features[rows] = self._run(np.stack([resize(image) for image in to_uint8(images[rows])]))
        return features


def resize(image: np.ndarray) -> np.ndarray:
    """Resizes one image, uint8 [H, W, 1 or 3], to float32 [299, 299, 3] in about [0, 255].

    As clean-fid does: by Pillow's bicubic filter, which is widened where it makes smaller, each channel in
    floating point, and neither rounded nor clipped afterwards.
    """
    channels = [
        np.asarray(Image.fromarray(channel).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        for channel in np.moveaxis(image.astype(np.float32), 2, 0)
    ]
    return np.stack(channels if len(channels) == 3 else channels[:1] * 3, axis=2)


def load_inception(file: str) -> Inception:
    """Loads the network.

    Args:
        file: one of the two known ones, or the archive that holds the first, local or `gs://`.

    Raises:
        UserError: if there is no such file, it is another one, or PyTorch is needed and is not installed.
    """
    try:
        data = storage.read(storage.resolve(file), 0, _LONGEST)
    except OSError as error:
        reason = printable(str(error.strerror or error))
        raise UserError(f"the FID's network '{file}' can't be read ({reason}): {_SOURCE}") from None
    if data.startswith(b"\x1f\x8b"):
        try:
            data = _unpack(data)
        except Exception:  # damaged bytes make the modules raise many kinds
            raise UserError(f"'{file}' is not an archive that holds {_GRAPH}: {_SOURCE}") from None
    if load := _KNOWN.get(hashlib.sha256(data).hexdigest()):
        return Inception(load(data))
    raise UserError(f"'{file}' is not the FID's network, by its sha256: {_SOURCE}")


def _unpack(data: bytes) -> bytes:
    with gzip.open(io.BytesIO(data)) as packed:
        unpacked = packed.read(_LONGEST)
    with tarfile.open(fileobj=io.BytesIO(unpacked), mode="r:") as archive:
        member = archive.getmember(_GRAPH)
        content = archive.extractfile(member) if member.isfile() else None  # not what a link names
        return content.read(_LONGEST) if content else b""  # a sparse file may say that it has any length


def _load_graph(data: bytes) -> Batch:
    """Takes images in where the graph has decoded one, and features out before its last layer."""
    definition = tf.compat.v1.GraphDef.FromString(data)
    # A session, since its operations are older than what a `tf.function` can hold.
    with tf.Graph().as_default() as graph:
        images = tf.compat.v1.placeholder(tf.float32, [None, SIDE, SIDE, 3])
        (features,) = tf.graph_util.import_graph_def(
            definition, {"ExpandDims:0": images}, ["pool_3:0"], name=""
        )
    session = tf.compat.v1.Session(graph=graph)
    return lambda batch: session.run(features, {images: batch}).reshape(len(batch), FEATURES)


def _load_torchscript(data: bytes) -> Batch:
    try:
        import torch
    except ImportError:
        raise UserError(
            f"the FID's network is given as TorchScript, which needs PyTorch: pip install torch, or {_SOURCE}"
        ) from None
    layers = torch.jit.load(io.BytesIO(data), map_location="cpu").eval().layers

    def run(batch: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            scaled = (torch.from_numpy(batch).permute(0, 3, 1, 2) - 128) / 128
            features: np.ndarray = layers(scaled).reshape(len(batch), FEATURES).numpy()
            return features

    return run


# By sha256. Who has other reasons to trust a file can add its own.
_KNOWN: dict[str, Callable[[bytes], Batch]] = {
    "009d6814d1bc560d4e7b236e170e9b2d5ca6f4b57bd8037f6db05776204415c6": _load_graph,
    "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4": _load_torchscript,
}
