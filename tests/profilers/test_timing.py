import numpy as np
import pytest

from profilers.timing import (
    FASTEST_SHARE,
    MIN_CLEAN_SAMPLES,
    LatencySamples,
    sample_latency,
    thread_disturbances,
)


class FakeMachine:
    """Its clocks move only in `run` and `synchronize`, by what the test says."""

    def __init__(self, run_ms, *, lost_ms=0.0, synchronize_ms=0.0, switches=0, faults=0):
        self.run_ms = list(run_ms)
        self.lost_ms = lost_ms
        self.synchronize_ms = synchronize_ms
        self.each = (switches, faults)
        self.wall_ns = self.cpu_ns = 0
        self.counters = np.zeros(2, dtype=np.int64)
        self.n_runs = 0

    def run(self):
        ms = self.run_ms[self.n_runs]
        self.wall_ns += round((ms + self.lost_ms) * 1e6)
        self.cpu_ns += round(ms * 1e6)
        self.counters += self.each
        self.n_runs += 1

    def synchronize(self):
        self.wall_ns += round(self.synchronize_ms * 1e6)
        self.cpu_ns += round(self.synchronize_ms * 1e6)

    def sample(self, n_samples, **options):
        return sample_latency(
            self.run,
            n_samples=n_samples,
            synchronize=self.synchronize,
            clock_ns=lambda: self.wall_ns,
            cpu_clock_ns=lambda: self.cpu_ns,
            disturbances=lambda: tuple(int(count) for count in self.counters),
            **options,
        )


def test_every_sample_is_one_run_with_what_disturbed_it():
    machine = FakeMachine([2, 3, 4], lost_ms=1, switches=1, faults=5)
    samples = machine.sample(3, slowdown=1.5)
    assert samples.wall_ms.tolist() == [3, 4, 5]
    assert samples.cpu_ms.tolist() == [2, 3, 4]
    assert samples.switches.tolist() == [1, 1, 1]
    assert samples.faults.tolist() == [5, 5, 5]
    assert samples.chunk.tolist() == [0, 0, 0]
    assert samples.slowdown.tolist() == [1.5, 1.5, 1.5]
    assert machine.n_runs == 3


def test_waiting_for_the_device_is_in_the_sample_but_what_was_queued_before_is_not():
    assert FakeMachine([1, 1], synchronize_ms=7).sample(2).wall_ms.tolist() == [8, 8]


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match="at least one sample"):
        FakeMachine([]).sample(0)


def test_the_real_clocks_give_positive_times():
    samples = sample_latency(lambda: sum(range(1000)), n_samples=3)
    assert (samples.wall_ms > 0).all()
    assert (samples.cpu_ms >= 0).all()
    assert min(thread_disturbances()) >= 0


def test_quiet_samples_are_not_contended(make_samples):
    samples = make_samples([1.0, 1.01, 1.02] * 4)
    assert not samples.is_contended.any()
    assert samples.contended_share == 0
    assert samples.warning is None
    assert samples.latency_ms == 1.01


@pytest.mark.parametrize(
    "disturbance",
    [
        {"switches": [1] + [0] * 11},
        {"faults": [3] + [0] * 11},
        {"cpu_ms": [0.9] + [1.0] * 11},  # waited for 0.1 ms; 5 % and 5 µs are allowed
        {"slowdown": [1.6] + [1.0] * 11},
    ],
)
def test_a_disturbance_marks_its_sample_and_no_other(make_samples, disturbance):
    samples = make_samples([1.0] * 12, **disturbance)
    assert samples.is_contended.tolist() == [True] + [False] * 11
    assert samples.contended_share == pytest.approx(1 / 12)


def test_wall_time_may_exceed_cpu_time_by_5_percent_and_5_us(make_samples):
    # allowed: 1.05 · 0.95 + 0.005 = 1.0025 ms
    assert not make_samples([1.002] * 12, cpu_ms=[0.95] * 12).is_contended.any()
    assert make_samples([1.003] * 12, cpu_ms=[0.95] * 12).is_contended.all()


