from pathlib import Path

import numpy as np
import pytest

from profilers.timing import (
    FASTEST_SHARE,
    MIN_CLEAN_SAMPLES,
    MIN_FASTEST,
    Basis,
    LatencySamples,
    process_disturbances,
    sample_latency,
    thread_disturbances,
)

RECORDED = Path(__file__).parent / "recorded" / "conv_net_30ms.npz"
NAN = float("nan")


class FakeMachine:
    """Its clocks move only in `run`, by what the test says.

    `lost_ms` is what others have the core for in each run; `device_ms` is what the device's own
    clock says, None if it has none.
    """

    def __init__(self, run_ms, *, lost_ms=0.0, switches=0, faults=0, device_ms=None):
        self.run_ms = list(run_ms)
        self.lost_ms = np.broadcast_to(lost_ms, len(self.run_ms))
        self.switches = np.broadcast_to(switches, len(self.run_ms))
        self.faults = np.broadcast_to(faults, len(self.run_ms))
        self.device_ms = device_ms
        self.wall_ns = self.cpu_ns = 0
        self.n_switches = self.n_faults = 0
        self.n_runs = 0

    def run(self):
        ms, lost_ms = self.run_ms[self.n_runs], self.lost_ms[self.n_runs]
        self.wall_ns += round((ms + lost_ms) * 1e6)
        self.cpu_ns += round(ms * 1e6)
        self.n_switches += int(self.switches[self.n_runs])
        self.n_faults += int(self.faults[self.n_runs])
        self.n_runs += 1
        return self.device_ms

    def sample(self, n_samples, **options):
        clocks = {"clock_ns": lambda: self.wall_ns, "cpu_clock_ns": lambda: self.cpu_ns}
        return sample_latency(
            self.run,
            n_samples=n_samples,
            disturbances=lambda: (self.n_switches, self.n_faults),
            **clocks | options,
        )


class TestSampling:
    def test_every_sample_is_one_run_with_what_disturbed_it(self):
        machine = FakeMachine([2, 3, 4], lost_ms=1, switches=1, faults=5)
        samples = machine.sample(3, slowdown=1.5)
        assert samples.wall_ms.tolist() == [3, 4, 5]
        assert samples.cpu_ms.tolist() == [2, 3, 4]
        assert samples.switches.tolist() == [1, 1, 1]
        assert samples.faults.tolist() == [5, 5, 5]
        assert samples.chunk.tolist() == [0, 0, 0]
        assert samples.slowdown.tolist() == [1.5, 1.5, 1.5]
        assert machine.n_runs == 3

    def test_a_device_with_a_clock_of_its_own_is_believed(self):
        samples = FakeMachine([2] * 12, device_ms=0.5).sample(12)
        assert samples.wall_ms.tolist() == [0.5] * 12
        assert samples.latency_ms == 0.5  # and not the 2 ms of the thread that waited for it

    def test_a_device_that_works_while_the_thread_waits_is_not_called_disturbed(self):
        samples = FakeMachine([0.1] * 12, device_ms=5.0).sample(12, cpu_clock_ns=None)
        assert np.isnan(samples.cpu_ms).all()
        assert samples.disturbances == {}
        assert samples.latency_ms == 5.0

    def test_no_samples_are_refused(self):
        with pytest.raises(ValueError, match="at least one sample"):
            FakeMachine([]).sample(0)

    def test_the_real_clocks_give_positive_times(self):
        samples = sample_latency(lambda: None, n_samples=3)
        assert (samples.wall_ms > 0).all()
        assert (samples.cpu_ms >= 0).all()

    def test_counters_of_the_thread_and_of_the_process_never_fall(self):
        for read in (thread_disturbances, process_disturbances):
            before = read()
            assert min(before) >= 0
            assert all(new >= old for new, old in zip(read(), before, strict=True))


