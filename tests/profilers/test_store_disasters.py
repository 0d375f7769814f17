"""Full disks, read-only files, two writers, clocks that jump: nothing is lost, one message."""

import functools
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from profilers.errors import StoreError
from profilers.measurement import KernelLatency
from profilers.store import MeasurementStore


@pytest.fixture
def path(tmp_path):
    return tmp_path / "m.db"


def test_a_full_disk_is_one_message_and_keeps_what_was_measured(path, make_measurement, device):
    with MeasurementStore(path) as store:
        store.add(make_measurement("first"), device)
        (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
        store._connection.execute(f"PRAGMA max_page_count = {pages + 1}")
        large = make_measurement("large", tags={"text": "x" * 20_000})
        with pytest.raises(StoreError, match=r"full\. What was measured before is kept"):
            store.add(large, device)
        store._connection.execute(f"PRAGMA max_page_count = {pages + 1000}")  # space is made
        store.add(make_measurement("after"), device)
    with MeasurementStore(path) as store:
        assert [m.name for m in store.networks()] == ["first", "after"]


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on the size of files")
def test_a_file_that_cannot_grow_keeps_what_was_measured(path, make_measurement, device):
    with MeasurementStore(path) as store:
        store.add(make_measurement("first"), device)
    script = f"""
        import resource, signal, sys
        sys.path[:0] = {sys.path!r}
        from pathlib import Path
        from profilers.errors import StoreError
        from profilers.store import MeasurementStore
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        store = MeasurementStore(Path({str(path)!r}))
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            for i in range(100):
                store.add_graphs("r", {{str(i): ["x" * 20_000]}})
        except StoreError as error:
            print(error)
        print(len(store.networks()))
    """
    out = run(script).stdout.splitlines()
    assert len(out) == 2
    assert "cannot write the measurement database" in out[0]
    assert out[1] == "1"
    with MeasurementStore(path) as store:
        assert [m.name for m in store.networks()] == ["first"]


def test_a_read_only_database_is_one_message(path, make_measurement, device, monkeypatch):
    with MeasurementStore(path) as store:
        store.add(make_measurement(), device)
    connect = sqlite3.connect

    def read_only(path, **options):  # these tests may run as root, whom no file mode stops
        return connect(f"file:{path}?mode=ro", uri=True, **options)

    monkeypatch.setattr(sqlite3, "connect", read_only)
    with MeasurementStore(path) as store:
        assert len(store.networks()) == 1
        with pytest.raises(StoreError, match="cannot write the measurement database .*readonly"):
            store.add(make_measurement(), device)
        with pytest.raises(StoreError, match="readonly"):
            store.add_failure(make_measurement().target, "d", "n", "r")
        assert len(store.networks()) == 1


WRITER = """
    import sys
    sys.path[:0] = {sys_path!r}
    from pathlib import Path
    from profilers.kernels import Kernel
    from profilers.measurement import KernelLatency
    from profilers.store import MeasurementStore
    from profilers.targets import Target
    target = Target("onnxruntime-cpu", "1.0", "fp32", 1, 1, "0123456789ab", "Toy CPU")
    sys.stdin.readline()  # both begin at once
    with MeasurementStore(Path({path!r})) as store:
        for i in range(40):
            kernel = Kernel("Relu", (("writer", {writer}), ("i", i)), (), ())
            store.add_isolated(target, [KernelLatency("Relu", kernel, 1.0, 9)])
            store.add_failure(target, f"{writer} {{i}}", "n", "r")
"""


def test_two_writers_that_make_the_file_at_once_lose_nothing(path, target):
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", script(WRITER.format(
                sys_path=sys.path, path=str(path), writer=writer))],
            stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for writer in (0, 1)
    ]  # fmt: skip
    time.sleep(0.3)
    for writer in writers:
        writer.stdin.write("\n")
        writer.stdin.flush()
    errors = [writer.communicate(timeout=60)[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], errors
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert connection.execute("SELECT count(*) FROM isolated_kernel").fetchone() == (80,)
    assert connection.execute("SELECT count(DISTINCT digest) FROM failure").fetchone() == (80,)
    connection.close()


def test_a_file_made_while_it_is_looked_at_is_no_strangers(path, monkeypatch):
    connect, others = sqlite3.connect, []

    def make():
        MeasurementStore(path).close()

    class Slow(sqlite3.Connection):
        """The other process makes the file between the reading of its version and its tables."""

        def execute(self, statement, *arguments):
            rows = super().execute(statement, *arguments)
            if statement == "PRAGMA user_version" and not others:
                monkeypatch.setattr(sqlite3, "connect", connect)
                others.append(threading.Thread(target=make))
                others[0].start()
                others[0].join(0.3)
            return rows

    monkeypatch.setattr(sqlite3, "connect", functools.partial(connect, factory=Slow))
    with MeasurementStore(path) as store:
        others[0].join()
        assert store.networks() == []


def test_a_clock_that_jumps_back_changes_no_order(path, make_measurement, device, monkeypatch):
    clock = [2_000_000.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    first = make_measurement("first")
    run = first.kernels[0]
    with MeasurementStore(path) as store:
        store.add(first, device)
        store.add_isolated(first.target, [run])
        store.add_failure(first.target, "d", "n", "older")
        clock[0] -= 3600
        store.add(make_measurement("second"), device)
        store.add_isolated(first.target, [KernelLatency("Relu", run.kernel, 9.0, 9)])
        store.add_failure(first.target, "d", "n", "newer")
        assert [m.name for m in store.networks()] == ["first", "second"]
        assert store.isolated(first.target)[run.kernel].latency_ms == 9.0
        assert store.failures(first.target) == {"d": "newer"}


def test_what_another_process_wrote_is_seen_at_once(path, make_measurement, device, target):
    measurement = make_measurement()
    kernel = measurement.kernels[0]
    with MeasurementStore(path) as store, MeasurementStore(path) as other:
        assert not store.has(target, measurement.digest)
        assert not store.has_isolated(target, kernel.kernel)
        assert store.n_failures(target, "d") == 0
        other.add(measurement, device)
        other.add_isolated(target, [kernel])
        other.add_failure(target, "d", "n", "r")
        other.add_failure(target, "d", "n", "r")
        assert store.has(target, measurement.digest)
        assert not store.has(target, "another")
        assert store.has_isolated(target, kernel.kernel)
        assert not store.has_isolated(target, measurement.kernels[1].kernel)
        assert store.n_failures(target, "d") == 2


def script(text):
    return textwrap.dedent(text)


def run(text):
    done = subprocess.run(
        [sys.executable, "-c", script(text)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def test_reading_sees_one_state_while_another_process_writes(path, make_measurement, device):
    with MeasurementStore(path) as store, MeasurementStore(path) as other:
        store.add(make_measurement("first"), device)
        statements = []

        def write_in_between(statement):
            statements.append(statement)
            if "FROM network_kernel" in statement and len(statements) < 10:
                store._connection.set_trace_callback(None)
                other.add(make_measurement("second"), device)

        store._connection.set_trace_callback(write_in_between)
        assert [m.name for m in store.networks()] == ["first"]
        assert [m.name for m in store.networks()] == ["first", "second"]
        assert all(m.kernels for m in store.networks())
