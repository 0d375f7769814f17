import numpy as np
import pytest

from predictors.intervals import Calibration, conformal_bounds, local_scale, min_examples


def test_bounds_are_order_statistics():
    # n = 39, level 0.9: rank ceil(40 · 0.95) = 38 from each side
    assert conformal_bounds(range(1, 40), level=0.9) == (2, 38)
    # n = 19: rank 19, the outermost ones
    assert conformal_bounds(np.arange(19)[::-1], level=0.9) == (0, 18)


@pytest.mark.parametrize("level", [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99])
def test_min_examples_is_where_widening_ends(level):
    n = min_examples(level)
    assert conformal_bounds(range(n), level=level) == (0, n - 1)
    low, high = conformal_bounds(range(n - 1), level=level)
    assert low < 0
    assert high > n - 2


@pytest.mark.parametrize(("n", "level"), [(3, 0.8), (5, 0.9), (10, 0.9), (10, 0.95), (18, 0.99)])
def test_too_few_errors_are_widened_to_cover_nearly_as_often(n, level):
    assert n < min_examples(level)
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(2000):
        *errors, new = rng.normal(size=n + 1)
        low, high = conformal_bounds(errors, level=level)
        covered.append(low <= new <= high)
    assert np.mean(covered) == pytest.approx(level, abs=0.03)


def test_a_higher_level_widens_few_errors_more():
    widths = [np.ptp(conformal_bounds(range(10), level=level)) for level in (0.9, 0.99, 0.9999)]
    assert widths[0] > 9 and widths[0] < widths[1] / 1.5 and widths[1] < widths[2] / 1.5


def test_of_one_error_no_width_is_known():
    assert conformal_bounds([0.5], level=0.9) == (0.5, 0.5)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
def test_coverage_of_new_errors_is_the_level(level):
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        *errors, new = rng.standard_t(3, size=61)
        low, high = conformal_bounds(errors, level=level)
        covered.append(low <= new <= high)
    assert np.mean(covered) == pytest.approx(level, abs=0.06)


@pytest.mark.parametrize(
    ("errors", "level"), [([], 0.9), ([1.0], 0), ([1.0], 1), ([1.0], 1.5), ([1.0], float("nan"))]
)
def test_no_errors_and_no_level_are_refused(errors, level):
    with pytest.raises(ValueError, match="at least one error and a level"):
        conformal_bounds(errors, level=level)


def test_where_errors_are_large_the_scale_is():
    x = np.arange(100.0)
    position, scale = local_scale(x, np.where(x < 50, 0.01, -0.2))
    assert (np.diff(position) > 0).all()
    # Half of the scale is the mean of all, 0.105; half the mean of the nearest quarter.
    assert scale[0] == pytest.approx((0.01 + 0.105) / 2)
    assert scale[-1] == pytest.approx((0.2 + 0.105) / 2)


