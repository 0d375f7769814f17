import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from profilers.errors import StoreError
from profilers.store import SCHEMA_VERSION, MeasurementStore

# Run as processes of their own: a store is written to by several, and any of them may be killed.
WRITER = """
import sys
from pathlib import Path
import numpy as np
from profilers.devices import Device
from profilers.kernels import Kernel, Tensor
from profilers.measurement import KernelLatency, NetworkMeasurement
from profilers.store import MeasurementStore
from profilers.targets import Target
from profilers.timing import LatencySamples

path, prefix, n = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
device = Device("Toy", "x86_64", 2, (), {}, None, None, (), "Linux", {}, False)
target = Target("toy", "1", "fp32", 1, 1, device.fingerprint, "Toy")
ones, zeros = np.ones(10), np.zeros(10, dtype=np.int64)
with MeasurementStore(path) as store:
    for i in range(n):
        tensor = Tensor("float", (1, i))
        kernel = KernelLatency("k", Kernel("Relu", (), (tensor,), (tensor,)), 0.5, 3)
        samples = LatencySamples(ones * (i + 1), ones * (i + 1), zeros, zeros, zeros, ones)
        store.add(
            NetworkMeasurement(f"{prefix}{i}", f"{prefix}{i}", target, samples, (kernel,) * 20, 1),
            device,
        )
        print(i, flush=True)
"""


@pytest.fixture
def start_writer(tmp_path):
    def start(prefix, n):
        return subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "m.db"), prefix, str(n)],
            stdout=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture
def store(tmp_path):
    with MeasurementStore(tmp_path / "m.db") as store:
        yield store


def assert_equal(found, expected):
    fields = ("wall_ms", "cpu_ms", "switches", "faults", "chunk", "slowdown")
    for name in fields:
        one, other = getattr(found.samples, name), getattr(expected.samples, name)
        assert one.dtype == other.dtype
        assert np.array_equal(one, other), name
    assert replace(found, samples=expected.samples) == expected


def test_a_measurement_comes_back_with_its_raw_samples(
    store, device, make_measurement, make_samples
):
    rng = np.random.default_rng(0)
    wall_ms = rng.uniform(1, 2, 50)
    samples = make_samples(
        wall_ms, cpu_ms=wall_ms * 0.9, switches=rng.integers(0, 3, 50),
        faults=rng.integers(0, 3, 50), chunk=np.arange(50) // 10, slowdown=rng.uniform(1, 2, 50),
    )  # fmt: skip
    written = make_measurement(
        samples=samples, peak_memory_bytes=2**40, tags={"space": "größe ×", "genotype": "[1, 2]"}
    )
    store.add(written, device)
    (found,) = store.networks()
    assert_equal(found, written)
    assert found.latency_ms == written.latency_ms


def test_order_and_targets_are_kept(store, device, target, make_measurement):
    other = replace(target, threads=2)
    for name, where in (("b", target), ("a", other), ("b", target)):
        store.add(make_measurement(name, target=where), device)
    assert [m.name for m in store.networks()] == ["b", "a", "b"]
    assert [m.name for m in store.networks(other)] == ["a"]
    assert store.networks(replace(target, threads=3)) == []


def test_a_network_without_kernels_and_one_with_a_kernel_twice(store, device, make_measurement):
    twice = make_measurement("twice")
    twice = replace(twice, kernels=(*twice.kernels, replace(twice.kernels[0], name="again")))
    store.add(make_measurement("none", kernel_ms=()), device)
    store.add(twice, device)
    none, found = store.networks()
    assert none.kernels == ()
    assert_equal(found, twice)


def test_a_measurement_is_written_whole_or_not_at_all(store, device, make_measurement):
    store.add(make_measurement("good"), device)
    bad = make_measurement("bad", kernel_ms=(0.1, float("nan")))  # SQLite keeps NaN as NULL
    with pytest.raises(StoreError, match=r"cannot write the measurement database .*m\.db"):
        store.add(bad, device)
    assert [m.name for m in store.networks()] == ["good"]


def test_a_file_is_opened_again(tmp_path, device, make_measurement):
    path = tmp_path / "new" / "folder" / "m.db"
    for name in ("a", "b"):
        with MeasurementStore(path) as store:
            store.add(make_measurement(name), device)
    with MeasurementStore(str(path)) as store:
        assert [m.name for m in store.networks()] == ["a", "b"]


class TestGraphs:
    def test_more_keys_than_sqlite_takes_parameters(self, store):
        graphs = {f"piece {i}": [i, ["Relu", [1, 2]]] for i in range(1201)}
        store.add_graphs("ort-1", graphs)
        keys = [*graphs, "unknown"]
        assert store.graphs("ort-1", keys) == graphs
        assert store.graphs("ort-2", keys) == {}
        assert store.graphs("ort-1", []) == {}

    def test_the_last_one_written_stays(self, store):
        store.add_graphs("ort-1", {"a": [1]})
        store.add_graphs("ort-1", {"a": [2], "b": []})
        assert store.graphs("ort-1", ["a", "b"]) == {"a": [2], "b": []}


