"""The measuring loop, on a runtime whose sessions take the time that the test says."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from onnx import helper

import profilers.profiler as profiler_module
from profilers.energy import EnergyPerRun
from profilers.errors import ModelError, TargetError
from profilers.kernels import Kernel, Tensor
from profilers.measurement import KernelNode
from profilers.onnx_models import make_model
from profilers.profiler import ENOUGH_ROUNDS, MIN_ROUNDS, N_WARMUP, PATIENCE, Profiler
from profilers.runtimes.base import KernelTrace
from profilers.timing import SLOW_REFERENCE, Basis

NETWORK_MS = 10.0  # two samples and one profiled run in a round
KERNEL_US = (20.0, 40.0, 60.0)
COLD_US = 9000.0


def node(name):
    tensor = Tensor("float", (1, 4))
    return KernelNode(name, Kernel("Relu", (), (tensor,), (tensor,)), ("x",), ("y",))


class FakeSession:
    """Counts its runs; the first is at loading, as that of every runtime's session."""

    def __init__(self, runtime, name, feed):
        self.runtime, self.name, self.feed = runtime, name, feed
        self.is_closed = False
        self.durations_us = []
        self.run()

    def run(self):
        assert not self.is_closed
        return self.runtime.run(self)

    def close(self):
        self.is_closed = True

    def trace(self):
        nodes = tuple(node(f"k{i}") for i in range(len(KERNEL_US)))
        return KernelTrace(nodes, np.array(self.durations_us), None, 4096)


class FakeRuntime:
    """The device has a clock of its own; the reference takes 1 ms, times what the test says."""

    def __init__(self, target, *, slowdowns=(1.0,), network_ms=NETWORK_MS, refused=()):
        self.target = target
        self.slowdowns = itertools.chain(slowdowns, itertools.repeat(slowdowns[-1]))
        self.slowdown = 1.0
        self.n_reference_runs = 0
        self.network_ms = network_ms
        self.refused = refused
        self.sessions = []
        self.log = []

    def session(self, model, feed):
        return self._load(model, feed, model.name)

    def profiled_session(self, model, feed):
        return self._load(model, feed, f"profiled {model.name}")

    def _load(self, model, feed, name):
        if name in self.refused:
            raise ModelError(f"the fake cannot load {name}")
        session = FakeSession(self, name, feed)
        self.sessions.append(session)
        return session

    def run(self, session):
        self.log.append(session.name)
        if session.name == "reference":
            # One at loading, one round to warm up, then as many in every round of the loop.
            n = profiler_module.REFERENCE_SAMPLES
            if self.n_reference_runs > n and (self.n_reference_runs - 1) % n == 0:
                self.slowdown = next(self.slowdowns)
            self.n_reference_runs += 1
            return self.slowdown
        n_before = len(session.durations_us)
        is_cold = n_before < 1 + N_WARMUP
        factor = COLD_US if is_cold else self.slowdown
        session.durations_us.append([us * factor for us in KERNEL_US])
        return self.network_ms * self.slowdown


@pytest.fixture
def model(relu_proto):
    return make_model(relu_proto(), name="net")


@pytest.fixture
def make_profiler(target):
    """Of a device with a clock of its own, unless said otherwise."""

    def make(*, on="onnxruntime-cuda", threads=1, **options):
        runtime = FakeRuntime(replace(target, runtime=on, threads=threads), **options)
        return Profiler(runtime.target, runtime=runtime), runtime

    return make