class TestDisturbances:
    def test_quiet_samples_are_not_contended(self, make_samples):
        samples = make_samples([1.0, 1.01, 1.02] * 4)
        assert not samples.is_contended.any()
        assert samples.contended_share == 0
        assert samples.disturbances == {}
        assert samples.basis is Basis.UNDISTURBED
        assert samples.warning is None
        assert samples.latency_ms == 1.01

    @pytest.mark.parametrize(
        ("cause", "disturbance"),
        [
            ("lost the core", {"switches": [0] * 11 + [1]}),
            ("page faults", {"faults": [0] * 11 + [3]}),
            ("waited", {"cpu_ms": [1.0] * 11 + [0.9]}),  # for 0.1 ms; 5 % and 5 µs are allowed
            ("machine slowed", {"slowdown": [1.0] * 11 + [1.6]}),
        ],
    )
    def test_a_disturbance_marks_its_sample_and_none_before(self, make_samples, cause, disturbance):
        samples = make_samples([1.0] * 12, **disturbance)
        assert samples.is_contended.tolist() == [False] * 11 + [True]
        assert samples.contended_share == pytest.approx(1 / 12)
        assert samples.disturbances == {cause: 1}

    def test_the_run_after_a_disturbed_one_finds_its_caches_cold(self, make_samples):
        samples = make_samples([1.0] * 12, switches=[0, 1, 1] + [0] * 9)
        assert samples.is_contended.tolist() == [False, True, True, True] + [False] * 8
        assert samples.disturbances == {"lost the core": 2, "caches cold": 1}

    def test_between_chunks_the_caches_are_warmed_again(self, make_samples):
        samples = make_samples(
            [1.0] * 12, chunk=[0] * 6 + [1] * 6, switches=[0] * 5 + [1] + [0] * 6
        )
        assert samples.is_contended.tolist() == [False] * 5 + [True] + [False] * 6

    def test_a_run_on_a_slow_machine_leaves_the_caches_warm(self, make_samples):
        samples = make_samples([1.0] * 12, slowdown=[1.6] + [1.0] * 11)
        assert samples.is_contended.tolist() == [True] + [False] * 11

    def test_wall_time_may_exceed_cpu_time_by_5_percent_and_5_us(self, make_samples):
        # allowed: 1.05 · 0.95 + 0.005 = 1.0025 ms
        assert not make_samples([1.002] * 12, cpu_ms=[0.95] * 12).is_contended.any()
        assert make_samples([1.003] * 12, cpu_ms=[0.95] * 12).is_contended.all()

    def test_without_a_cpu_time_of_the_work_nothing_counts_as_waiting(self, make_samples):
        # Several threads or an accelerator: the calling thread's CPU time is not the work's.
        samples = make_samples([1.0] * 12, cpu_ms=[NAN] * 12, switches=[0] * 11 + [1])
        assert samples.disturbances == {"lost the core": 1}
        assert samples.is_contended.tolist() == [False] * 11 + [True]

    def test_page_faults_of_every_run_are_the_runs_own(self, make_samples):
        # 100 in every run; the run with 40 more was disturbed.
        samples = make_samples([1.0] * 12, faults=[100] * 11 + [140])
        assert samples.is_contended.tolist() == [False] * 11 + [True]
        assert samples.disturbances == {"page faults": 1}

    def test_a_slow_chunk_is_left_out_as_a_whole(self, make_samples):
        samples = make_samples([1.0] * 10 + [1.1] * 10, chunk=[0] * 10 + [1] * 10)
        assert samples.is_contended.tolist() == [False] * 10 + [True] * 10
        assert samples.latency_ms == 1.0

    def test_chunks_within_5_percent_of_the_fast_ones_are_kept(self, make_samples):
        samples = make_samples([1.0] * 10 + [1.04] * 10, chunk=[0] * 10 + [1] * 10)
        assert not samples.is_contended.any()

    def test_a_chunk_is_judged_by_its_undisturbed_runs(self, make_samples):
        # The second chunk lost the core in most of its runs; the others are as fast as the first.
        samples = make_samples(
            [1.0] * 13 + [3.0] * 7,
            chunk=[0] * 10 + [1] * 10,
            switches=[0] * 13 + [1] * 7,
        )
        assert samples.disturbances == {"lost the core": 7}

    def test_a_fast_chunk_under_a_slow_reference_sets_no_floor(self, make_samples):
        # A machine that the reference says was slow cannot show how fast the network is.
        samples = make_samples(
            [0.5] * 10 + [1.0] * 10, chunk=[0] * 10 + [1] * 10, slowdown=[1.6] * 10 + [1.0] * 10
        )
        assert samples.is_contended.tolist() == [True] * 10 + [False] * 10

    def test_a_machine_that_was_slow_throughout_leaves_no_clean_sample(self, make_samples):
        samples = make_samples([1.0] * 10, slowdown=[1.6] * 10)
        assert samples.is_contended.all()
        assert samples.basis is Basis.FASTEST  # nor is the CPU time that of the machine at its best
        assert "0 of 10 samples were undisturbed (machine slowed in 10)" in samples.warning

    def test_the_slowdown_of_every_chunk_in_order(self, make_samples):
        samples = make_samples([1.0] * 5, chunk=[0, 0, 1, 1, 2], slowdown=[1, 1, 3, 3, 2])
        assert samples.chunk_slowdowns.tolist() == [1, 3, 2]