class TestRefusedFiles:
    def test_a_text_file(self, tmp_path):
        path = tmp_path / "m.db"
        path.write_text("name,latency_ms\n" * 100)
        with pytest.raises(StoreError, match=rf"cannot open the measurement database {path}"):
            MeasurementStore(path)
        assert path.read_text() == "name,latency_ms\n" * 100

    def test_a_strangers_database_is_left_as_it_is(self, tmp_path):
        path = tmp_path / "theirs.db"
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE theirs (x)")
        connection.close()
        before = path.read_bytes()
        with pytest.raises(StoreError, match=rf"{path} is no measurement database"):
            MeasurementStore(path)
        assert path.read_bytes() == before
        assert [file.name for file in tmp_path.iterdir()] == ["theirs.db"]

    @pytest.mark.parametrize("version", [SCHEMA_VERSION, SCHEMA_VERSION + 1])
    def test_another_version_or_a_stranger_with_ours(self, tmp_path, version):
        path = tmp_path / "m.db"
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE network (x)")
            connection.execute(f"PRAGMA user_version = {version}")
        connection.close()
        with pytest.raises(StoreError, match=rf"it says {version}.*update hwnas if it is newer"):
            MeasurementStore(path)

    def test_a_folder_and_a_path_below_a_file(self, tmp_path):
        with pytest.raises(StoreError, match=str(tmp_path)):
            MeasurementStore(tmp_path)
        (tmp_path / "file").write_text("")
        with pytest.raises(StoreError, match="cannot open the measurement database"):
            MeasurementStore(tmp_path / "file" / "m.db")

    def test_a_database_that_may_only_be_read(self, tmp_path):
        # As root no file mode stops a writer, so SQLite itself is told.
        path = tmp_path / "m.db"
        MeasurementStore(path).close()
        store = MeasurementStore(path)
        store._connection.execute("PRAGMA query_only = 1")
        with pytest.raises(StoreError, match=r"cannot write .*m\.db: attempt to write a readonly"):
            store.add_graphs("ort-1", {"a": []})
        store.close()

    def test_a_damaged_database(self, tmp_path, device, make_measurement):
        path = tmp_path / "m.db"
        with MeasurementStore(path) as store:
            for i in range(50):
                store.add(make_measurement(str(i)), device)
        data = bytearray(path.read_bytes())
        data[4096:] = os.urandom(len(data) - 4096)  # all but the page with the schema
        path.write_bytes(data)
        with pytest.raises(StoreError, match=str(path)), MeasurementStore(path) as store:
            store.networks()

    def test_damage_that_sqlite_does_not_see(self, tmp_path, device, make_measurement):
        path = tmp_path / "m.db"
        with MeasurementStore(path) as store:
            for i in range(5):
                store.add(make_measurement(str(i)), device)
        good, rng = path.read_bytes(), np.random.default_rng(0)
        n_refused = 0
        for _ in range(150):
            data = bytearray(good)
            for at in rng.integers(0, len(data), 40):
                data[at] = rng.integers(256)
            path.write_bytes(data)
            try:
                with MeasurementStore(path) as store:
                    store.networks()
            except StoreError:
                n_refused += 1
        assert n_refused > 50

    @pytest.mark.parametrize(
        "change",
        [
            "UPDATE kernel SET key = '[]' WHERE id = 1",
            "UPDATE target SET target = '{'",
            "UPDATE network SET wall_ms = x'00'",
            "UPDATE network SET wall_ms = x''",
            "DELETE FROM target",
            "DELETE FROM kernel",
        ],
    )
    def test_rows_that_were_not_written_here(self, tmp_path, device, make_measurement, change):
        path = tmp_path / "m.db"
        with MeasurementStore(path) as store:
            store.add(make_measurement(), device)
        with sqlite3.connect(path) as connection:
            connection.execute(change)
        connection.close()
        with (
            MeasurementStore(path) as store,
            pytest.raises(StoreError, match=rf"cannot read .*{path}: it is damaged"),
        ):
            store.networks()

    def test_a_closed_store(self, store):
        store.close()
        with pytest.raises(StoreError, match="cannot read"):
            store.networks()


def test_two_processes_that_write_at_once_lose_nothing(tmp_path, start_writer):
    writers = [start_writer(prefix, 40) for prefix in "ab"]
    for writer in writers:
        writer.communicate(timeout=60)
        assert writer.returncode == 0
    with MeasurementStore(tmp_path / "m.db") as store:
        names = [m.name for m in store.networks()]
    assert sorted(names) == sorted(f"{prefix}{i}" for prefix in "ab" for i in range(40))
    assert [name for name in names if name[0] == "a"] == [f"a{i}" for i in range(40)]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs signals of POSIX")
def test_a_writer_that_is_killed_leaves_what_it_had_finished(
    tmp_path, start_writer, device, make_measurement
):
    writer = start_writer("a", 1_000_000)
    finished = [int(writer.stdout.readline()) for _ in range(30)][-1]
    writer.kill()
    writer.communicate(timeout=60)
    with MeasurementStore(tmp_path / "m.db") as store:
        found = store.networks()
        assert [m.name for m in found] == [f"a{i}" for i in range(len(found))]
        assert len(found) > finished
        assert all(len(m.kernels) == 20 for m in found)
        store.add(make_measurement("after"), device)
        assert store.networks()[-1].name == "after"