class TestProfile:
    def test_the_devices_clock_gives_the_latency(self, make_profiler, model):
        profiler, _ = make_profiler()
        samples = profiler.profile(model).samples
        assert set(samples.wall_ms) == {NETWORK_MS}
        assert samples.basis is Basis.UNDISTURBED
        assert samples.latency_ms == NETWORK_MS

    def test_kernels_are_those_of_the_trace_without_the_warm_up(self, make_profiler, model):
        profiler, runtime = make_profiler()
        kernels = profiler.profile(model).kernels
        assert [k.name for k in kernels] == ["k0", "k1", "k2"]
        assert [1e3 * k.latency_ms for k in kernels] == pytest.approx(KERNEL_US)
        n_warm = runtime.log.count("profiled net") - 1 - N_WARMUP
        assert {k.n_samples for k in kernels} == {n_warm}

    def test_runs_beside_a_slow_reference_count_neither_for_kernels_nor_for_latency(
        self, make_profiler, model
    ):
        # Every second round at half the speed: those kernels took twice their time.
        profiler, _ = make_profiler(slowdowns=[1.0, 1.0, *[1.0, 2.0] * ENOUGH_ROUNDS])
        measurement = profiler.profile(model)
        slowdowns = measurement.samples.chunk_slowdowns
        assert set(slowdowns) == {1.0, 2.0}
        assert [1e3 * k.latency_ms for k in measurement.kernels] == pytest.approx(KERNEL_US)
        n_steady = int((slowdowns <= SLOW_REFERENCE).sum())
        assert {k.n_samples for k in measurement.kernels} == {n_steady}
        assert n_steady >= ENOUGH_ROUNDS
        samples = measurement.samples
        assert samples.is_contended[samples.slowdown > SLOW_REFERENCE].all()
        assert samples.latency_ms == NETWORK_MS

    def test_what_is_known_of_the_model_is_passed_on(self, make_profiler, model):
        profiler, _ = make_profiler()
        measurement = profiler.profile(model, tags={"family": "toy"})
        assert (measurement.name, measurement.digest) == ("net", model.digest)
        assert measurement.target == profiler.target
        assert measurement.tags == {"family": "toy"}
        assert measurement.peak_memory_bytes == 4096

    def test_both_sessions_get_the_same_inputs_and_are_closed(self, make_profiler, model):
        profiler, runtime = make_profiler()
        profiler.profile(model)
        plain, profiled = (s for s in runtime.sessions if s.name != "reference")
        assert plain.feed["x"].tolist() == profiled.feed["x"].tolist()
        assert plain.is_closed and profiled.is_closed

    def test_samples_and_profiled_runs_take_turns(self, make_profiler, model):
        profiler, runtime = make_profiler()
        profiler.profile(model)
        rounds = [name for name, _ in itertools.groupby(runtime.log)]
        turn = ["reference", "net", "profiled net"]
        assert rounds[-3 * ENOUGH_ROUNDS :] == turn * ENOUGH_ROUNDS

    def test_the_first_run_after_the_profiled_ones_is_not_a_sample(self, make_profiler, model):
        profiler, runtime = make_profiler()
        samples = profiler.profile(model).samples
        n_untimed = 1 + N_WARMUP + len(samples.chunk_slowdowns)
        assert runtime.log.count("net") == len(samples.wall_ms) + n_untimed

    def test_a_model_that_is_refused_leaves_no_session_open(self, make_profiler, model):
        profiler, runtime = make_profiler(refused=["profiled net"])
        with pytest.raises(ModelError, match="cannot load profiled net"):
            profiler.profile(model)
        assert [session.is_closed for session in runtime.sessions] == [True]

    def test_a_trace_that_grows_too_large_ends_before_the_samples_do(
        self, make_profiler, model, monkeypatch
    ):
        monkeypatch.setattr(profiler_module, "MAX_PROFILE_EVENTS", 5)
        profiler, _ = make_profiler(slowdowns=[1.0, 1.0, 2.0, 1.0])
        measurement = profiler.profile(model)  # of one node: five runs are recorded
        assert len(measurement.samples.chunk_slowdowns) > ENOUGH_ROUNDS
        assert {k.n_samples for k in measurement.kernels} == {4}  # one was beside a slow reference

    @pytest.mark.parametrize(("op", "n_events"), [("Relu", 1), ("Loop", 10_000), ("If", 10_000)])
    def test_bodies_of_loops_may_fill_a_profile(self, op, n_events):
        nodes = [helper.make_node(op, ["x"], ["y"])]
        model = SimpleNamespace(proto=helper.make_model(helper.make_graph(nodes, "net", [], [])))
        assert profiler_module._events_of_a_run(model, recorded_ms=30.0) == n_events

    def test_kernels_alone_need_one_run(self, make_profiler, model):
        profiler, runtime = make_profiler()
        assert [n.name for n in profiler.kernels(model)] == ["k0", "k1", "k2"]
        assert runtime.log == ["profiled net"]
        assert runtime.sessions[0].is_closed


