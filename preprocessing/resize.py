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
"""

import functools
import io

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

MAX_PIXELS = 89_478_485  # a quarter gibibyte of RGB, Pillow's own limit of what is plausible
MAX_FILE_BYTES = 256 << 20

# Above this many source pixels only those that count are converted to float32; below, OpenCV is faster.
WHOLE_CROP_PIXELS = 2 << 20


class RefusedImage(Exception):
    """The image cannot be used; the message says why."""


@functools.cache
def _formats() -> tuple[str, ...]:
    """All of Pillow's formats but EPS, which is a program that Ghostscript would run."""
    Image.init()
    return tuple(name for name in Image.ID if name != "EPS")


def decode(data: bytes, channels: int) -> np.ndarray:
    """Decodes an image file of any format that Pillow reads (EPS apart).

    Plain JPEG goes through libjpeg-turbo directly, with the same pixels as Pillow's; the rest through Pillow.

    Args:
        data: The file's content, untrusted.
        channels: 1 or 3.

    Returns:
        uint8 [height, width, channels].

    Raises:
        RefusedImage: Not an image, truncated, damaged, or too large.
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
    """
    if data[:2] != b"\xff\xd8" or b"Exif" in data or b"tiff:Orientation" in data:
        return None
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        if height * width > MAX_PIXELS:
            return None
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
        with Image.open(io.BytesIO(data), formats=_formats()) as image:
            if image.width * image.height > MAX_PIXELS:
                raise RefusedImage(f"too many pixels: {image.width}×{image.height}, more than {MAX_PIXELS:,}")
            image.load()
            pixels = np.asarray(_to_channels(ImageOps.exif_transpose(image), channels))
    except RefusedImage:
        raise
    except UnidentifiedImageError:
        raise RefusedImage("not an image") from None
    except Image.DecompressionBombError as error:
        raise RefusedImage(f"too many pixels: {error}") from None
    except MemoryError:
        raise RefusedImage("too large to decode in memory") from None
    except Exception as error:  # Pillow's decoders raise many kinds on damaged data
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RefusedImage(f"{'truncated' if 'truncated' in reason else 'damaged'} image: {reason}") from None
    if pixels.size == 0:
        raise RefusedImage("an image without pixels")
    return pixels.reshape(pixels.shape[0], pixels.shape[1], channels)


def _to_channels(image: Image.Image, channels: int) -> Image.Image:
    """Applies the table at the head of this file; returns mode "L" or "RGB"."""
    mode = "L" if channels == 1 else "RGB"
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        if image.mode == "F":
            values = np.nan_to_num(values) * (255.0 if np.nanmax(values) <= 1.0 else 1.0)
        else:
            values /= 257.0
        return Image.fromarray(np.rint(values.clip(0, 255)).astype(np.uint8)).convert(mode)
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.buildTransform(lab, srgb, "LAB", "RGB").apply(image)
    elif image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    if image.mode not in ("1", "L"):
        image = image.convert("RGB")
    return image.convert(mode)


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
