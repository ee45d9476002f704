import numpy as np

from latentfaces.components.evaluate.curves import HEIGHT, WIDTH, loss_curves


def history(steps, **losses):
    columns = {"step": steps, **losses}
    return [{name: str(values[i]) for name, values in columns.items()} for i in range(len(steps))]


def points(curve):
    return np.array([point.split(",") for point in curve.points.split()], float)


def test_a_falling_loss_is_drawn_from_the_upper_left_to_the_lower_right():
    (curve,) = loss_curves(history([0, 50, 100], loss=[3.0, 2.5, 1.0], seconds=[1, 2, 3]))
    np.testing.assert_allclose(points(curve), [[0, 0], [WIDTH / 2, HEIGHT / 4], [WIDTH, HEIGHT]], atol=0.06)
    assert (curve.name, curve.low, curve.high, curve.last, curve.last_step) == ("loss", 1, 3, 1, 100)
    assert not curve.logarithmic


def test_wide_ranges_are_drawn_on_a_logarithmic_axis():
    (curve,) = loss_curves(history([0, 1, 2], kl_loss=[100, 10, 1]))
    assert curve.logarithmic
    np.testing.assert_allclose(points(curve)[1], [WIDTH / 2, HEIGHT / 2], atol=0.06)


def test_long_histories_are_averaged_and_gaps_left_out():
    steps = np.arange(1, 10_001)
    losses = np.linspace(5, 4, 10_000).tolist()
    losses[17], losses[4000], losses[4001] = float("nan"), float("inf"), ""
    (curve,) = loss_curves(history(steps, generator_loss=losses))
    drawn = points(curve)
    assert len(drawn) == 300 and np.isfinite(drawn).all()
    assert (np.diff(drawn[:, 0]) > 0).all() and (np.diff(drawn[:, 1]) > 0).all()


def test_no_value_is_so_large_that_the_page_can_not_hold_it():
    (curve,) = loss_curves(history(np.arange(700), loss=[1e308, 1e308, 1e299, 1e-320, *[1.0] * 696]))
    assert np.isfinite(points(curve)).all() and np.isfinite(curve.values).all() and curve.high < 1e300


def test_without_rows_or_losses_there_are_no_curves():
    assert loss_curves([]) == []
    assert loss_curves(history([1, 2], accuracy=[0, 1])) == []
    assert loss_curves(history([1, 2], loss=["nan", "nan"])) == []