class TestLatency:
    def test_it_is_the_median_of_the_clean_samples(self, make_samples):
        samples = make_samples([1.0] * 4 + [1.02] * 5 + [50.0] * 10, switches=[0] * 9 + [1] * 10)
        assert samples.latency_ms == 1.02
        assert samples.min_ms == 1.0
        assert samples.percentile_ms(100) == 50.0

    def test_where_all_runs_lose_the_core_their_cpu_time_speaks(self):
        # 30 ms of work each, and others have the core for 10 to 40 ms in every run.
        rng = np.random.default_rng(0)
        run_ms = rng.uniform(30.0, 30.6, 60)
        machine = FakeMachine(run_ms, lost_ms=rng.uniform(10, 40, 60), switches=3)
        samples = machine.sample(60)
        assert samples.basis is Basis.CPU_TIME
        assert samples.latency_ms == pytest.approx(30.15, rel=0.005)  # the lower quartile
        assert samples.min_ms > 40
        low_ms, high_ms = samples.interval_ms
        assert 30.0 <= low_ms <= samples.latency_ms <= high_ms < 30.3
        assert samples.warning is None

    def test_cpu_times_of_runs_with_page_faults_or_on_a_slow_machine_do_not_speak(
        self, make_samples
    ):
        samples = make_samples(
            [50.0] * 40,
            cpu_ms=[30.0] * 20 + [10.0] * 20,
            switches=[1] * 40,
            faults=[0] * 20 + [9] * 10 + [0] * 10,
            slowdown=[1.0] * 30 + [1.6] * 10,
        )
        assert samples.basis is Basis.CPU_TIME
        assert samples.latency_ms == 30.0

    def test_with_too_few_clean_samples_and_no_cpu_time_the_fastest_speak(self, make_samples):
        wall_ms = np.linspace(1.0, 2.0, 100)
        n_clean = MIN_CLEAN_SAMPLES - 1
        samples = make_samples(
            wall_ms, cpu_ms=[NAN] * 100, switches=[0] * n_clean + [1] * (100 - n_clean)
        )
        n_fastest = round(100 * FASTEST_SHARE)
        assert samples.basis is Basis.FASTEST
        assert samples.latency_ms == pytest.approx(np.median(wall_ms[:n_fastest]))
        assert f"only {n_clean} of 100" in samples.warning
        assert "lost the core in 93" in samples.warning
        assert "rests on the fastest runs" in samples.warning

    def test_the_fastest_are_three_at_least(self, make_samples):
        samples = make_samples([1.0, 2.0, 3.0, 9.0], cpu_ms=[NAN] * 4)
        assert MIN_FASTEST == 3
        assert samples.latency_ms == 2.0

    def test_extending_numbers_the_chunks_on(self, make_samples):
        first = make_samples([1.0] * 3, chunk=[0, 0, 1])
        second = make_samples([2.0] * 3, chunk=[0, 1, 1], switches=[0, 1, 0])
        both = first.extended(second)
        assert both.wall_ms.tolist() == [1, 1, 1, 2, 2, 2]
        assert both.chunk.tolist() == [0, 0, 1, 2, 3, 3]
        assert both.switches.tolist() == [0, 0, 0, 0, 1, 0]
        assert isinstance(both, LatencySamples)
        assert first.chunk.tolist() == [0, 0, 1]


class TestInterval:
    def test_it_shrinks_with_the_samples_and_is_unknown_for_few(self, make_samples):
        rng = np.random.default_rng(0)
        few, many = (make_samples(rng.uniform(1.0, 1.2, n)) for n in (30, 3000))
        assert 0 < many.relative_error < few.relative_error < 0.1
        assert make_samples([1.0] * 5).relative_error == float("inf")
        assert make_samples([1.0] * 100).relative_error == 0

    def test_by_hand(self, make_samples):
        # n = 9: 4.5 ± 0.98 · 3 → ranks 1 and 8 of 0..8; (1.8 - 1.1) / 2 / 1.4
        samples = make_samples([1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8])
        assert samples.interval_ms == (1.1, 1.8)
        assert samples.relative_error == pytest.approx(0.25)

    def test_chunks_count_and_not_the_samples_within_them(self, make_samples):
        # Nine chunks of a hundred equal samples: as much is known as from nine samples.
        medians = 1 + np.arange(9) / 200
        samples = make_samples(np.repeat(medians, 100), chunk=np.repeat(np.arange(9), 100))
        assert samples.interval_ms == (medians[1], medians[8])

    def test_only_undisturbed_samples_make_a_chunks_median(self, make_samples):
        wall_ms = np.array([1.0, 1.0, 9.0, 9.0, 9.0] * 8)
        samples = make_samples(
            wall_ms, chunk=np.repeat(np.arange(8), 5), switches=(wall_ms > 1).astype(int)
        )
        assert samples.interval_ms == (1.0, 1.0)

    def test_it_covers_the_median_of_independent_chunks_19_times_of_20(self, make_samples):
        rng = np.random.default_rng(0)
        n_runs = 400
        chunk_ms = rng.normal(1.0, 0.01, (n_runs, 20))  # the machine's speed in each chunk
        chunk = np.repeat(np.arange(20), 10)
        covered = 0
        for speeds in chunk_ms:
            wall_ms = np.repeat(speeds, 10) * rng.normal(1.0, 0.001, 200)
            low_ms, high_ms = make_samples(wall_ms, chunk=chunk).interval_ms
            covered += low_ms <= 1.0 <= high_ms
        assert covered >= 0.92 * n_runs


