"""Campaigns on a profiler that takes the runtime's true kernels and makes up their times."""

import signal
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest

from hwnas import campaign, profiling
from hwnas import missing_kernels as stage
from hwnas.blocks import ClassifierHead, ConvBlock
from hwnas.campaign import MAX_TRIES
from hwnas.campaign_report import KERNELS, NETWORKS, CampaignReport
from hwnas.cost import CostTable
from hwnas.errors import ConfigError
from hwnas.missing_kernels import missing_kernels, with_comparisons
from hwnas.profiling import profile_space
from hwnas.spaces.base import Choice, SearchSpace
from predictors.kernel_latency import KernelLatencyPredictor
from profilers.devices import this_device
from profilers.errors import ModelError
from profilers.kernels import Kernel, Tensor, macs
from profilers.measurement import KernelLatency, NetworkMeasurement
from profilers.profiler import Profiler
from profilers.store import MeasurementStore
from profilers.targets import make_target
from profilers.timing import LatencySamples


class MadeUp(Profiler):
    """1 µs a kernel and 0.1 ns a MAC; remembers what it was asked for, may fail and take time."""

    def __init__(self, target, *, fails=lambda name: False, clock=None, seconds_each=5.0):
        super().__init__(target)
        self.names, self.fails, self.clock = [], fails, clock
        self.seconds_each = seconds_each

    def profile(self, model, *, seconds=2.0, tags=None):
        self.names.append(model.name)
        if self.clock is not None:
            self.clock.now += self.seconds_each
        if self.fails(model.name):
            raise ModelError(f"{model.name} ended the process")
        runs = tuple(
            KernelLatency(n.name, n.kernel, 1e-3 + 1e-7 * macs(n.kernel), 9)
            for n in self.kernels(model)
        )
        wall_ms = np.full(16, sum(run.latency_ms for run in runs))
        zeros = np.zeros(16, np.int64)
        samples = LatencySamples(wall_ms, wall_ms, zeros, zeros, zeros, np.ones(16))
        return NetworkMeasurement(
            model.name, model.digest, self.target, samples, runs, None, tags=dict(tags or {})
        )

    @property
    def networks(self):
        return [name for name in self.names if not name.startswith("isolated")]


@pytest.fixture(scope="module")
def space(make_tiny_space):
    return make_tiny_space((1, 8, 8), 10)


@pytest.fixture(scope="module")
def asked(space, tmp_path_factory):
    """A database that knows the kernels of the space already."""
    path = tmp_path_factory.mktemp("asked") / "m.db"
    with MeasurementStore(path) as store:
        CostTable(space, Profiler(make_target()), store).warm(np.random.default_rng(0))
    return path


@pytest.fixture
def path(asked, tmp_path):
    copy = tmp_path / "m.db"
    copy.write_bytes(asked.read_bytes())
    return copy


@pytest.fixture
def store(path):
    with MeasurementStore(path) as store:
        yield store


@pytest.fixture
def profiler():
    return MadeUp(make_target())


def digests(measurements):
    return [m.digest for m in measurements]


def test_an_amount_must_be_given(space, store, profiler):
    for amount in ({}, {"n_networks": 0}, {"minutes": 0.0}):
        with pytest.raises(ConfigError, match="number of networks|at least 1 network"):
            profile_space(space, profiler.target, store, profiler=profiler, **amount)


