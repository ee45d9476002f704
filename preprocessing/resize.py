"""One image: from the bytes of a file to `size`×`size` pixels, exactly as Keras' smart_resize has them.

How each of Pillow's modes becomes `channels` 1 (grey) or 3 (RGB):

| mode | becomes |
|---|---|
| 1, L, RGB, YCbCr, HSV | itself; colour to grey by ITU-R 601-2 luma, Pillow's `convert("L")` |
| P, PA and anything with transparency (RGBA, LA, La, RGBa, a transparent colour) | composited on white |
| CMYK | Pillow's conversion, embedded colour profiles ignored |
| LAB | converted to sRGB |
| I;16, I | 16-bit values divided by 257 and rounded |
| F | 0..1 where no value is above 1, else 0..255; clipped |

Rotation by an EXIF tag is undone. Of several frames the first is taken.

Memory: the image as Pillow has it, up to 4 bytes a pixel, and as it is returned, up to 3; and what a decoder
takes besides: up to 6 for a progressive JPEG, 9 for WebP and AVIF. `untrusted` sees to it that a file can't
have it take more.
"""

import functools
import io
from collections.abc import Iterator

import cv2
import numpy as np
import simplejpeg
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from latentfaces.common.errors import printable
from latentfaces.preprocessing import untrusted
from latentfaces.preprocessing.untrusted import RefusedImage as RefusedImage

MAX_FILE_BYTES = 256 << 20

STRIP_PIXELS = 1 << 20  # as many are converted at a time

# Above this many source pixels only those that count are converted to float32; below, OpenCV is faster.
WHOLE_CROP_PIXELS = 2 << 20


def decode(data: bytes, channels: int) -> np.ndarray:
    """Decodes an image file of one of the formats in `untrusted.FORMATS`.

    Plain JPEG goes through libjpeg-turbo directly, with the same pixels as Pillow's; the rest through Pillow.

    Args:
        data: The file's content, untrusted.
        channels: 1 or 3.

    Returns:
        uint8 [height, width, channels].

    Raises:
        RefusedImage: Not an image, of another format, truncated, damaged, or too large.
    """
    if not data:
        raise RefusedImage("empty file")
    if len(data) > MAX_FILE_BYTES:
        raise RefusedImage(f"too large: {len(data):,} bytes, more than {MAX_FILE_BYTES:,}")
    image = decode_plain_jpeg(data, channels)
    return _decode_with_pillow(data, channels) if image is None else image


def decode_plain_jpeg(data: bytes, channels: int) -> np.ndarray | None:
    """The fast path: [height, width, channels], or None where Pillow has to decide.

    Taken where there is nothing but pixels: no tag that could rotate, no CMYK, no grey from colour (which
    libjpeg-turbo takes from the Y channel, Pillow from rounded RGB), no warning.

    Raises:
        RefusedImage: Decoding it could take minutes.
    """
    if data[:2] != b"\xff\xd8":
        return None
    header, scans = untrusted.jpeg_layout(data)
    if data.find(b"Exif", 0, header) >= 0 or data.find(b"tiff:Orientation", 0, header) >= 0:
        return None
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        untrusted.check_size(width, height)
        untrusted.check_jpeg_scans(scans, width, height)
        if colorspace == "YCbCr" and channels == 3:
            return simplejpeg.decode_jpeg(data, strict=True)
        if colorspace == "Gray":
            grey = simplejpeg.decode_jpeg(data, colorspace="GRAY", strict=True)
            return grey if channels == 1 else np.repeat(grey, 3, axis=2)
    except (ValueError, MemoryError):
        pass
    return None


def _decode_with_pillow(data: bytes, channels: int) -> np.ndarray:
    try:
        scans = untrusted.jpeg_layout(data).scans if data[:2] == b"\xff\xd8" else 0
        with Image.open(io.BytesIO(untrusted.defused(data)), formats=untrusted.FORMATS) as image:
            untrusted.check_opened(image)
            untrusted.check_jpeg_scans(scans, *image.size)
            image.load()
            untrusted.check_size(*image.size)  # whatever the header said
            return _pixels(image, channels)
    except RefusedImage:
        raise
    except UnidentifiedImageError:
        if untrusted.is_heif(data) and "HEIF" not in untrusted.FORMATS:
            raise RefusedImage('HEIC is not read: pip install "latentfaces[heic]"') from None
        if name := untrusted.unread_format(data):
            raise RefusedImage(f"format {name} is not read: convert the image to JPEG or PNG") from None
        raise RefusedImage(f"not an image: neither {' nor '.join(untrusted.FORMATS)}") from None
    except Image.DecompressionBombError as error:
        raise RefusedImage(f"too many pixels: {error}") from None
    except MemoryError:
        raise RefusedImage("too large to decode in memory") from None
    except Exception as error:  # Pillow's decoders raise many kinds on damaged data
        reason = printable(" ".join(str(error).split())) or type(error).__name__
        raise RefusedImage(f"{'truncated' if 'truncated' in reason else 'damaged'} image: {reason}") from None


