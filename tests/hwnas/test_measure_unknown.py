from collections import Counter

import pytest

from hwnas.families import sample_network
from hwnas.measure_unknown import MIN_VALUE, measure_unknown, worth_measuring
from predictors.errors import NotFittedError, WrongTargetError
from predictors.network_latency import NetworkLatencyPredictor
from profilers.profiler import Profiler
from profilers.store import MeasurementStore
from profilers.targets import make_target

TARGET = make_target()


@pytest.fixture(scope="module")
def kernels():
    """Of a network with kinds of kernels that the tiny space does not have."""
    return [node.kernel for node in Profiler(TARGET).kernels(sample_network("temporal", 6))]


def unknown_of(predictor, kernels):
    _, is_known = predictor.kernels_.predict(kernels)
    return {kernel for kernel, known in zip(kernels, is_known, strict=True) if not known}


def test_what_was_not_known_is_known_afterwards_and_the_predictor_is_not_changed(
    tiny_predictor, kernels, made_up_profiler
):
    before = tiny_predictor.predict([kernels])
    informed = measure_unknown(kernels, tiny_predictor, made_up_profiler(TARGET), seconds=60)
    assert unknown_of(tiny_predictor, kernels)
    assert len(unknown_of(informed, kernels)) < len(unknown_of(tiny_predictor, kernels))
    assert informed.predict([kernels]).known_share[0] > before.known_share[0]
    assert tiny_predictor.predict([kernels]).latency_ms[0] == before.latency_ms[0]


def test_the_unknown_come_first_and_among_them_the_most_valuable(tiny_predictor, kernels):
    order = worth_measuring(kernels, tiny_predictor.kernels_)
    unknown = unknown_of(tiny_predictor, kernels)
    n_unknown = sum(kernel in unknown for kernel in order)
    assert set(order[:n_unknown]) == unknown
    ms, error = tiny_predictor.kernels_.estimate(order)
    counts = Counter(kernels)
    worth = [m * e * counts[k] for m, e, k in zip(ms, error, order, strict=True)]
    assert worth[:n_unknown] == sorted(worth[:n_unknown], reverse=True)
    total_ms = tiny_predictor.kernels_.estimate(kernels)[0].sum()
    assert all(value >= MIN_VALUE * total_ms for value in worth[n_unknown:])


def test_what_is_stored_is_not_measured_again(tiny_predictor, kernels, made_up_profiler, tmp_path):
    with MeasurementStore(tmp_path / "m.db") as store:
        first, second = (
            measure_unknown(
                kernels, tiny_predictor, made_up_profiler(TARGET), seconds=60, store=store
            )
            for _ in range(2)
        )
        n_measured = len(made_up_profiler.measured)
        measure_unknown(kernels, tiny_predictor, made_up_profiler(TARGET), seconds=60, store=store)
        assert store.isolated(TARGET)
    assert len(made_up_profiler.measured) == n_measured > 0
    assert first.predict([kernels]).latency_ms[0] == second.predict([kernels]).latency_ms[0]


def test_time_that_is_over_ends_it_after_the_first_few(tiny_predictor, kernels, made_up_profiler):
    measure_unknown(kernels, tiny_predictor, made_up_profiler(TARGET), seconds=1e-9)
    assert len(made_up_profiler.measured) <= 1


def test_a_target_that_runs_no_kernel_alone_gets_the_same_predictor(
    tiny_predictor, kernels, made_up_profiler, monkeypatch
):
    monkeypatch.setattr("hwnas.measure_unknown.can_isolate", lambda target: False)
    profiler = made_up_profiler(TARGET)
    assert measure_unknown(kernels, tiny_predictor, profiler, seconds=60) is tiny_predictor
    assert not made_up_profiler.measured


def test_nothing_to_measure_gives_the_same_predictor(tiny_predictor, made_up_profiler):
    profiler = made_up_profiler(TARGET)
    assert measure_unknown([], tiny_predictor, profiler, seconds=60) is tiny_predictor


def test_a_predictor_that_cannot_speak_of_the_target_is_refused(
    tiny_predictor, kernels, made_up_profiler
):
    other = made_up_profiler(make_target(threads=2))
    with pytest.raises(WrongTargetError):
        measure_unknown(kernels, tiny_predictor, other, seconds=1)
    with pytest.raises(NotFittedError):
        measure_unknown(kernels, NetworkLatencyPredictor(), made_up_profiler(TARGET), seconds=1)
