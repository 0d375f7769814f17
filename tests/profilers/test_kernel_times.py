import numpy as np
import pytest

from profilers.kernel_times import LOST_CORE, MIN_KERNEL_US, _slowness, kernel_latencies_ms
from profilers.runtimes.base import KernelTrace


def whole_us(true_us, *, n_runs, step_us=1.3, slow_runs=(), factor=5.0):
    """A trace as ONNX Runtime writes it: starts and durations cut to whole microseconds.

    The kernels `true_us` run one after the other with `step_us` between them; in the slow runs
    everything takes `factor` times as long.
    """
    rng = np.random.default_rng(0)
    slowed = np.isin(np.arange(n_runs), list(slow_runs))
    run_us = np.outer(np.where(slowed, factor, 1.0), true_us)  # (n_runs, k)
    ends = np.cumsum(run_us + step_us, axis=1)
    idle_us = rng.uniform(20, 40, n_runs)
    run_start = 1000 + np.cumsum(idle_us) + np.concatenate([[0], np.cumsum(ends[:-1, -1])])
    starts = run_start[:, None] + ends - run_us - step_us
    return KernelTrace((), np.floor(run_us), np.floor(starts))


def exact(duration_us):
    """A trace of a runtime whose clock is fine enough."""
    return KernelTrace((), np.array(duration_us, dtype=np.float64))


def test_microseconds_that_were_cut_off_are_recovered():
    true_us = np.array([2.9, 5.0, 10.5, 2.1, 30.9, 4.0])
    trace = whole_us(true_us, n_runs=3000)
    assert set(trace.duration_us[:, 0]) == {2}  # however often it is run
    latencies_ms, n_runs = kernel_latencies_ms(trace)
    # One offset, the step between nodes, is common to all but the last; differences are exact.
    offset = (1e3 * latencies_ms - true_us)[:-1]
    assert np.ptp(offset) < 0.15
    assert abs(offset.mean()) < 1
    assert 1e3 * latencies_ms[-1] == 4.0
    assert n_runs == 3000


def test_exact_durations_are_taken_as_they_are():
    latencies_ms, n_runs = kernel_latencies_ms(exact([[2.9, 5.45], [2.9, 5.55]] * 20))
    assert latencies_ms == pytest.approx([2.9e-3, 5.5e-3])
    assert n_runs == 40


def test_runs_in_which_the_machine_was_slow_are_dropped():
    true_us = np.array([20.0, 40.0, 60.0])
    slow = set(range(0, 400, 2)) | {1, 3}
    latencies_ms, n_runs = kernel_latencies_ms(whole_us(true_us, n_runs=400, slow_runs=slow))
    assert latencies_ms == pytest.approx(true_us / 1e3, rel=0.05)
    assert n_runs == 400 - len(slow)


def test_runs_beside_a_slow_reference_are_dropped_even_if_they_look_fast():
    # The steady half takes twice the time of the other; the reference is believed.
    trace = whole_us([20.0, 40.0], n_runs=200, slow_runs=range(100, 200), factor=2)
    latencies_ms, n_runs = kernel_latencies_ms(trace, np.arange(200) >= 100)
    assert latencies_ms == pytest.approx([0.04, 0.08], rel=0.05)
    assert n_runs == 100


def test_no_steady_run_means_all_runs():
    trace = whole_us([20.0, 40.0], n_runs=50)
    assert kernel_latencies_ms(trace, np.zeros(50, dtype=bool))[1] == 50


def test_what_was_judged_steady_is_not_changed():
    is_steady = np.ones(50, dtype=bool)
    kernel_latencies_ms(whole_us([20.0, 40.0], n_runs=50, slow_runs=[3]), is_steady)
    assert is_steady.all()


class TestInterruptedKernels:
    def test_one_that_lost_the_core_does_not_spoil_its_run(self):
        # Every run loses the core in one of its kernels; no run is clean, every kernel has been.
        true_us = np.linspace(20.0, 40.0, 12)
        durations = np.tile(true_us, (240, 1))
        durations[np.arange(240), np.arange(240) % 12] += 8000
        latencies_ms, n_runs = kernel_latencies_ms(exact(durations))
        assert latencies_ms == pytest.approx(true_us / 1e3)
        assert n_runs == 240

    def test_a_run_counts_with_a_bounded_time_for_them(self):
        durations = np.tile([20.0, 40.0], (9, 1)).T  # (k, runs)
        durations[1, 0] = 9000.0
        expected = [20 + LOST_CORE * 40 + 1, *[60.0] * 8]
        assert _slowness(durations).tolist() == expected

    def test_a_slow_machine_shows_although_no_kernel_stands_out(self):
        durations = np.tile([20.0, 40.0], (9, 1)).T
        durations[:, :3] *= 1.15  # below what counts as interrupted
        assert _slowness(durations)[:3].min() > 1.1 * _slowness(durations)[3:].max()

    def test_they_do_not_reach_into_the_interval_to_the_next_start(self):
        true_us = np.array([20.0, 40.0, 10.0, 80.0, 90.0])
        trace = whole_us(true_us, n_runs=200)
        durations, starts = trace.duration_us.copy(), trace.start_us.copy()
        durations[::20, 1] += 2000
        starts[::20, 2:] += 2000
        latencies_ms, n_runs = kernel_latencies_ms(KernelTrace((), durations, starts))
        assert latencies_ms == pytest.approx(true_us / 1e3, rel=0.05)
        assert n_runs == 200


class TestFewOfAnything:
    def test_one_run_of_one_kernel(self):
        assert kernel_latencies_ms(KernelTrace((), np.array([[7.0]]), np.array([[3.0]]))) == (
            [0.007],
            1,
        )

    def test_one_run_of_two_kernels(self):
        trace = KernelTrace((), np.array([[7.0, 9.0]]), np.array([[0.0, 8.0]]))
        latencies_ms, n_runs = kernel_latencies_ms(trace)
        assert latencies_ms.tolist() == [0.007, 0.009]  # the step of 1 µs is taken off
        assert n_runs == 1

    def test_a_graph_that_was_folded_into_a_constant_has_no_kernels(self):
        latencies_ms, n_runs = kernel_latencies_ms(exact(np.zeros((5, 0))))
        assert len(latencies_ms) == 0
        assert n_runs == 5

    def test_no_kernel_takes_no_time(self):
        latencies_ms, _ = kernel_latencies_ms(whole_us([0.1, 50.0, 0.2], n_runs=100))
        assert latencies_ms.min() == MIN_KERNEL_US / 1e3


def test_a_trace_without_its_warm_up():
    trace = KernelTrace((), np.array([[9.0], [2.0], [3.0]]), np.array([[0.0], [10.0], [20.0]]), 7)
    rest = trace.without_first(1)
    assert rest.duration_us.tolist() == [[2.0], [3.0]]
    assert rest.start_us.tolist() == [[10.0], [20.0]]
    assert rest.peak_memory_bytes == 7
    assert exact([[9.0], [2.0]]).without_first(1).start_us is None