def test_the_interval_holds_the_latency_whatever_the_chunks_say(make_samples):
    # Seven chunks of one fast sample, one chunk of fifty slower ones: they set the median.
    wall_ms = np.r_[np.linspace(1, 1.001, 7), np.full(50, 1.04)]
    samples = make_samples(wall_ms, chunk=np.r_[np.arange(7), np.full(50, 7)])
    low_ms, high_ms = samples.interval_ms
    assert low_ms <= samples.latency_ms <= high_ms


class TestWarning:
    def test_it_names_every_cause_with_its_count(self, make_samples):
        samples = make_samples(
            [1.0] * 7, switches=[0, 0, 1, 0, 0, 0, 0], faults=[0, 0, 0, 1, 1, 0, 0],
            cpu_ms=[1, 1, 1, 1, 1, 0.1, 1], slowdown=[1, 2, 1, 1, 1, 1, 1],
        )  # fmt: skip
        assert (
            "only 1 of 7 samples were undisturbed (lost the core in 1, page faults in 2, "
            "waited in 1, caches cold in 1, machine slowed in 1)"
        ) in samples.warning

    def test_few_but_clean_samples_are_warned_of_without_a_cause(self, make_samples):
        assert "only 3 of 3 samples were undisturbed;" in make_samples([1.0] * 3).warning

    def test_a_wide_interval_is_warned_of(self, make_samples):
        # Ranks 1 and 8 of 9: 0.35 ms to each side of 1.4 ms.
        samples = make_samples(np.linspace(1.0, 1.8, 9))
        assert samples.basis is Basis.UNDISTURBED
        assert samples.warning is not None

    def test_a_latency_far_above_one_fast_run_is_warned_of(self, make_samples):
        # A machine that was slow all the time but for a moment: no counter shows it.
        assert "the machine may have been slow" in make_samples([0.9] + [1.0] * 40).warning
        assert make_samples([0.95] + [1.0] * 40).warning is None


class TestRecorded:
    """Convolutions of 30 ms, one thread: alone on two cores, and beside two busy loops."""

    @pytest.fixture
    def recorded(self):
        with np.load(RECORDED) as file:
            return {
                state: LatencySamples(
                    *(
                        file[f"{state}_{name}"].astype(kind)
                        for name, kind in (
                            ("wall_ms", float), ("cpu_ms", float), ("switches", int),
                            ("faults", int), ("chunk", int), ("slowdown", float),
                        )
                    )
                )
                for state in ("quiet", "loaded")
            }  # fmt: skip

    def test_the_load_is_seen(self, recorded):
        assert recorded["quiet"].contended_share < 0.3 < 0.7 < recorded["loaded"].contended_share
        assert recorded["loaded"].disturbances["lost the core"] > 40
        assert recorded["loaded"].percentile_ms(50) > 1.5 * recorded["quiet"].percentile_ms(50)

    def test_loaded_and_quiet_agree(self, recorded):
        quiet, loaded = recorded["quiet"], recorded["loaded"]
        assert loaded.latency_ms == pytest.approx(quiet.latency_ms, rel=0.03)
        assert quiet.warning is None and loaded.warning is None

    def test_they_agree_also_where_no_run_kept_the_core(self, recorded):
        quiet, loaded = recorded["quiet"], recorded["loaded"]
        lost = loaded.switches > 0
        disturbed = LatencySamples(
            *(getattr(loaded, name)[lost] for name in LatencySamples.__dataclass_fields__)
        )
        assert disturbed.basis is Basis.CPU_TIME
        assert disturbed.latency_ms == pytest.approx(quiet.latency_ms, rel=0.03)
