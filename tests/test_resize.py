import io

import keras
import numpy as np
import pytest
from conftest import photograph
from PIL import Image, ImageCms, ImageOps

from latentfaces.preprocessing import resize
from latentfaces.preprocessing.resize import RefusedImage, decode, smart_resize


def encoded(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def keras_resize(image, size):
    """Keras' result before rounding."""
    return np.asarray(keras.preprocessing.image.smart_resize(image.astype("float32"), (size, size)))


@pytest.mark.parametrize("whole_crop_pixels", [resize.WHOLE_CROP_PIXELS, 0], ids=["as is", "without OpenCV"])
def test_equals_keras_smart_resize_for_hundreds_of_shapes(monkeypatch, whole_crop_pixels):
    monkeypatch.setattr(resize, "WHOLE_CROP_PIXELS", whole_crop_pixels)
    random = np.random.default_rng(1)
    for _ in range(400):
        height, width = np.exp(random.uniform(0, np.log(500), 2)).astype(int)
        size, channels = int(random.choice([1, 16, 28, 64, 97, 128])), int(random.choice([1, 3]))
        image = random.integers(0, 256, (height, width, channels), dtype=np.uint8)
        result = smart_resize(image, size)
        assert result.shape == (size, size, channels) and result.dtype == np.uint8
        np.testing.assert_array_equal(
            result, np.rint(keras_resize(image, size)), f"{height}×{width} to {size}"
        )


def test_celeba_and_camera_sized_photographs_equal_keras():
    for height, width in ((218, 178), (3000, 4000)):
        image = photograph(1, height, width)
        np.testing.assert_array_equal(smart_resize(image, 64), np.rint(keras_resize(image, 64)))
        assert np.abs(smart_resize(image, 256) - keras_resize(image, 256)).max() <= 0.5 + 3e-5


def test_fast_jpeg_decoding_has_pillows_pixels():
    random = np.random.default_rng(2)
    for number in range(300):
        height, width = random.integers(1, 200, 2)
        mode, subsampling = random.choice(["L", "RGB", "RGB"]), int(random.choice([0, 1, 2]))
        options = {"quality": int(random.integers(5, 101)), "progressive": bool(random.random() < 0.3)}
        options |= {"subsampling": subsampling} if mode == "RGB" else {}
        data = encoded(Image.fromarray(photograph(number, height, width)).convert(mode), "JPEG", **options)
        fast = resize.decode_plain_jpeg(data, 3)
        assert fast is not None
        np.testing.assert_array_equal(fast, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
        np.testing.assert_array_equal(
            decode(data, 1)[..., 0], np.asarray(Image.open(io.BytesIO(data)).convert("L"))
        )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    "format, options", [("JPEG", {"quality": 100, "subsampling": 0}), ("HEIF", {"quality": -1})]
)
def test_rotation_by_exif_is_undone(orientation, format, options):
    upright = np.zeros((64, 128, 3), np.uint8)
    upright[:32, :32] = 255  # a white corner tells the eight cases apart
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(stored))
    result = decode(encoded(image, format, exif=exif.tobytes(), **options), 3)
    assert result.shape == upright.shape
    assert np.abs(result.astype(int) - upright).max() < 10


