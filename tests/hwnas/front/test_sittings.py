from types import SimpleNamespace

import numpy as np
import pytest

from hwnas.front.sittings import (
    LATER_SHARE,
    MAX_SITTINGS,
    N_SITTINGS,
    SeveralSittings,
    time_in_sittings,
)
from hwnas.progress import Silent
from profilers.errors import ModelError
from profilers.timing import LatencySamples


def samples(ms, *, spread=0.0, n=40, slowdown=1.0):
    """Ten chunks; by `slowdown`, the machine was slow in all of them."""
    wall_ms = ms * np.linspace(1 - spread, 1 + spread, n)
    zeros = np.zeros(n, np.int64)
    return LatencySamples(
        wall_ms, wall_ms, zeros, zeros, np.arange(n) % 10, np.full(n, slowdown)
    )  # fmt: skip


def test_the_interval_spans_all_sittings_and_what_later_ones_may_differ_by():
    found = SeveralSittings.of([samples(1.0), samples(1.04), samples(1.01)])
    assert found.low_ms == pytest.approx(1.0 * (1 - LATER_SHARE))
    assert found.high_ms == pytest.approx(1.04 * (1 + LATER_SHARE))
    assert found.low_ms < found.samples.latency_ms < found.high_ms
    assert len(found.samples.wall_ms) == 120 and len(set(found.samples.chunk)) == 30


def test_the_ends_are_those_of_the_sittings_intervals():
    one = samples(2.0, spread=0.02)
    found = SeveralSittings.of([one])
    low, high = one.interval_ms
    assert low < 2.0 < high
    assert found.low_ms == pytest.approx(low * (1 - LATER_SHARE))
    assert found.high_ms == pytest.approx(high * (1 + LATER_SHARE))


def test_disturbed_sittings_count_only_where_there_are_no_others():
    disturbed = samples(3.0, slowdown=2.0)
    assert disturbed.warning is not None
    found = SeveralSittings.of([disturbed, samples(1.0)])
    assert found.samples.latency_ms == 1.0
    assert SeveralSittings.of([disturbed]).samples.latency_ms == 3.0


def test_too_few_samples_have_an_interval_that_can_be_compared():
    found = SeveralSittings.of([samples(1.0, n=3)])
    assert found.low_ms < 1.0 < found.high_ms < 1.2


class Sitting:
    """Stands in for a profiler in a process of its own; notes who was started with what."""

    started: list["Sitting"]
    answer = staticmethod(lambda model, number: samples(model.ms))

    def __init__(self, *, references_ms):
        self.references_ms, self.models = references_ms, None
        self.started.append(self)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def latency(self, models, *, seconds, on_round):
        self.models = [model.name for model in models]
        on_round(1, 2)
        return [self.answer(model, len(self.started) - 1) for model in models]


@pytest.fixture
def sit(monkeypatch):
    monkeypatch.setattr(Sitting, "started", [], raising=False)
    models = [SimpleNamespace(name="a", ms=1.0), SimpleNamespace(name="b", ms=2.0)]

    def call():
        return time_in_sittings(models, Sitting, seconds=1, references_ms=[0.1], progress=Silent())

    return call


def test_every_sitting_is_another_process_with_all_models_in_turns(sit):
    found = sit()
    assert [s.models for s in Sitting.started] == [["a", "b"]] * N_SITTINGS
    assert all(s.references_ms == [0.1] for s in Sitting.started)
    assert [sat.samples.latency_ms for sat in found] == [1.0, 2.0]


def test_a_model_that_the_machine_disturbed_gets_another_sitting(sit, monkeypatch):
    monkeypatch.setattr(Sitting, "answer", lambda self, model, number: samples(
        model.ms, slowdown=2.0 if (model.name, number) == ("b", 0) else 1.0
    ))  # fmt: skip
    sit()
    assert [s.models for s in Sitting.started] == [["a", "b"]] * N_SITTINGS + [["b"]]


@pytest.mark.parametrize("most", [1, 2])
def test_what_cannot_be_run_together_is_run_by_halves(sit, monkeypatch, most):
    def latency(self, models, *, seconds, on_round):
        self.tried.append([model.name for model in models])
        if len(models) > most or any(model.name == "b" for model in models):
            raise ModelError("out of memory")
        return [self.answer(model, 0) for model in models]

    monkeypatch.setattr(Sitting, "latency", latency)
    monkeypatch.setattr(Sitting, "tried", [], raising=False)
    a, b = sit()
    assert a.samples.latency_ms == 1.0
    assert isinstance(b, ModelError) and str(b) == "out of memory"
    assert Sitting.tried == [["a", "b"], ["a"], ["b"], ["a"], ["a"]]  # not tried again


def test_a_machine_that_stays_slow_ends_the_sittings(sit, monkeypatch):
    answer = lambda self, model, number: samples(model.ms, slowdown=2.0)  # noqa: E731
    monkeypatch.setattr(Sitting, "answer", answer)
    found = sit()
    assert len(Sitting.started) == MAX_SITTINGS
    assert [sat.samples.latency_ms for sat in found] == [1.0, 2.0]