class TestCalibration:
    """Predictions that are off by 2 % below 1 ms and by 20 % above."""

    N = 2000

    @pytest.fixture
    def networks(self):
        """Predicted, expected error, measured; in ms."""
        rng = np.random.default_rng(0)
        predicted = rng.lognormal(0, 1, self.N)
        error = rng.choice([0.0, 0.3], self.N)
        std = np.hypot(np.where(predicted < 1, 0.02, 0.2), error)
        return predicted, error, predicted * np.exp(rng.normal(0, std))

    def test_it_covers_as_often_as_it_says(self, networks):
        half = self.N // 2
        calibration = Calibration.of(*(part[:half] for part in networks))
        predicted, error, measured = (part[half:] for part in networks)
        for level in (0.5, 0.8, 0.9):
            low, high = calibration.bounds(predicted, error, level=level)
            assert ((low <= measured) & (measured <= high)).mean() == pytest.approx(level, abs=0.04)

    def test_it_is_narrow_where_errors_were_small_and_the_model_is_sure(self, networks):
        calibration = Calibration.of(*networks)
        asked = np.array([0.3, 0.3, 3.0, 3.0])
        low, high = calibration.bounds(asked, np.array([0.0, 0.3, 0.0, 0.3]), level=0.9)
        width = np.log(high / low)
        assert 2 * width[0] < width[1]
        assert width[0] < width[2] < width[3]

    def test_a_prediction_lies_in_its_interval_even_if_all_were_too_low(self):
        predicted = np.linspace(1, 2, 30)
        calibration = Calibration.of(predicted, np.zeros(30), 1.2 * predicted)
        low, high = calibration.bounds(predicted, np.zeros(30), level=0.9)
        assert low.tolist() == predicted.tolist()
        np.testing.assert_allclose(high, 1.2 * predicted)

    def test_errors_that_may_be_of_either_sign_are_allowed_for_on_both_sides(self):
        predicted = np.linspace(1, 2, 30)
        calibration = Calibration.of(predicted, np.zeros(30), 1.2 * predicted, either_sign=True)
        low, high = calibration.bounds(predicted, np.zeros(30), level=0.9)
        np.testing.assert_allclose(low, predicted / 1.2)
        np.testing.assert_allclose(high, 1.2 * predicted)

    @pytest.mark.parametrize("n", [19, 20, 101])
    @pytest.mark.parametrize("level", [0.5, 0.9])
    def test_both_sides_are_then_as_wide_as_the_wider_one(self, n, level):
        predicted, rng = np.ones(n), np.random.default_rng(n)
        measured = np.exp(rng.exponential(0.1, n) - 0.05)  # the upper tail is the longer one
        plain, wide = (
            Calibration.of(predicted, np.zeros(n), measured, either_sign=either).bounds(
                predicted[:1], np.zeros(1), level=level
            )
            for either in (False, True)
        )
        assert wide[1] == pytest.approx(max(plain[1], 1 / plain[0]))
        assert wide[0] == pytest.approx(1 / wide[1])

    @pytest.mark.parametrize("n", [10, 11, 40])
    def test_a_drift_widens_and_makes_no_network_of_its_own(self, n):
        predicted, rng = np.ones(n), np.random.default_rng(n)
        measured = np.exp(rng.normal(0, 0.05, n))
        plain = Calibration.of(predicted, np.zeros(n), measured)
        drifted = Calibration.of(predicted, np.zeros(n), measured, drift=0.02)
        assert len(drifted.errors) == n
        (low, high), (plain_low, plain_high) = (
            of.bounds(predicted[:1], np.zeros(1), level=0.9) for of in (drifted, plain)
        )
        assert low < plain_low and high > plain_high

    def test_predictions_of_nothing_have_an_interval(self, networks):
        low, high = Calibration.of(*networks).bounds(np.zeros(1), np.ones(1), level=0.9)
        assert low.tolist() == high.tolist() == [0.0]

    def test_plain_data_gives_the_same_intervals_back(self, networks):
        calibration = Calibration.of(*networks)
        again = Calibration.from_arrays(calibration.to_arrays())
        for one, other in zip(
            calibration.bounds(*networks[:2], level=0.9),
            again.bounds(*networks[:2], level=0.9),
            strict=True,
        ):
            np.testing.assert_array_equal(one, other)

    def test_damaged_data_is_refused(self, networks):
        arrays = Calibration.of(*networks).to_arrays()
        for damage in (
            {"errors": arrays["errors"][:0]},
            {"errors": arrays["errors"][::-1]},
            {"errors": arrays["errors"] * np.nan},
            {"position": arrays["position"][::-1]},
            {"position": arrays["position"][1:]},
            {"scale": arrays["scale"] * 0},
            {"scale": arrays["scale"] * np.nan},
        ):
            with pytest.raises(ValueError, match="do not describe intervals"):
                Calibration.from_arrays(arrays | damage)
        with pytest.raises(KeyError):
            Calibration.from_arrays({"scale": arrays["scale"]})