def test_a_slow_chunk_is_left_out_as_a_whole(make_samples):
    samples = make_samples([1.0] * 10 + [1.1] * 10, chunk=[0] * 10 + [1] * 10)
    assert samples.is_contended.tolist() == [False] * 10 + [True] * 10
    assert samples.latency_ms == 1.0


def test_chunks_within_5_percent_of_the_fast_ones_are_kept(make_samples):
    samples = make_samples([1.0] * 10 + [1.04] * 10, chunk=[0] * 10 + [1] * 10)
    assert not samples.is_contended.any()


def test_a_fast_chunk_under_a_slow_reference_sets_no_floor(make_samples):
    # A machine that the reference says was slow cannot show how fast the network is.
    samples = make_samples(
        [0.5] * 10 + [1.0] * 10, chunk=[0] * 10 + [1] * 10, slowdown=[1.6] * 10 + [1.0] * 10
    )
    assert samples.is_contended.tolist() == [True] * 10 + [False] * 10


def test_a_machine_that_was_slow_throughout_leaves_no_clean_sample(make_samples):
    samples = make_samples([1.0] * 10, slowdown=[1.6] * 10)
    assert samples.is_contended.all()
    assert "0 of 10 samples were undisturbed (machine slowed in 10)" in samples.warning


def test_latency_is_the_median_of_the_clean_samples(make_samples):
    samples = make_samples([1.0] * 4 + [1.02] * 5 + [50.0] * 10, switches=[0] * 9 + [1] * 10)
    assert samples.latency_ms == 1.02
    assert samples.min_ms == 1.0
    assert samples.percentile_ms(100) == 50.0


def test_with_too_few_clean_samples_the_fastest_ones_speak(make_samples):
    wall_ms = np.linspace(1.0, 2.0, 100)
    n_clean = MIN_CLEAN_SAMPLES - 1
    samples = make_samples(wall_ms, switches=[1] * (100 - n_clean) + [0] * n_clean)
    n_fastest = round(100 * FASTEST_SHARE)
    assert samples.latency_ms == pytest.approx(np.median(wall_ms[:n_fastest]))
    assert f"only {n_clean} of 100" in samples.warning
    assert "lost the core in 93" in samples.warning
    assert "fastest" in samples.warning


def test_the_warning_names_every_cause_with_its_count(make_samples):
    samples = make_samples(
        [1.0] * 6, switches=[1, 0, 0, 0, 0, 0], faults=[0, 1, 1, 0, 0, 0],
        cpu_ms=[1, 1, 1, 0.1, 1, 1], slowdown=[1, 1, 1, 1, 2, 1],
    )  # fmt: skip
    assert (
        "only 1 of 6 samples were undisturbed "
        "(lost the core in 1, page faults in 2, waited in 1, machine slowed in 1)"
    ) in samples.warning


def test_few_but_clean_samples_are_warned_of_without_a_cause(make_samples):
    assert "only 3 of 3 samples were undisturbed;" in make_samples([1.0] * 3).warning


def test_relative_error_shrinks_with_the_samples_and_is_unknown_for_few(make_samples):
    rng = np.random.default_rng(0)
    few, many = (make_samples(rng.uniform(1.0, 1.2, n)) for n in (30, 3000))
    assert 0 < many.relative_error < few.relative_error < 0.1
    assert make_samples([1.0] * 5).relative_error == float("inf")
    assert make_samples([1.0] * 100).relative_error == 0


def test_relative_error_by_hand(make_samples):
    # n = 9: 4.5 ± 0.98 · 3 → ranks 1 and 8 of 0..8; (1.8 - 1.1) / 2 / 1.4
    samples = make_samples([1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8])
    assert samples.relative_error == pytest.approx(0.25)


def test_extending_numbers_the_chunks_on(make_samples):
    first = make_samples([1.0] * 3, chunk=[0, 0, 1])
    second = make_samples([2.0] * 3, chunk=[0, 1, 1], switches=[0, 1, 0])
    both = first.extended(second)
    assert both.wall_ms.tolist() == [1, 1, 1, 2, 2, 2]
    assert both.chunk.tolist() == [0, 0, 1, 2, 3, 3]
    assert both.switches.tolist() == [0, 0, 0, 0, 1, 0]
    assert isinstance(both, LatencySamples)
    assert first.chunk.tolist() == [0, 0, 1]