class TestWhatDisturbs:
    """Which counters speak depends on who does the work."""

    @pytest.fixture
    def asked_process(self, monkeypatch):
        """How often the whole process was asked what disturbed it."""
        asked = []
        monkeypatch.setattr(
            profiler_module, "process_disturbances", lambda: (asked.append(1) or 0, 0)
        )
        return asked

    def test_one_thread_of_the_cpu_is_the_callers_own(self, make_profiler, model, asked_process):
        profiler, _ = make_profiler(on="onnxruntime-cpu")
        samples = profiler.profile(model, seconds=0.0).samples
        assert np.isfinite(samples.cpu_ms).all()
        assert not asked_process

    def test_several_threads_are_those_of_the_process(self, make_profiler, model, asked_process):
        profiler, _ = make_profiler(on="onnxruntime-cpu", threads=2)
        samples = profiler.profile(model, seconds=0.0).samples
        assert np.isnan(samples.cpu_ms).all()
        assert len(asked_process) == 2 * len(samples.wall_ms)

    def test_an_accelerator_takes_none_of_the_callers_cpu_time(
        self, make_profiler, model, asked_process
    ):
        profiler, _ = make_profiler(on="onnxruntime-cuda")
        assert np.isnan(profiler.profile(model, seconds=0.0).samples.cpu_ms).all()

    @pytest.mark.parametrize("on", ["onnxruntime-openvino", "onnxruntime-coreml"])
    def test_work_that_other_threads_do_is_not_judged_by_the_callers_cpu_time(
        self, make_profiler, model, asked_process, on
    ):
        profiler, _ = make_profiler(on=on)
        assert np.isnan(profiler.profile(model, seconds=0.0).samples.cpu_ms).all()


class TestEnergy:
    def test_it_is_that_of_one_run_with_its_spread(self, make_profiler, model, monkeypatch):
        monkeypatch.setattr(profiler_module, "energy_counter", lambda target: "a counter")
        found = EnergyPerRun(3.5, 0.1, 10)
        monkeypatch.setattr(profiler_module, "measure_energy", lambda *a, **k: found)
        measurement = make_profiler()[0].profile(model, seconds=0.0)
        assert (measurement.energy_mj, measurement.energy_relative_spread) == (3.5, 0.1)

    @pytest.mark.parametrize("error", [TargetError("it stood still"), OSError("no such file")])
    def test_a_counter_that_fails_is_none_and_costs_nothing_else(
        self, make_profiler, model, monkeypatch, error
    ):
        calls = []

        def fail(*args, **options):
            calls.append(args)
            raise error

        monkeypatch.setattr(profiler_module, "energy_counter", lambda target: "a counter")
        monkeypatch.setattr(profiler_module, "measure_energy", fail)
        profiler, _ = make_profiler()
        for _ in range(2):
            measurement = profiler.profile(model, seconds=0.0)
            assert measurement.energy_mj is None
            assert measurement.latency_ms == NETWORK_MS
        assert len(calls) == 1


class TestWhenToStop:
    @pytest.fixture
    def is_enough(self, make_profiler, make_samples):
        """Of rounds with these slowdowns of the reference, and these latencies."""
        profiler, _ = make_profiler()

        def decide(slowdowns, elapsed_s, seconds=1.0, wall_ms=1.0):
            n = len(slowdowns)
            wall_ms = np.broadcast_to(wall_ms, n)
            samples = make_samples(wall_ms, chunk=np.arange(n), slowdown=slowdowns)
            return profiler._is_enough(samples, elapsed_s, seconds)

        return decide

    def test_nothing_is_never_enough(self, make_profiler):
        assert not make_profiler()[0]._is_enough(None, 1e9, 1.0)

    def test_a_tight_interval_of_enough_rounds_ends_early(self, is_enough):
        assert is_enough([1.0] * ENOUGH_ROUNDS, 0.01)
        assert not is_enough([1.0] * (ENOUGH_ROUNDS - 1), 0.01)

    def test_one_fast_run_makes_it_go_on_with_patience(self, is_enough):
        n = 20 * ENOUGH_ROUNDS
        near, far = ({"wall_ms": np.r_[fast, np.ones(n - 1)]} for fast in (0.93, 0.9))
        assert not is_enough([1.0] * n, 0.99, **near)
        assert is_enough([1.0] * n, 1.01, **near)
        assert not is_enough([1.0] * n, 1.01, **far)
        assert is_enough([1.0] * n, PATIENCE + 0.01, **far)

    def test_samples_that_warn_of_themselves_do_not_end_early(self, make_profiler, make_samples):
        profiler, _ = make_profiler()
        n = 20 * ENOUGH_ROUNDS
        disturbed = make_samples(
            np.ones(n), cpu_ms=np.full(n, np.nan), switches=np.ones(n, int), chunk=np.arange(n)
        )
        assert disturbed.basis is Basis.FASTEST
        assert not profiler._is_enough(disturbed, 0.3, 10.0)

    def test_a_wide_interval_takes_the_time_there_is(self, is_enough):
        wide = {"wall_ms": 1 + np.arange(ENOUGH_ROUNDS) / 500}  # 16 chunks over 3 %
        assert not is_enough([1.0] * ENOUGH_ROUNDS, 0.99, **wide)
        assert is_enough([1.0] * ENOUGH_ROUNDS, 1.01, **wide)

    def test_when_the_time_is_over_a_few_steady_rounds_do(self, is_enough):
        assert is_enough([1.0] * MIN_ROUNDS, 1.01)
        assert not is_enough([1.0] * (MIN_ROUNDS - 1), 1.01)

    def test_slow_rounds_do_not_count_and_are_waited_out_but_not_for_ever(self, is_enough):
        slow = [2.0] * 500
        assert not is_enough(slow, 1.01)
        assert not is_enough(slow + [1.0] * (MIN_ROUNDS - 1), 1.01)
        assert is_enough(slow + [1.0] * MIN_ROUNDS, 1.01)
        assert is_enough(slow, PATIENCE + 0.01)

    def test_even_impatience_waits_for_the_fewest_rounds(self, is_enough):
        assert not is_enough([2.0] * (MIN_ROUNDS - 1), 1e9)
        assert is_enough([2.0] * MIN_ROUNDS, 1e9)

    def test_a_profile_of_no_seconds_has_the_fewest_rounds(self, make_profiler, model):
        profiler, _ = make_profiler()
        samples = profiler.profile(model, seconds=0.0).samples
        assert len(samples.chunk_slowdowns) == MIN_ROUNDS