def pictures():
    """(id, file content, RGB, tolerance): pictures of one colour, in every mode and many formats."""
    solid = Image.new("RGB", (6, 4), (200, 100, 50))
    yield "png-rgb", encoded(solid, "PNG"), (200, 100, 50), 0
    yield "bmp", encoded(solid, "BMP"), (200, 100, 50), 0
    yield "ppm", encoded(solid, "PPM"), (200, 100, 50), 0
    yield "tiff", encoded(solid, "TIFF"), (200, 100, 50), 0
    yield "webp", encoded(solid, "WEBP", lossless=True), (200, 100, 50), 0
    yield "avif", encoded(solid, "AVIF", quality=100), (200, 100, 50), 2
    yield "heic", encoded(solid.resize((64, 48)), "HEIF", quality=100), (200, 100, 50), 3
    yield "jpeg-progressive", encoded(solid, "JPEG", progressive=True, quality=95), (200, 100, 50), 3
    yield "jpeg-cmyk", encoded(solid.convert("CMYK"), "JPEG", quality=95), (200, 100, 50), 4
    yield "tiff-cmyk", encoded(solid.convert("CMYK"), "TIFF"), (200, 100, 50), 0
    yield "tiff-ycbcr", encoded(solid, "TIFF", compression="jpeg"), (200, 100, 50), 3
    yield "palette", encoded(solid.convert("P", palette=Image.Palette.ADAPTIVE), "PNG"), (200, 100, 50), 0
    yield "grey", encoded(Image.new("L", (6, 4), 77), "PNG"), (77, 77, 77), 0
    yield "pgm", encoded(Image.new("L", (6, 4), 77), "PPM"), (77, 77, 77), 0
    yield "one-bit", encoded(Image.new("1", (6, 4), 1), "PNG"), (255, 255, 255), 0
    yield "grey-16", encoded(Image.fromarray(np.full((4, 6), 77 * 257, np.uint16)), "PNG"), (77, 77, 77), 0
    yield "pgm-16", b"P5 2 1 65535\n" + (77 * 257).to_bytes(2) * 2, (77, 77, 77), 0
    yield "tiff-int32", encoded(Image.fromarray(np.full((4, 6), 77 * 257, np.int32)), "TIFF"), (77, 77, 77), 0
    yield "tiff-float", encoded(Image.fromarray(np.full((4, 6), 0.2, np.float32)), "TIFF"), (51, 51, 51), 0
    yield "tiff-lab", encoded(Image.new("LAB", (6, 4), (128, 128, 128)), "TIFF"), (119, 119, 119), 3
    yield "rgba-half", encoded(Image.new("RGBA", (6, 4), (200, 100, 50, 128)), "PNG"), (227, 177, 152), 1
    yield "grey-alpha", encoded(Image.new("LA", (6, 4), (100, 0)), "PNG"), (255, 255, 255), 0
    yield (
        "webp-clear",
        encoded(Image.new("RGBA", (6, 4), (9, 9, 9, 0)), "WEBP", lossless=True),
        (255, 255, 255),
        0,
    )
    clear = Image.new("P", (6, 4), 3)
    clear.putpalette([10, 20, 30] * 4)
    yield "palette-clear", encoded(clear, "PNG", transparency=3), (255, 255, 255), 0
    yield "gif-clear", encoded(clear, "GIF", transparency=3), (255, 255, 255), 0
    yield "rgb-colour-key", encoded(solid, "PNG", transparency=(200, 100, 50)), (255, 255, 255), 0
    frames = [Image.new("RGB", (6, 4), colour) for colour in ((200, 100, 50), (0, 0, 255))]
    yield "gif-first", encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), (200, 100, 50), 0
    yield (
        "webp-first",
        encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True),
        (200, 100, 50),
        0,
    )


@pytest.mark.parametrize("data, colour, tolerance", [pytest.param(*rest, id=id) for id, *rest in pictures()])
def test_every_mode_becomes_rgb_and_grey(data, colour, tolerance):
    image = decode(data, 3)
    assert image.shape[2] == 3 and image.dtype == np.uint8
    assert np.abs(image.astype(int) - colour).max() <= tolerance
    grey = decode(data, 1)
    assert grey.shape == (*image.shape[:2], 1)
    luma = Image.fromarray(image).convert("L")  # ITU-R 601-2
    assert np.abs(grey[..., 0].astype(int) - np.asarray(luma)).max() <= 1


