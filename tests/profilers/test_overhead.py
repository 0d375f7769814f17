import numpy as np
import pytest

from profilers.overhead import CALIBRATION_TAG, N_CALIBRATION, calibrate, fit_overhead
from profilers.store import MeasurementStore


class FakeProfiler:
    """Says of every model that it takes 1 ms, and remembers which it was asked about."""

    def __init__(self, target, make_measurement):
        self.target = target
        self.asked = []
        self._make = make_measurement

    def profile(self, model, *, seconds, tags):
        self.asked.append(model.name)
        return self._make(model.name, digest=model.digest, target=self.target, tags=tags)


@pytest.mark.parametrize(("a", "b"), [(0.02, 0.004), (0.01, -0.0005), (0.0, 0.0)])
def test_the_overhead_is_recovered_exactly(make_measurement, a, b):
    rng = np.random.default_rng(0)
    measurements = []
    for i, n in enumerate((3, 8, 20, 60)):
        kernel_ms = rng.uniform(0.01, 0.1, n)
        measurements.append(make_measurement(str(i), kernel_ms.sum() + a + b * n, kernel_ms))
    overhead = fit_overhead(measurements)
    assert overhead.per_run_ms == pytest.approx(a, abs=1e-12)
    assert overhead.per_kernel_ms == pytest.approx(b, abs=1e-12)
    assert overhead.n_networks == 4
    for measurement in measurements:
        assert overhead.explain_ms(measurement) == pytest.approx(measurement.latency_ms)


def test_errors_are_relative_so_that_a_large_network_does_not_drown_the_small(make_measurement):
    small = [make_measurement(str(n), 0.1 * n + 0.01, [0.1] * n) for n in (1, 2, 3, 4)]
    large = make_measurement("large", 1.05 * 1000, [10.0] * 100)
    overhead = fit_overhead([*small, large])
    for measurement in small:
        assert overhead.explain_ms(measurement) == pytest.approx(measurement.latency_ms, rel=0.06)


def test_two_networks_are_too_few(make_measurement):
    with pytest.raises(ValueError, match="three networks or more are needed, got 2"):
        fit_overhead([make_measurement("a"), make_measurement("b")])


def test_calibration_measures_each_network_once_and_keeps_it(
    tmp_path, target, device, make_measurement
):
    store = MeasurementStore(tmp_path / "m.db")
    store.add(make_measurement("something else"), device)
    progress = []
    first = FakeProfiler(target, make_measurement)
    found = calibrate(
        first, store, device, on_progress=lambda done, of: progress.append((done, of))
    )
    assert len(found) == len(set(first.asked)) == N_CALIBRATION
    assert progress == [(i, N_CALIBRATION) for i in range(1, N_CALIBRATION + 1)]
    assert all(CALIBRATION_TAG in measurement.tags for measurement in found)

    second = FakeProfiler(target, make_measurement)
    assert {m.name for m in calibrate(second, store, device)} == set(first.asked)
    assert second.asked == []
    assert len(store.networks()) == 1 + N_CALIBRATION


def test_an_interrupted_calibration_goes_on_where_it_was(
    tmp_path, target, device, make_measurement
):
    store = MeasurementStore(tmp_path / "m.db")
    whole = FakeProfiler(target, make_measurement)
    calibrate(whole, MeasurementStore(":memory:"), device)
    for name in whole.asked[:4]:
        store.add(make_measurement(name, target=target, tags={CALIBRATION_TAG: "1"}), device)
    rest = FakeProfiler(target, make_measurement)
    assert len(calibrate(rest, store, device)) == N_CALIBRATION
    assert rest.asked == whole.asked[4:]
