from dataclasses import replace

import pytest

from hwnas.families import sample_network
from hwnas.measure_unknown import MIN_VALUE, measure_unknown, with_stored, worth_measuring
from hwnas.survey import is_surveyed
from predictors.errors import NotFittedError, WrongTargetError
from predictors.network_latency import NetworkLatencyPredictor
from profilers.errors import ModelError
from profilers.profiler import Profiler
from profilers.store import MeasurementStore
from profilers.targets import make_target

TARGET = make_target()


@pytest.fixture(scope="module")
def model():
    """With kinds of kernels that the tiny space does not have."""
    return sample_network("temporal", 6)


@pytest.fixture(scope="module")
def kernels(model):
    return [node.kernel for node in Profiler(TARGET).kernels(model)]


@pytest.fixture
def measure(tiny_predictor, model, kernels, made_up_profiler):
    """Ask with one option or another changed."""

    def call(**options):
        asked = {"predictor": tiny_predictor, "profiler": made_up_profiler(TARGET), "seconds": 60}
        asked |= {"kernels": kernels, **options}
        kernels_, predictor, profiler = (
            asked.pop(name) for name in ("kernels", "predictor", "profiler")
        )
        return measure_unknown(model, kernels_, predictor, profiler, **asked)

    return call


def unknown_of(predictor, kernels):
    _, is_known = predictor.kernels_.predict(kernels)
    return {kernel for kernel, known in zip(kernels, is_known, strict=True) if not known}


def test_what_was_not_known_is_known_afterwards_and_the_predictor_is_not_changed(
    tiny_predictor, kernels, measure
):
    before = tiny_predictor.predict([kernels])
    informed = measure()
    assert unknown_of(tiny_predictor, kernels)
    assert not unknown_of(informed, kernels)
    assert informed.predict([kernels]).known_share[0] > before.known_share[0]
    assert tiny_predictor.predict([kernels]).latency_ms[0] == before.latency_ms[0]


def test_the_unknown_are_worth_measuring_and_others_by_what_they_may_be_off(
    tiny_predictor, kernels
):
    wanted = worth_measuring(kernels, tiny_predictor.kernels_)
    assert unknown_of(tiny_predictor, kernels) <= set(wanted)
    assert len(wanted) == len(set(wanted))
    total_ms = tiny_predictor.kernels_.estimate(kernels)[0].sum()
    for kernel in set(kernels) - set(wanted):
        (ms,), (error,) = tiny_predictor.kernels_.estimate([kernel])
        is_measured = kernel.key in tiny_predictor.kernels_.measured_
        assert is_measured or kernels.count(kernel) * ms * error < MIN_VALUE * total_ms


def test_what_is_stored_is_not_measured_again(
    tiny_predictor, model, kernels, measure, made_up_profiler, tmp_path
):
    with MeasurementStore(tmp_path / "m.db") as store:
        assert with_stored(model.digest, kernels, tiny_predictor, store) is tiny_predictor
        first, second = (measure(store=store) for _ in range(2))
        assert len(made_up_profiler.measured) == 1
        third = with_stored(model.digest, kernels, tiny_predictor, store)
        # A part of a network is none of a survey, which counts what it has.
        assert not any(is_surveyed(measurement) for measurement in store.networks(TARGET))
    answers = {p.predict([kernels]).latency_ms[0] for p in (first, second, third)}
    assert len(answers) == 1
    assert answers != {tiny_predictor.predict([kernels]).latency_ms[0]}


def test_what_cannot_be_trusted_is_measured_again_while_there_is_time(
    measure, made_up_profiler, monkeypatch, tmp_path
):
    trusted = made_up_profiler(TARGET)
    measured_once = trusted.profile

    def disturbed_at_first(model, **options):
        found = measured_once(model, **options)
        if len(made_up_profiler.measured) % 3 == 0:
            return found
        slow = replace(found.samples, slowdown=found.samples.slowdown + 9.0)
        return replace(found, samples=slow)

    monkeypatch.setattr(trusted, "profile", disturbed_at_first)
    with MeasurementStore(tmp_path / "m.db") as store:
        measure(profiler=trusted, seconds=1e-9, store=store)
        assert len(made_up_profiler.measured) == 1
        assert store.networks(TARGET)[-1].samples.warning is not None
        measure(profiler=trusted, store=store)
        assert len(made_up_profiler.measured) == 3
        assert store.networks(TARGET)[-1].samples.warning is None


def test_a_target_that_does_not_show_what_it_runs_gets_the_same_predictor(
    tiny_predictor, measure, made_up_profiler, monkeypatch
):
    profiler = made_up_profiler(TARGET)

    def refuse(model, kernels):
        raise ModelError("it does not show its graph")

    monkeypatch.setattr(profiler, "excerpt", refuse)
    assert measure(profiler=profiler) is tiny_predictor
    assert not made_up_profiler.measured


def test_nothing_to_measure_gives_the_same_predictor(tiny_predictor, measure, made_up_profiler):
    assert measure(kernels=[]) is tiny_predictor
    assert not made_up_profiler.measured


def test_a_predictor_that_cannot_speak_of_the_target_is_refused(measure, made_up_profiler):
    with pytest.raises(WrongTargetError):
        measure(profiler=made_up_profiler(make_target(threads=2)))
    with pytest.raises(NotFittedError):
        measure(predictor=NetworkLatencyPredictor())
