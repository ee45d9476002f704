from types import SimpleNamespace

import cv2
import keras
import numpy as np
import pytest

from latentfaces.components.evaluate import spectra
from latentfaces.components.evaluate.figures.spectra import spectra as figure
from latentfaces.components.evaluate.metrics.checkerboard import checkerboard, stride_energy
from latentfaces.components.evaluate.metrics.sharpness import sharpness
from latentfaces.components.evaluate.spectra import frequencies, power_spectrum

SIDE = 32


class Inputs:
    """With real images, and a GAN's samples."""

    def __init__(self, real, samples):
        self.real = SimpleNamespace(held_out=real)
        self.models = [SimpleNamespace(name="gan", title="GAN", samples=samples)]


def smooth(count, side, channels=1, sigma=1.5, seed=0):
    """Random pictures without edges, floats around 0.5."""
    noise = np.random.default_rng(seed).normal(size=(count, side, side, channels))
    blurred = [cv2.GaussianBlur(each, (0, 0), sigma).reshape(side, side, channels) for each in noise]
    return (0.5 + 0.3 * np.array(blurred)).clip(0, 1).astype(np.float32)


def test_a_wave_has_its_energy_at_its_frequency():
    y, x = np.mgrid[:SIDE, :24]
    waves = 0.5 + 0.4 * np.cos(2 * np.pi * (5 * y / SIDE + 3 * x / 24))[None, ..., None]
    spectrum = power_spectrum(np.repeat(waves, 2, axis=3))
    assert np.unravel_index(spectrum.argmax(), spectrum.shape) in ((5, 3), (SIDE - 5, 24 - 3))
    assert frequencies(spectrum)[5, 3] == pytest.approx(np.hypot(5 / SIDE, 3 / 24))
    around = np.ix_([4, 5, 6, SIDE - 6, SIDE - 5, SIDE - 4], [2, 3, 4, 20, 21, 22])  # Hann's window
    assert spectrum[around].sum() > 0.999 * spectrum.sum()
    assert spectrum[5, 3] == pytest.approx((0.4 / 2 * SIDE * 24 / 4) ** 2, rel=0.01)


def test_white_noise_is_flat_and_a_ramp_has_no_detail(monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (300, SIDE, SIDE, 3), np.uint8)
    whole = power_spectrum(noise)
    inner = whole[frequencies(whole) > 0.1]
    assert inner.std() < 0.06 * inner.mean()
    expected = noise.var() / 255**2 * (SIDE * 3 / 8) ** 2  # of the window: the mean square is 3/8 a side
    assert inner.mean() == pytest.approx(expected, rel=0.02)
    monkeypatch.setattr(spectra, "AT_ONCE", 10_000)
    np.testing.assert_allclose(power_spectrum(noise), whole)
    ramp = power_spectrum(np.broadcast_to(np.linspace(0, 1, SIDE)[:, None], (1, SIDE, SIDE, 1)))
    assert ramp[frequencies(ramp) > 0.25].sum() < 1e-3 * ramp.sum()


def test_sharpness_is_the_share_of_energy_that_is_kept():
    noise = np.random.default_rng(0).random((50, SIDE, SIDE, 3))
    faint = sharpness(Inputs(noise, 0.25 + noise / 2)).numbers["gan_samples"]
    assert list(faint.values()) == pytest.approx([0.25] * 4, rel=0.01)
    assert set(sharpness(Inputs(noise, noise)).numbers["gan_samples"].values()) == {1.0}
    blurred = np.array([cv2.GaussianBlur(each, (0, 0), 1) for each in noise])
    kept = list(sharpness(Inputs(noise, blurred)).numbers["gan_samples"].values())
    assert kept == sorted(kept, reverse=True) and kept[0] > 0.8 and kept[-1] < 0.1
    noisy = smooth(50, SIDE, 3)
    added = noisy + np.random.default_rng(1).normal(0, 0.1, noisy.shape)
    assert sharpness(Inputs(noisy, added)).numbers["gan_samples"]["under_4_pixels"] > 2


def test_images_of_one_colour_are_compared_by_nothing():
    grey = np.full((5, SIDE, SIDE, 1), 99, np.uint8)
    inputs = Inputs(grey, grey)
    assert sharpness(inputs) is None and checkerboard(inputs) is None and figure(inputs) is None
    assert checkerboard(Inputs(smooth(50, SIDE, sigma=1.0), grey)).numbers.keys() == {"real"}


def transposed(kernel_size):
    """What two transposed convolutions of stride 2, all of whose weights are equal, make of random maps.

    The edges, at which fewer maps add up, are cut away.
    """
    maps = keras.Input((SIDE // 2, SIDE // 2, 1))
    x = maps
    for _ in range(2):
        equal = keras.initializers.Constant(4 / kernel_size**2)
        x = keras.layers.Conv2DTranspose(1, kernel_size, 2, padding="same", kernel_initializer=equal)(x)
    network = keras.Model(maps, keras.layers.Cropping2D(SIDE // 2)(x))
    return network.predict(smooth(200, SIDE // 2, sigma=0.5), verbose=0)


def test_a_kernel_that_the_stride_does_not_divide_shows_as_a_checkerboard():
    real = smooth(200, SIDE, sigma=1.0, seed=1)
    for kernel_size, is_seen in ((3, True), (4, False), (5, True), (2, False)):
        numbers = checkerboard(Inputs(real, transposed(kernel_size))).numbers
        assert 0.5 < numbers["real"] < 1.2
        assert numbers["gan_samples"] > 10 if is_seen else numbers["gan_samples"] < 1.5


def test_a_faint_grid_over_real_images_is_seen_and_an_edge_is_not():
    real = smooth(200, SIDE, sigma=1.0)
    grid = real + 0.03 * (np.arange(SIDE) % 2)[:, None]
    edges = real.copy()
    edges[:, :, SIDE // 2 :] = edges[:, :, SIDE // 2 :] / 2
    plain, seen, edged = (stride_energy(power_spectrum(images)) for images in (real, grid, edges))
    assert seen > 2 * plain and edged < 1.2


@pytest.mark.parametrize("shape", [(30, 32), (32, 12), (8, 8)])
def test_sides_without_the_strides_frequencies_are_left_out(shape):
    assert stride_energy(np.ones(shape)) is None
    assert stride_energy(np.ones((16, 28))) == 1


def test_the_picture_has_one_square_for_each_set():
    noise = np.random.default_rng(0).random((5, 16, 24, 3))
    picture = figure(Inputs(noise, noise / 10))
    pixels = np.asarray(picture.image.convert("L"))
    assert pixels.shape == (128, 2 * 192 + 4)
    assert pixels[:, :192].mean() > pixels[:, 196:].mean() + 20
    assert "held-out images, GAN samples" in picture.caption