def test_minutes_end_networks_after_four_fifths_and_kernels_after_all(space, store, monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    clock.perf_counter = lambda: clock.now
    monkeypatch.setattr(campaign, "time", clock)
    monkeypatch.setattr(profiling, "time", clock)
    monkeypatch.setattr(stage, "time", clock)
    monkeypatch.setattr(stage, "KERNELS_PER_MODEL", 1)
    profiler = MadeUp(make_target(), clock=clock)
    profile_space(space, profiler.target, store, minutes=0.5, profiler=profiler)
    # 5 s each: a fifth network would end at 25 s, behind 24 s; two kernels are done at 30 s.
    assert len(profiler.networks) == 4
    assert len(profiler.names) == 6
    assert len(store.isolated(profiler.target)) == 2
    # The same call goes on with other networks; at most as many as are asked for.
    profile_space(space, profiler.target, store, minutes=5, n_networks=6, profiler=profiler)
    assert len(set(profiler.networks)) == len(profiler.networks) == 6


def test_the_corners_are_measured_whatever_the_time_says(space, store):
    report = CampaignReport()
    profiler = MadeUp(make_target())
    profile_space(space, profiler.target, store, minutes=1e-9, profiler=profiler, report=report)
    assert report.n_measured == 2
    assert report.n_isolated == 0


def test_kernels_that_no_network_showed_follow_once(space, store, profiler):
    report = CampaignReport()
    found = profile_space(
        space, profiler.target, store, n_networks=2, profiler=profiler, report=report
    )
    shown = {run.kernel for m in found for run in m.kernels}
    isolated = store.isolated(profiler.target)
    assert len(isolated.keys() - shown) == 1  # half as many as networks
    assert report.n_isolated == len(isolated)
    assert report.n_measured == len(found) == 2
    assert report.seconds[NETWORKS] > 0 < report.seconds[KERNELS]
    n_before = len(profiler.names)
    again = profile_space(space, profiler.target, store, n_networks=2, profiler=profiler)
    assert digests(again) == digests(found)
    assert len(profiler.names) == n_before


def test_a_network_that_fails_is_tried_once_more_and_the_others_go_on(space, store):
    target = make_target()
    bad = []
    for calls in range(1, 4):
        profiler, report = MadeUp(target), CampaignReport()
        profiler.fails = lambda name, p=profiler, bad=bad: name in (bad or p.networks[1:2])
        found = profile_space(space, target, store, n_networks=3, profiler=profiler, report=report)
        bad = bad or profiler.networks[1:2]
        assert len(found) == 2
        assert report.n_failed == 1
        assert profiler.networks.count(bad[0]) == (1 if calls <= MAX_TRIES else 0)
    (reason,) = (r for r in store.failures(target).values() if bad[0] in r)
    assert reason == f"{bad[0]} ended the process"


def test_a_target_on_which_everything_fails_ends_soon(space, store):
    profiler = MadeUp(make_target(), fails=lambda name: True)
    with pytest.raises(ModelError, match="5 networks in a row .* ended the process"):
        profile_space(space, profiler.target, store, n_networks=20, profiler=profiler)
    assert len(profiler.names) == 5
    with pytest.raises(ModelError, match="all 2 networks of tiny failed"):
        profile_space(space, profiler.target, store, n_networks=2, profiler=profiler)


def test_a_kernel_that_cannot_run_alone_is_counted_and_not_tried_again(space, store):
    fails = MadeUp(make_target(), fails=lambda name: name.startswith("isolated"))
    report = CampaignReport()
    profile_space(space, fails.target, store, n_networks=2, profiler=fails, report=report)
    assert report.n_isolated == 0
    assert report.n_not_isolated > 0
    refused = [key for key in store.failures(fails.target) if key.startswith("{")]
    assert len(refused) == report.n_not_isolated
    # Those of them that networks have shown are not measured to be compared either.
    profile_space(space, fails.target, store, n_networks=4, profiler=fails)
    refused = [key for key in store.failures(fails.target) if key.startswith("{")]
    n_tries = {key: store.n_failures(fails.target, key) for key in refused}
    assert set(n_tries.values()) == {1}


def test_an_interrupted_campaign_has_a_prefix_of_the_whole_one(space):
    names = []
    for n in (4, 9):
        profiler = MadeUp(make_target())
        with MeasurementStore(":memory:") as store:
            profile_space(space, profiler.target, store, n_networks=n, profiler=profiler)
        names.append(profiler.networks)
    assert names[1][:4] == names[0]


def test_each_network_may_take_the_time_that_is_asked_for(space, store):
    class Noted(MadeUp):
        def profile(self, model, *, seconds=2.0, tags=None):
            asked.append((model.name, seconds))
            return super().profile(model, seconds=seconds, tags=tags)

    asked = []
    profiler = Noted(make_target())
    profile_space(space, profiler.target, store, n_networks=2, seconds=0.3, profiler=profiler)
    assert [s for name, s in asked if not name.startswith("isolated")] == [0.3, 0.3]


def test_what_another_process_has_just_measured_is_skipped(space, store, path, monkeypatch):
    target = make_target()
    untrained_model = profiling.untrained_model
    other = MadeUp(target)
    with MeasurementStore(path) as others_store:

        def meanwhile(architecture, **options):
            model = untrained_model(architecture, **options)
            others_store.add(other.profile(model), this_device())
            return model

        monkeypatch.setattr(profiling, "untrained_model", meanwhile)
        profiler, report = MadeUp(target), CampaignReport()
        found = profile_space(space, target, store, n_networks=3, profiler=profiler, report=report)
    assert profiler.networks == []
    assert report.n_known == len(found) == 3


def test_an_interrupt_keeps_what_was_done_and_the_report_tells_it(space, store):
    class Interrupted(MadeUp):
        def profile(self, model, **options):
            if len(self.names) == 2:
                raise KeyboardInterrupt
            return super().profile(model, **options)

    profiler, report = Interrupted(make_target()), CampaignReport()
    with pytest.raises(KeyboardInterrupt):
        profile_space(space, profiler.target, store, n_networks=5, profiler=profiler, report=report)
    assert report.n_measured == len(store.networks()) == 2
    assert report.describe().startswith("2 networks measured")


def tensor(n):
    return Tensor("float", (1, n))


def relu(n, kind="Relu"):
    return Kernel(kind, (), (tensor(n),), (tensor(n),))


@pytest.fixture(scope="module")
def relus():
    """A predictor that knows Relu of 10 to 1000 values: 1 µs and 1 ns a value."""
    known = [relu(n) for n in range(10, 1001, 30)]
    rng = np.random.default_rng(0)
    zeros = np.zeros(16, np.int64)
    networks = []
    for i in range(20):
        runs = tuple(
            KernelLatency("relu", known[at], 1e-3 + 1e-6 * known[at].inputs[0].n_elements, 9)
            for at in rng.choice(len(known), rng.integers(5, 25))
        )
        wall_ms = np.full(16, sum(run.latency_ms for run in runs))
        samples = LatencySamples(wall_ms, wall_ms, zeros, zeros, zeros, np.ones(16))
        networks.append(NetworkMeasurement(f"{i}", f"{i}", make_target(), samples, runs, None))
    return KernelLatencyPredictor.learn(networks)[0], known


def test_a_kernel_is_worth_its_share_of_latency_times_its_expected_error(relus):
    predictor, known = relus
    inside, often, outside = relu(500), relu(508), relu(100_000)
    stranger = relu(502, "Stranger")
    networks = [[known[0], inside, often, often, often], [outside, stranger, known[1]]]
    found = missing_kernels(networks, predictor, set(known))
    value = {item.kernel: item.value for item in found}
    assert value.keys() == {inside, often, outside, stranger}
    assert [item.value for item in found] == sorted(value.values(), reverse=True)
    assert value[often] == pytest.approx(3 * value[inside], rel=0.05)
    assert value[stranger] > value[inside]
    every = [kernel for kernels in networks for kernel in kernels]
    ms, error = predictor.estimate(every)
    for kernel, n in ((inside, 1), (often, 3), (outside, 1), (stranger, 1)):
        at = every.index(kernel)
        assert value[kernel] == pytest.approx(n * ms[at] / ms.sum() * error[at])


def test_a_few_known_kernels_of_each_kind_are_measured_both_ways_first(relus):
    predictor, known = relus
    missing = missing_kernels([[relu(7), relu(8), relu(9, "Stranger")]], predictor, set(known))
    order = list(with_comparisons(missing, set(known), set()))
    assert order[0].kind == "Stranger"  # nothing to compare it with
    compared = order[1:7]
    sizes = [known.index(kernel) for kernel in compared]
    assert (sizes[0], sizes[-1]) == (0, len(known) - 1)  # from the smallest to the largest
    assert np.ptp(np.diff(sizes)) <= 1
    assert set(order[7:]) == {relu(7), relu(8)}
    again = list(with_comparisons(missing, set(known), set(compared[:5])))
    assert len(again) == 1 + 1 + 2
    assert again[1] in set(known) - set(compared[:5])


def two_blocks():
    """Twelve networks, which a script can make too."""
    return SearchSpace(
        name="two blocks",
        choices=(
            Choice("stem", (8, 16)),
            Choice("kernel_size", (3, 5)),
            Choice("features", (16, 32, 48)),
        ),
        input_shape=lambda options: (1, 8, 8),
        slots=(
            lambda options: ConvBlock(options["stem"], options["kernel_size"], 1, "relu"),
            lambda options: ClassifierHead(options["features"], 10, "relu"),
        ),
    )


KILLED = """
    import importlib.util, os, sys
    sys.path[:0] = {sys_path!r}
    from pathlib import Path
    spec = importlib.util.spec_from_file_location("campaign", {here!r})
    campaign = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(campaign)

    class Killed(campaign.MadeUp):
        def profile(self, model, **options):
            if len(self.names) == 3:
                os.kill(os.getpid(), 9)
            return super().profile(model, **options)

    profiler = Killed(campaign.make_target())
    store = campaign.MeasurementStore(Path({path!r}))
    campaign.profile_space(
        campaign.two_blocks(), profiler.target, store, n_networks=6, profiler=profiler
    )
"""


def test_a_campaign_that_is_killed_goes_on_where_it_was(tmp_path):
    path = tmp_path / "m.db"
    script = textwrap.dedent(KILLED.format(sys_path=sys.path, here=__file__, path=str(path)))
    killed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    profiler, report = MadeUp(make_target()), CampaignReport()
    with MeasurementStore(path) as store:
        before = store.networks()
        after = profile_space(
            two_blocks(), profiler.target, store, n_networks=6, profiler=profiler, report=report
        )
    assert len(before) == 3
    assert digests(after)[:3] == digests(before)
    assert len(set(digests(after))) == len(after) == 6
    assert not set(profiler.networks) & {m.name for m in before}
    assert (report.n_known, report.n_measured) == (3, 3)