def converted_by_pillow(data, channels):
    """What `decode` gives, in the simplest way: the whole image at once, rotated by Pillow."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image).astype(np.float64)
        factor = (255 if np.nanmax(values) <= 1 else 1) if image.mode == "F" else 1 / 257
        image = Image.fromarray(np.rint((np.nan_to_num(values) * factor).clip(0, 255)).astype(np.uint8))
    elif image.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.buildTransform(*profiles, "LAB", "RGB").apply(image)
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image if image.mode in ("1", "L") else image.convert("RGB")
    return np.asarray(image.convert("L" if channels == 1 else "RGB")).reshape(*image.size[::-1], channels)


def colourful_pictures():
    """(id, file content): a photograph in every mode and orientation."""
    picture = Image.fromarray(photograph(3, 31, 44))
    deep = np.asarray(picture)[..., 0].astype(np.uint16) * 257 + np.arange(44, dtype=np.uint16)
    unit = deep.astype(np.float32) / 65535
    unit[3, 5], unit[30, 43] = np.nan, 1.0
    alpha = picture.copy()
    alpha.putalpha(picture.getchannel(1))
    coloured = picture.quantize(40)
    yield "grey-16", encoded(Image.fromarray(deep), "PNG")
    yield "tiff-int32", encoded(Image.fromarray(deep.astype(np.int32) - 300), "TIFF")
    yield "tiff-float", encoded(Image.fromarray(unit), "TIFF")
    yield "tiff-float-255", encoded(Image.fromarray(np.where(unit == 1, 300, unit * 255)), "TIFF")
    yield "tiff-lab", encoded(Image.merge("LAB", picture.split()), "TIFF")
    yield "tiff-cmyk", encoded(picture.convert("CMYK"), "TIFF")
    yield "tiff-one-bit", encoded(picture.convert("1"), "TIFF", compression="group4")
    yield "jpeg-cmyk", encoded(picture.convert("CMYK"), "JPEG")
    yield "rgba", encoded(alpha, "PNG")
    yield "webp-rgba", encoded(alpha, "WEBP")
    yield "grey-alpha", encoded(alpha.convert("LA"), "PNG")
    yield "palette", encoded(coloured, "PNG", transparency=bytes(range(0, 240, 6)))
    yield "gif", encoded(coloured, "GIF", transparency=7)
    yield "rgb-colour-key", encoded(picture, "PNG", transparency=picture.getpixel((20, 20)))
    exif = Image.Exif()
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        for name in ("JPEG", "PNG", "TIFF", "WEBP", "AVIF", "HEIF"):
            yield f"{name.lower()}-{orientation}", encoded(picture, name, exif=exif.tobytes())


@pytest.mark.parametrize("data", [pytest.param(data, id=id) for id, data in colourful_pictures()])
@pytest.mark.parametrize("strip_pixels", [resize.STRIP_PIXELS, 44 * 7, 1])
def test_strips_upright_make_the_image_that_pillow_makes(monkeypatch, data, strip_pixels):
    monkeypatch.setattr(resize, "STRIP_PIXELS", strip_pixels)
    for channels in (1, 3):
        np.testing.assert_array_equal(decode(data, channels), converted_by_pillow(data, channels))


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"", "empty file"),
        (b"hello, world", "not an image"),
        (encoded(Image.fromarray(photograph(0)), "JPEG")[:2000], "truncated image"),
        (encoded(Image.fromarray(photograph(0)), "PNG")[:2000], "truncated image"),
        (b"P5 60000 60000 255\n", "too many pixels"),
        (
            b"\x89PNG\r\n\x1a\n\x1b[2J",
            "^not an image: neither JPEG nor PNG nor WEBP nor TIFF nor [A-Z nor]+$",
        ),
        (encoded(Image.new("L", (6, 4)), "PNG").replace(b"IDAT", b"\x1b[2J"), "damaged image: [ -~]+$"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_reason(data, reason):
    with pytest.raises(RefusedImage, match=reason):
        decode(data, 3)


def test_a_file_above_the_limit_is_refused(monkeypatch):
    data = encoded(Image.fromarray(photograph(0)), "JPEG")
    monkeypatch.setattr(resize, "MAX_FILE_BYTES", len(data) - 1)
    with pytest.raises(RefusedImage, match="too large"):
        decode(data, 3)
