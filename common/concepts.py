"""Concept vectors, and `concepts.npz`, the file in which an evaluation leaves them."""

import hashlib
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latentfaces.common import storage
from latentfaces.common.dataset import check_attribute_names
from latentfaces.common.errors import UserError
from latentfaces.common.model_folder import brief
from latentfaces.common.storage import AnyPath

_LARGEST = 64 << 20  # bytes, as they are in the file and unpacked


@dataclass(frozen=True)
class Concept:
    """A direction in latent space that is to add what an attribute names.

    Attributes:
        name: the attribute.
        vector: what is added to the latents of an image, float32 [D].
        strength: how many times it, for a change that shows most clearly.
        works: whether it shows in enough images.
    """

    name: str
    vector: np.ndarray
    strength: float
    works: bool

    @property
    def title(self) -> str:
        """The name as people write it."""
        return self.name.replace("_", " ")


def pack_concepts(concepts: Sequence[Concept], decoder_sha256: str) -> bytes:
    """Returns a file that `numpy.load` reads without pickle; the same concepts give the same bytes."""
    buffer = io.BytesIO()
    np.savez(
        buffer,
        names=np.array([each.name for each in concepts]),
        vectors=np.stack([each.vector for each in concepts]),
        strengths=np.array([each.strength for each in concepts]),
        works=np.array([each.works for each in concepts]),
        decoder_sha256=np.array(decoder_sha256),
    )
    return buffer.getvalue()


def read_concepts(file: AnyPath, decoder: bytes, latent_dim: int) -> dict[str, Concept]:
    """Reads concept vectors, by name; the file may come from anywhere.

    Args:
        file: arrays `names` (text [A]), `vectors` (floats [A, D]), `strengths` (floats [A]), `works`
            (bool [A]) and `decoder_sha256` (a text).
        decoder: content of the decoder's file, to which they have to belong.
        latent_dim: D.

    Raises:
        UserError: if there is no such file, it holds other things, or it belongs to another decoder.
    """
    try:
        data = storage.read(file, 0, _LARGEST + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"there are no concept vectors in {file}: evaluate the model on images with labels, or name the "
            "concepts' file"
        ) from None
    try:
        unpacked = sum(member.file_size for member in zipfile.ZipFile(io.BytesIO(data)).infolist())
        if unpacked > _LARGEST:
            raise ValueError(f"it is larger than {_LARGEST:,} bytes")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            names, vectors, strengths, works, sha256 = (
                arrays[name] for name in ("names", "vectors", "strengths", "works", "decoder_sha256")
            )
        count = len(names)
        if (vectors.shape, strengths.shape, works.shape) != ((count, latent_dim), (count,), (count,)):
            raise ValueError(f"it has no {count} vectors of {latent_dim} dimensions")
        if "".join(each.dtype.kind for each in (names, vectors, strengths, works, sha256)) != "UffbU":
            raise ValueError("its arrays are of other types")
        if not all((np.abs(each) < np.finfo(np.float32).max).all() for each in (vectors, strengths)):
            raise ValueError("it holds numbers that are not finite, or too large")
        check_attribute_names(names.tolist())
    except Exception as error:  # damaged bytes make NumPy and zipfile raise many kinds
        raise UserError(
            f"{file} holds no concept vectors ({brief(error)}): evaluate the model again"
        ) from None
    if sha256.tolist() != hashlib.sha256(decoder).hexdigest():
        raise UserError(
            f"{file} belongs to another model, or to this one before it was trained for longer: "
            "evaluate this one, or name its own concepts' file"
        )
    columns = names.tolist(), vectors.astype(np.float32), strengths.tolist(), works.tolist()
    return {row[0]: Concept(*row) for row in zip(*columns, strict=True)}
