import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hwnas.executors.errors import AccidentError, EvaluationFailedError, ExecutorError
from hwnas.executors.limits import Limits
from hwnas.executors.processes import ProcessExecutor
from hwnas.strategies import Trial

LONG_S = 60.0  # what cannot be waited for on a busy machine


@pytest.fixture(scope="module")
def executor(faults):
    """One worker for all tests here: each must find it as if nothing had been before."""
    limits = Limits(seconds=LONG_S, memory_bytes=250_000_000)
    with ProcessExecutor(limits=limits) as executor:
        yield executor


def result(executor, fn, number=0, share=1.0):
    return executor.submit(fn, Trial(number, (1,), None, share=share)).result(LONG_S)


def is_alive(pid):
    """A zombie that nobody has waited for is not alive."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def wait_until(condition):
    end_s = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < end_s, "it took too long"
        time.sleep(0.02)


def test_a_process_of_its_own_evaluates_one_trial_after_the_other(executor, faults):
    first = result(executor, faults.pid)
    assert first != os.getpid()
    assert result(executor, faults.pid) == first
    assert [result(executor, faults.number, n) for n in (3, 5)] == [3, 5]


def test_each_worker_sees_a_gpu_of_its_own_in_turn(faults, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    with ProcessExecutor(3, gpus=("GPU-a", "GPU-b")) as executor:
        futures = [executor.submit(faults.visible_gpus, Trial(n, (1,), None)) for n in range(3)]
        # While the processes start, each worker has taken one.
        shown = sorted(future.result(LONG_S) for future in futures)
    assert shown == ["GPU-a", "GPU-a", "GPU-b"]
    with ProcessExecutor() as executor:
        assert result(executor, faults.visible_gpus) == "GPU-a,GPU-b"


@pytest.mark.parametrize(
    ("name", "error", "reason"),
    [
        ("raises", EvaluationFailedError, "ValueError: no such layer"),
        ("lacks_memory", AccidentError, "out of memory: MemoryError"),
        ("takes_memory", AccidentError, "out of memory: it held over 250 MB"),
        ("is_killed", AccidentError, "the worker was killed: SIGKILL, .* memory runs out"),
        ("crashes", EvaluationFailedError, "the worker crashed: SIGSEGV"),
        ("exits", EvaluationFailedError, r"the worker exited with code 3 \(going now\)"),
        ("returns_what_cannot_travel", EvaluationFailedError, "pickle"),
    ],
)
def test_whatever_a_candidate_does_is_a_reason_and_the_next_one_is_evaluated(
    executor, faults, name, error, reason
):
    with pytest.raises(EvaluationFailedError, match=reason) as caught:
        result(executor, getattr(faults, name))
    assert type(caught.value) is error
    assert result(executor, faults.number, 7) == 7


def test_a_candidate_that_hangs_is_ended_when_its_time_is_over(faults):
    # The clock is ours, so that a slow start of the process does not count.
    now_s = [0.0]
    with ProcessExecutor(limits=Limits(seconds=5.0), clock_s=lambda: now_s[0]) as executor:
        pid = result(executor, faults.pid)
        hanging = executor.submit(faults.hangs, Trial(0, (1,), None))
        wait_until(hanging.running)
        time.sleep(0.2)
        assert not hanging.done()
        for _ in range(7):  # in steps that are no sign of a driver that was stopped
            now_s[0] += 0.9
            time.sleep(0.15)
        with pytest.raises(AccidentError, match="hung: no result in 5 s"):
            hanging.result(LONG_S)
        assert not is_alive(pid)


def test_the_time_in_which_the_driver_was_stopped_does_not_count(faults):
    now_s = [0.0]
    with ProcessExecutor(limits=Limits(seconds=5.0), clock_s=lambda: now_s[0]) as executor:
        result(executor, faults.pid)
        hanging = executor.submit(faults.hangs, Trial(0, (1,), None))
        wait_until(hanging.running)
        time.sleep(0.2)
        now_s[0] += 1000.0
        time.sleep(0.3)
        assert not hanging.done()


def test_progress_and_prints_do_not_come_between_the_answers(faults, capfd):
    seen = []
    with ProcessExecutor(on_progress=lambda *reported: seen.append(reported)) as executor:
        assert result(executor, faults.prints_and_reports, 4) == "fine"
    assert seen == [(4, 0.25), (4, 1.0)]
    assert capfd.readouterr() == ("", "")


def test_workers_run_beside_each_other_with_the_threads_they_are_given(faults):
    with ProcessExecutor(2, n_threads=3) as executor:
        hanging = executor.submit(faults.hangs, Trial(0, (1,), None))
        assert result(executor, faults.number, 1) == 1
        assert result(executor, faults.threads) == "3"
        assert not hanging.done()


def test_the_initializer_runs_once_in_each_process(faults, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ProcessExecutor(initializer=faults.note_start) as executor:
        first = {result(executor, faults.pid) for _ in range(2)}
        with pytest.raises(AccidentError):
            result(executor, faults.is_killed)
        second = result(executor, faults.pid)
    starts = (tmp_path / faults.N_STARTS_FILE).read_text().split()
    assert [*first, second] == [int(pid) for pid in starts] and second not in first


def test_an_initializer_that_fails_fails_no_candidate(faults):
    with (
        ProcessExecutor(initializer=faults.cannot_start) as executor,
        pytest.raises(ExecutorError, match="made ready: ValueError: the data are gone"),
    ):
        result(executor, faults.number)


def test_what_cannot_be_sent_is_an_error_and_the_next_one_is_evaluated(executor, faults):
    with pytest.raises((AttributeError, TypeError, EvaluationFailedError), match="pickle"):
        result(executor, lambda trial: 1)
    assert result(executor, faults.number, 2) == 2


def test_leaving_the_block_ends_what_runs_and_its_children_at_once(faults, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    n_threads = threading.active_count()
    with ProcessExecutor() as executor:
        pid = result(executor, faults.pid)
        executor.submit(faults.starts_a_child_and_hangs, Trial(0, (1,), None))
        child = tmp_path / "child.pid"
        wait_until(lambda: child.exists() and child.read_text())
    assert not is_alive(pid)
    wait_until(lambda: not is_alive(int(child.read_text())))
    assert threading.active_count() == n_threads
    with pytest.raises(RuntimeError, match="closed"):
        executor.submit(faults.pid, Trial(0, (1,), None))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_crash_beside_a_forked_child_is_seen_and_the_child_is_ended(
    faults, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with ProcessExecutor() as executor:  # the child has the pipe that the answer would come by
        with pytest.raises(EvaluationFailedError, match="the worker crashed: SIGSEGV"):
            result(executor, faults.crashes_beside_a_fork)
        child = int((tmp_path / "child.pid").read_text())
        wait_until(lambda: not is_alive(child))
        assert result(executor, faults.number, 2) == 2


DRIVER = """
import sys, time
sys.path.insert(0, sys.argv[1])
import candidate_faults
from hwnas.executors.processes import ProcessExecutor
from hwnas.strategies import Trial
executor = ProcessExecutor(2)
executor.submit(candidate_faults.starts_a_child_and_hangs, Trial(0, (1,), None))
print(executor.submit(candidate_faults.pid, Trial(1, (1,), None)).result(), flush=True)
time.sleep(1000)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_process_outlives_a_driver_that_is_killed(tmp_path):
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(Path(__file__).parent)],
        stdout=subprocess.PIPE, cwd=tmp_path, text=True,
    )  # fmt: skip
    with driver:
        idle = int(driver.stdout.readline())
        child = tmp_path / "child.pid"
        wait_until(lambda: child.exists() and child.read_text())
        hanging = int(Path(f"/proc/{child.read_text()}/stat").read_text().split()[3])
        assert is_alive(idle) and is_alive(hanging)
        driver.send_signal(signal.SIGKILL)
    for pid in (idle, hanging, int(child.read_text())):
        wait_until(lambda pid=pid: not is_alive(pid))
