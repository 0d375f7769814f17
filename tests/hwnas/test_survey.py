"""Surveys on a profiler that measures nothing: its latencies are made up."""

from types import SimpleNamespace

import numpy as np
import pytest

from hwnas import campaign, survey
from hwnas.campaign import MAX_TRIES
from hwnas.campaign_report import CampaignReport
from hwnas.errors import ConfigError
from hwnas.survey import is_surveyed, profile_survey, survey_models
from profilers.errors import ModelError
from profilers.kernels import Kernel, Tensor
from profilers.measurement import KernelLatency, NetworkMeasurement
from profilers.profiler import Profiler
from profilers.store import MeasurementStore
from profilers.targets import make_target
from profilers.timing import LatencySamples

RELU = Kernel("Relu", (), (Tensor("float", (1, 8)),), (Tensor("float", (1, 8)),))


class MadeUp(Profiler):
    """1 ms each; remembers what it was asked for, may fail and take time."""

    def __init__(self, target, *, fails=lambda name: False, clock=None):
        super().__init__(target)
        self.asked, self.fails, self.clock = [], fails, clock

    def profile(self, model, *, seconds=2.0, tags=None):
        self.asked.append((model.name, seconds, model.batch))
        if self.clock is not None:
            self.clock.now += 5.0
        if self.fails(model.name):
            raise ModelError(f"{model.name} ended the process")
        ones, zeros = np.ones(16), np.zeros(16, np.int64)
        return NetworkMeasurement(
            model.name,
            model.digest,
            self.target,
            LatencySamples(ones, ones, zeros, zeros, zeros, ones),
            (KernelLatency("relu", RELU, 1.0, 9),),
            None,
            tags=dict(tags or {}),
        )

    @property
    def names(self):
        return [name for name, _, _ in self.asked]


@pytest.fixture
def store():
    with MeasurementStore(":memory:") as store:
        yield store


@pytest.fixture
def target():
    return make_target()


def test_an_amount_must_be_given(store, target):
    for amount in ({}, {"n_networks": 0}, {"minutes": 0.0}):
        with pytest.raises(ConfigError, match="number of networks|at least 1 network"):
            profile_survey(target, store, profiler=MadeUp(target), **amount)


def test_what_is_stored_is_not_measured_again_and_more_networks_follow(store, target):
    first, report = MadeUp(target), CampaignReport()
    found = profile_survey(target, store, n_networks=3, seconds=0.3, profiler=first, report=report)
    assert len({m.digest for m in found}) == len(found) == report.n_measured == 3
    assert all(is_surveyed(m) and m.tags == {"family": "survey"} for m in found)
    assert {seconds for _, seconds, _ in first.asked} == {0.3}
    again, report = MadeUp(target), CampaignReport()
    more = profile_survey(target, store, n_networks=5, profiler=again, report=report)
    assert (report.n_known, report.n_measured) == (3, 2)
    assert [m.digest for m in more][:3] == [m.digest for m in found]
    assert not set(again.names) & set(first.names)


def test_seeds_share_no_network():
    digests = [{m.digest for m in survey_models(seed, 4)} for seed in (0, 1)]
    assert [len(found) for found in digests] == [4, 4]
    assert not digests[0] & digests[1]


def test_a_target_of_a_batch_is_given_networks_of_that_batch(store):
    target = make_target(batch=2)
    profiler = MadeUp(target)
    profile_survey(target, store, n_networks=2, profiler=profiler)
    assert [batch for _, _, batch in profiler.asked] == [2, 2]


def test_minutes_end_it_before_a_network_that_would_take_longer(store, target, monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    clock.perf_counter = lambda: clock.now
    monkeypatch.setattr(campaign, "time", clock)
    monkeypatch.setattr(survey, "time", clock)
    profiler = MadeUp(target, clock=clock)
    # 5 s each: four are done at 20 s, a fifth would end behind 24 s.
    profile_survey(target, store, minutes=0.4, profiler=profiler)
    assert len(profiler.asked) == 4
    profile_survey(target, store, minutes=9, n_networks=6, profiler=profiler)
    assert len(set(profiler.names)) == len(profiler.asked) == 6
    profile_survey(target, store, minutes=1e-9, seed=1, profiler=profiler)
    assert len(profiler.asked) == 6 + 2  # two whatever the time says


def test_a_network_that_a_runtime_refuses_is_one_failure_and_tried_once_more(store, target):
    for call in range(1, 4):
        profiler = MadeUp(target, fails=lambda name: name == "survey-1")
        report = CampaignReport()
        found = profile_survey(target, store, n_networks=3, profiler=profiler, report=report)
        assert [m.name for m in found] == ["survey-0", "survey-2"]
        assert report.n_failed == 1
        assert profiler.names.count("survey-1") == (1 if call <= MAX_TRIES else 0)
    assert list(store.failures(target).values()) == ["survey-1 ended the process"]


def test_a_target_on_which_everything_fails_ends_soon(store, target):
    profiler = MadeUp(target, fails=lambda name: True)
    with pytest.raises(ModelError, match="5 networks in a row .* ended the process"):
        profile_survey(target, store, n_networks=20, profiler=profiler)
    assert len(profiler.asked) == 5


def test_an_interrupt_keeps_what_was_done(store, target):
    class Interrupted(MadeUp):
        def profile(self, model, **options):
            if len(self.asked) == 2:
                raise KeyboardInterrupt
            return super().profile(model, **options)

    with pytest.raises(KeyboardInterrupt):
        profile_survey(target, store, n_networks=5, profiler=Interrupted(target))
    assert len(store.networks()) == 2