class TestLatencyInTurns:
    @pytest.fixture
    def models(self, relu_proto):
        return [make_model(relu_proto((1, size)), name=f"net {size}") for size in (4, 8, 16)]

    def test_every_round_has_a_chunk_of_every_model(self, make_profiler, models):
        profiler, runtime = make_profiler()
        found = profiler.latency(models, seconds=1.0)
        assert [len(samples.chunk_slowdowns) for samples in found] == [ENOUGH_ROUNDS] * 3
        turns = [name for name, _ in itertools.groupby(runtime.log)]
        turn = ["reference", "net 4", "net 8", "net 16"]
        assert turns[-4 * ENOUGH_ROUNDS :] == turn * ENOUGH_ROUNDS
        assert all(session.is_closed for session in runtime.sessions if session.name in turn[1:])

    def test_the_first_run_of_a_turn_is_not_a_sample(self, make_profiler, models):
        profiler, runtime = make_profiler()
        (samples,) = profiler.latency(models[:1], seconds=1.0)
        n_untimed = 1 + N_WARMUP + ENOUGH_ROUNDS
        assert runtime.log.count("net 4") == len(samples.wall_ms) + n_untimed

    def test_all_models_meet_the_same_machine(self, make_profiler, models):
        profiler, _ = make_profiler(slowdowns=[1.0, 1.0, *[1.0, 2.0] * ENOUGH_ROUNDS])
        one, *others = profiler.latency(models, seconds=1.0)
        assert set(one.chunk_slowdowns) == {1.0, 2.0}
        for other in others:
            assert other.chunk_slowdowns.tolist() == one.chunk_slowdowns.tolist()

    def test_progress_is_told_and_ends_at_the_whole(self, make_profiler, models):
        profiler, _ = make_profiler(slowdowns=[1.0, 2.0] * 2 + [1.0])
        told = []
        profiler.latency(models[:1], seconds=1.0, on_round=lambda *now: told.append(now))
        assert told[0] == (1, ENOUGH_ROUNDS)
        assert told[-1] == (ENOUGH_ROUNDS, ENOUGH_ROUNDS)
        assert told == sorted(told)

    def test_no_models_have_no_latencies(self, make_profiler):
        assert make_profiler()[0].latency([], seconds=1.0) == []

    def test_one_bad_model_closes_the_sessions_of_the_others(self, make_profiler, models):
        profiler, runtime = make_profiler(refused=["net 16"])
        with pytest.raises(ModelError, match="cannot load net 16"):
            profiler.latency(models, seconds=1.0)
        assert [session.is_closed for session in runtime.sessions] == [True, True]


def test_the_machines_speed_is_judged_against_its_good_moments(make_profiler):
    # Ten moments at 1 ms, with one at 0.5 ms: the best tenth, and not the best, is the measure.
    profiler, _ = make_profiler(slowdowns=[*[1.0] * 10, 0.5, 1.0, 1.5])
    found = [profiler._slowdown() for _ in range(13)]
    assert found[:10] == [1.0] * 10
    assert found[-1] == 1.5
