import numpy as np
import pytest

from latentfaces.components.evaluate.latents import manifold, round_trip, sample, slerp, stream


def test_samples_are_standard_normal_and_depend_on_the_seed_alone():
    latents = sample(20_000, 4, seed=1)
    assert latents.dtype == np.float32
    np.testing.assert_allclose(latents.mean(axis=0), 0, atol=0.03)
    np.testing.assert_allclose(np.cov(latents.T), np.eye(4), atol=0.05)
    np.testing.assert_array_equal(latents, sample(20_000, 4, seed=1))
    assert not np.array_equal(latents, sample(20_000, 4, seed=2))


@pytest.mark.parametrize("start", [0, 1, 10, 23, 40])
def test_a_stream_goes_on_where_samples_end(start):
    parts = list(stream(start, 23, 5, latent_dim=3, seed=4))  # an odd number of values a batch
    assert all(len(part) == 5 for part in parts[:-1]) and sum(map(len, parts)) == max(0, 23 - start)
    expected = sample(23, 3, seed=4)[start:]
    np.testing.assert_array_equal(np.concatenate([expected[:0], *parts]), expected)


def test_interpolation_turns_evenly_from_one_end_to_the_other():
    starts, ends = sample(5, 16, seed=0), 3 * sample(5, 16, seed=1)
    ways = slerp(starts, ends, 7)
    np.testing.assert_allclose(ways[:, 0], starts, atol=1e-5)
    np.testing.assert_allclose(ways[:, -1], ends, atol=1e-5)
    lengths = np.linalg.norm(ways, axis=-1)
    np.testing.assert_allclose(np.diff(lengths), np.diff(lengths)[:, :1].repeat(6, axis=1), atol=1e-4)
    units = ways / lengths[..., None]
    angles = np.arccos(np.sum(units[:, 1:] * units[:, :-1], axis=-1))
    np.testing.assert_allclose(angles, angles[:, :1].repeat(6, axis=1), rtol=1e-3)


def test_interpolation_is_straight_where_the_turn_is_undefined():
    start = np.array([[1.0, 2.0]])
    for end in (2 * start, -start, start, np.zeros((1, 2))):
        straight = start[:, None] + np.linspace(0, 1, 5)[:, None] * (end - start)[:, None]
        np.testing.assert_allclose(slerp(start, end, 5), straight, atol=1e-6)


def test_manifold_is_the_plane_of_the_books_listing_12_29():
    grid_x, grid_y = np.linspace(-1, 1, 30), np.linspace(-1, 1, 30)[::-1]
    plane = manifold(np.linspace(-1, 1, 30), np.linspace(-1, 1, 30))
    for i, y in enumerate(grid_y):
        for j, x in enumerate(grid_x):
            np.testing.assert_allclose(plane[i, j], [x, y], rtol=1e-6)


def test_a_round_trip_passes_its_stations_and_closes_evenly():
    stations = sample(3 * 2, 8, seed=0).reshape(3, 2, 8)
    trip = round_trip(stations, 15)
    assert trip.shape == (15, 2, 8) and trip.dtype == np.float32
    closed = np.concatenate([trip, stations[:1]])
    for start, station, end in zip((0, 5, 10), stations, [*stations[1:], stations[0]], strict=True):
        ways = slerp(station, end, 6)
        np.testing.assert_allclose(closed[start : start + 6], ways.swapaxes(0, 1), atol=1e-5)


@pytest.mark.parametrize("count", [2, 3, 7, 100])
def test_a_round_trip_has_as_many_points_as_are_asked_for(count):
    assert round_trip(sample(6, 4, 0)[:, None], count).shape == (count, 1, 4)


def test_two_stations_are_there_and_back():
    trip = round_trip(sample(2, 64, 0)[:, None], 10)
    np.testing.assert_allclose(trip[1:5], trip[:5:-1], atol=1e-5)