def _pixels(image: Image.Image, channels: int) -> np.ndarray:
    """Converts a decoded image, upright, a strip at a time: only a strip is there in any other form."""
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    turned = orientation in (5, 6, 7, 8)
    upright = np.empty((*(image.size if turned else image.size[::-1]), channels), np.uint8)
    stored = _as_stored(upright, orientation)
    factor, top = _float_factor(image), 0
    for strip in _strips(image):
        rows = np.asarray(_to_channels(strip, channels, factor))
        stored[top : top + len(rows)] = rows.reshape(len(rows), image.width, channels)
        top += len(rows)
    return upright


def _as_stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """A view of an image whose rows and columns are those of its file, by the file's EXIF orientation."""
    if orientation in (5, 6, 7, 8):
        upright = upright.transpose(1, 0, 2)
    if orientation in (3, 4, 6, 7):
        upright = upright[::-1]
    if orientation in (2, 3, 7, 8):
        upright = upright[:, ::-1]
    return upright


def _strips(image: Image.Image) -> Iterator[Image.Image]:
    rows = max(1, STRIP_PIXELS // image.width)
    if rows >= image.height:
        yield image
    else:
        for top in range(0, image.height, rows):
            yield image.crop((0, top, image.width, min(top + rows, image.height)))


def _float_factor(image: Image.Image) -> float:
    """What values in floating point are multiplied with."""
    if image.mode != "F":
        return 1.0
    most = np.fmax.reduce([np.fmax.reduce(np.asarray(strip), axis=None) for strip in _strips(image)])
    return 255.0 if most <= 1.0 else 1.0


def _to_channels(image: Image.Image, channels: int, float_factor: float) -> Image.Image:
    """Applies the table at the head of this file; returns mode "L" or "RGB"."""
    mode = "L" if channels == 1 else "RGB"
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        if image.mode == "F":
            values = np.nan_to_num(values) * float_factor
        else:
            values /= 257.0
        return Image.fromarray(np.rint(values.clip(0, 255)).astype(np.uint8)).convert(mode)
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.buildTransform(lab, srgb, "LAB", "RGB").apply(image)
    elif image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    if image.mode not in ("1", "L", "RGB"):
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def smart_resize(image: np.ndarray, size: int) -> np.ndarray:
    """Crops the middle to a square and resizes it bilinearly, with half-pixel centres and no antialiasing.

    Equals `keras.preprocessing.image.smart_resize(image, (size, size))`, rounded half to even. The arithmetic
    is float32: OpenCV on uint8 would round its weights, and Pillow's bilinear filter low-passes.

    Args:
        image: uint8 [height, width, channels].
        size: Height and width of the result in pixels.

    Returns:
        uint8 [size, size, channels].
    """
    height, width, channels = image.shape
    side = min(height, width)
    top, left = int((height - side) / 2), int((width - side) / 2)
    crop = image[top : top + side, left : left + side]
    # Where the size is a power of two, all positions and weights are exact in float32, and OpenCV's result is
    # Keras' to the bit up to 128 and within 3e-5 above. At other sizes both round positions, each in its way,
    # and some pixels would differ by 1.
    if size.bit_count() == 1 and side * side <= WHOLE_CROP_PIXELS:
        resized = cv2.resize(crop.astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
    else:
        resized = _bilinear(crop, size)
    return cv2.convertScaleAbs(resized).reshape(size, size, channels)  # rounds half to even


@functools.lru_cache(maxsize=256)
def _neighbours(side: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each pixel of `size`, its two neighbours in `side` and the upper one's weight (float32)."""
    half = np.float32(0.5)
    position = (np.arange(size, dtype=np.float32) + half) * np.float32(side / size) - half
    floor = np.floor(position)
    low = np.clip(floor.astype(np.int64), 0, side - 1)
    high = np.clip(np.ceil(position).astype(np.int64), 0, side - 1)
    return low, high, position - floor


def _bilinear(square: np.ndarray, size: int) -> np.ndarray:
    """Bilinear resizing as TensorFlow's kernel does it; reads and converts no more than the neighbours.

    Args:
        square: uint8 [side, side, channels].
        size: Height and width of the result in pixels.

    Returns:
        float32 [size, size, channels].
    """
    low, high, weight = _neighbours(len(square), size)

    def along_x(rows: np.ndarray) -> np.ndarray:
        lines = square[rows]
        left, right = lines[:, low].astype(np.float32), lines[:, high].astype(np.float32)
        return left + (right - left) * weight[None, :, None]

    upper, lower = along_x(low), along_x(high)
    return upper + (lower - upper) * weight[:, None, None]
