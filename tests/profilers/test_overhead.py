import numpy as np
import pytest

from profilers.errors import ModelError
from profilers.measurement import CALIBRATION_TAG
from profilers.overhead import N_CALIBRATION, calibrate, fit_overhead
from profilers.store import MeasurementStore


class FakeProfiler:
    """Says of every model that it takes 1 ms, and remembers which it was asked about."""

    def __init__(self, target, make_measurement, *, fails=lambda name: False, **changes):
        self.target = target
        self.asked = []
        self._make, self._fails, self._changes = make_measurement, fails, changes

    def profile(self, model, *, seconds, tags):
        self.asked.append(model.name)
        if self._fails(model.name):
            raise ModelError(f"{model.name} ended the process")
        return self._make(
            model.name, digest=model.digest, target=self.target, tags=tags, **self._changes
        )


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


def test_a_network_that_fails_does_not_end_the_calibration(
    tmp_path, target, device, make_measurement
):
    store = MeasurementStore(tmp_path / "m.db")
    some = FakeProfiler(target, make_measurement, fails=lambda name: "x32" in name)
    progress = []
    found = calibrate(some, store, device, on_progress=lambda done, of: progress.append(done))
    assert len(some.asked) == progress[-1] == N_CALIBRATION
    assert {m.name for m in found} == {name for name in some.asked if "x32" not in name}


def test_too_few_networks_are_an_error_with_the_last_reason(
    tmp_path, target, device, make_measurement
):
    store = MeasurementStore(tmp_path / "m.db")
    asked = []

    def fails(name):
        asked.append(name)
        return len(asked) > 2

    profiler = FakeProfiler(target, make_measurement, fails=fails)
    with pytest.raises(ModelError, match=r"could measure 2 of the 10 .* ended the process"):
        calibrate(profiler, store, device)


def test_a_busy_machine_measures_each_network_twice_and_no_more(
    tmp_path, target, device, make_measurement, make_samples
):
    store = MeasurementStore(tmp_path / "m.db")
    wide, narrow = (
        make_samples(np.linspace(1, top, 40), chunk=np.arange(40) // 4) for top in (3.0, 1.8)
    )
    assert wide.warning is not None and narrow.warning is not None
    assert narrow.relative_error < wide.relative_error
    for samples, n_asked in ((narrow, N_CALIBRATION), (wide, N_CALIBRATION), (wide, 0)):
        profiler = FakeProfiler(target, make_measurement, samples=samples)
        found = calibrate(profiler, store, device)
        assert len(profiler.asked) == n_asked
        assert len(found) == N_CALIBRATION
        assert {m.samples.wall_ms.max() for m in found} == {1.8}
    assert len(store.networks()) == 2 * N_CALIBRATION


def test_a_second_try_that_is_not_flagged_is_the_one_that_counts(
    tmp_path, target, device, make_measurement, make_samples
):
    store = MeasurementStore(tmp_path / "m.db")
    flagged = make_samples([1.0] * 40, slowdown=[9.0] * 40)
    calibrate(FakeProfiler(target, make_measurement, samples=flagged), store, device)
    found = calibrate(FakeProfiler(target, make_measurement), store, device)
    assert len(found) == N_CALIBRATION
    assert all(m.samples.warning is None for m in found)
