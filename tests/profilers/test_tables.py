import re
import subprocess
import sys
from dataclasses import fields, replace
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import profilers
from profilers.errors import StoreError
from profilers.kernels import Kernel, Tensor, macs
from profilers.measurement import KernelLatency
from profilers.store import MeasurementStore
from profilers.table_columns import (
    ISOLATED_COLUMNS,
    KERNEL_COLUMNS,
    NETWORK_COLUMNS,
    TABLES,
    write_readme,
)
from profilers.tables import (
    load_isolated,
    load_measurements,
    read_measurements,
    write_measurements,
)
from profilers.timing import Basis, LatencySamples

X, W = Tensor("float", (1, 8, 6, 6)), Tensor("float", (4, 8, 3, 3))
Y = Tensor("float", (1, 4, 6, 6))
CONV = Kernel("Conv", (("activation", "Relu"), ("kernel_shape", (3, 3))), (X, W), (Y,))


@pytest.fixture
def noisy_samples():
    """Samples of 1 ms in chunks of 100, each in a speed of its own, some of them disturbed."""

    def make(n, *, disturbed=0.2, seed=0):
        rng = np.random.default_rng(seed)
        chunk = np.arange(n) // 100
        wall_ms = (1 + 0.02 * rng.uniform(size=chunk.max() + 1)[chunk]) * rng.uniform(1, 1.02, n)
        switches = (rng.uniform(size=n) < disturbed).astype(np.int64)
        cpu_ms = wall_ms * rng.uniform(0.99, 1, n)
        zeros = np.zeros(n, np.int64)
        late_ms = wall_ms + switches * rng.uniform(1, 5, n)
        return LatencySamples(late_ms, cpu_ms, switches, zeros, chunk, np.ones(n))

    return make


@pytest.fixture
def measurements(make_measurement, noisy_samples, target):
    kernels = (
        KernelLatency("a", CONV, 0.123456789, 7),
        KernelLatency("b", CONV, 0.2, 7),
    )
    tags = {"family": "größe ×", "space": "mobile-1", "genotype": "[1, 2]"}
    return [
        make_measurement(
            "one", samples=noisy_samples(3000), kernels=kernels, tags=tags, peak_memory_bytes=2**40
        ),
        make_measurement(
            "two", target=replace(target, threads=2), energy_mj=1.5, energy_relative_spread=0.03
        ),
        make_measurement(
            "none",
            kernels=(),
            computed_peak_memory_bytes=0,
            process_peak_bytes=2**33,
            reference_ms=0.1,
        ),
    ]


@pytest.fixture
def folder(tmp_path, measurements):
    write_measurements(measurements, tmp_path / "toy")
    return tmp_path / "toy"


class TestThereAndBack:
    def test_all_but_the_samples_comes_back(self, folder, measurements):
        for found, written in zip(load_measurements(folder), measurements, strict=True):
            runs = tuple(
                replace(run, latency_ms=float(np.float32(run.latency_ms)))
                for run in written.kernels
            )
            assert replace(found, samples=written.samples) == replace(written, kernels=runs)

    def test_few_samples_are_kept_as_they_are(self, folder, measurements):
        found, written = load_measurements(folder)[1].samples, measurements[1].samples
        for field in fields(LatencySamples):
            one, other = getattr(found, field.name), getattr(written, field.name)
            assert one.dtype == other.dtype and np.array_equal(one, other)

    @pytest.mark.parametrize("disturbed", [0.0, 0.3, 0.9, 0.997, 1.0])
    def test_fewer_samples_say_the_same(self, tmp_path, make_measurement, noisy_samples, disturbed):
        written = noisy_samples(5000, disturbed=disturbed, seed=1)
        write_measurements([make_measurement(samples=written)], tmp_path)
        found = load_measurements(tmp_path)[0].samples
        assert found.latency_ms == pytest.approx(written.latency_ms, rel=0.002)
        assert found.basis is written.basis
        assert (found.warning is None) == (written.warning is None)
        if disturbed < 0.5:
            assert written.basis is Basis.UNDISTURBED
            assert len(found.wall_ms) <= 300
            assert found.contended_share == pytest.approx(written.contended_share, abs=0.1)

    def test_kept_samples_are_real_ones_from_everywhere_in_every_chunk(self, folder, measurements):
        found, written = load_measurements(folder)[0].samples, measurements[0].samples
        nearest = np.abs(found.wall_ms[:, None] / written.wall_ms - 1).min(axis=1)
        assert nearest.max() <= 0.0005
        assert (np.diff(found.chunk) >= 0).all()
        for i in np.unique(written.chunk):
            one, other = (s.wall_ms[s.chunk == i] for s in (found, written))
            assert np.median(one) == pytest.approx(np.median(other), rel=0.002)

    def test_time_that_says_nothing_stays_unknown(self, tmp_path, make_measurement, make_samples):
        samples = make_samples(np.linspace(1, 1.01, 700), cpu_ms=np.full(700, np.nan))
        write_measurements([make_measurement(samples=samples)], tmp_path)
        assert np.isnan(load_measurements(tmp_path)[0].samples.cpu_ms).all()

    def test_300_networks_of_60_kernels_are_less_than_a_megabyte(
        self, tmp_path, make_measurement, noisy_samples
    ):
        rng = np.random.default_rng(0)

        def kernel(i):
            y = Tensor("float", (1, i, 6, 6))
            return Kernel("Conv", CONV.attributes, (X, Tensor("float", (i, 8, 3, 3))), (y,))

        distinct = [kernel(i) for i in range(1, 2000)]
        measured = [
            make_measurement(
                f"net-{i}",
                samples=noisy_samples(3000, seed=i),
                kernels=tuple(
                    KernelLatency(f"/blocks.{j}/Conv_{j}", distinct[k], rng.uniform(0.01, 1), 99)
                    for j, k in enumerate(rng.integers(len(distinct), size=60))
                ),
            )
            for i in range(30)
        ]
        sizes = write_measurements(measured, tmp_path)
        assert 10 * sum(sizes.values()) < 1_000_000
        assert sizes == {path.name: path.stat().st_size for path in tmp_path.iterdir()}

    def test_writing_again_replaces(self, folder, make_measurement):
        write_measurements([make_measurement("new")], folder)
        assert [m.name for m in load_measurements(folder)] == ["new"]

    def test_nothing_and_a_place_that_cannot_be_written(self, tmp_path, measurements):
        with pytest.raises(StoreError, match="no measurements to write"):
            write_measurements([], tmp_path)
        (tmp_path / "file").write_text("")
        with pytest.raises(StoreError, match="cannot write the tables"):
            write_measurements(measurements, tmp_path / "file")


class TestIsolatedKernels:
    @pytest.fixture
    def isolated(self, target):
        """Two kernels of one target, one of them of another target as well."""
        relu = Kernel("Relu", (), (X,), (X,))
        one = {CONV: KernelLatency("Conv", CONV, 0.5, 9), relu: KernelLatency("Relu", relu, 2.0, 3)}
        two = {CONV: KernelLatency("Conv", CONV, 0.25, 8)}
        return {target: one, replace(target, threads=2): two}

    def test_they_come_back_by_target(self, tmp_path, measurements, isolated):
        write_measurements(measurements, tmp_path, isolated=isolated)
        for target, written in isolated.items():
            assert load_isolated(tmp_path, target) == written
        assert load_isolated(tmp_path, replace(next(iter(isolated)), batch=9)) == {}
        with pytest.raises(StoreError, match="of several targets, .* 1 thread, .*; .* 2 threads"):
            load_isolated(tmp_path)

    def test_the_only_target_needs_no_name(self, tmp_path, measurements, isolated, target):
        write_measurements(measurements, tmp_path, isolated={target: isolated[target]})
        assert load_isolated(tmp_path) == isolated[target]
        write_measurements(measurements, tmp_path)
        assert load_isolated(tmp_path) == {}

    def test_a_folder_and_a_database_give_the_same(self, tmp_path, measurements, isolated, device):
        write_measurements(measurements, tmp_path / "toy", isolated=isolated)
        frame = read_measurements(tmp_path / "toy", kind="isolated")
        assert list(frame.columns) == list(ISOLATED_COLUMNS)
        assert list(frame["threads"]) == [1, 1, 2] and list(frame["latency_ms"]) == [0.5, 2, 0.25]
        with MeasurementStore(tmp_path / "m.db") as store:
            for measurement in measurements:
                store.add(measurement, device)
            for target, runs in isolated.items():
                store.add_isolated(target, list(runs.values()))
        again = read_measurements(tmp_path / "m.db", kind="isolated")
        columns = list(frame.columns)
        pd.testing.assert_frame_equal(
            *(f.sort_values(columns, ignore_index=True) for f in (frame, again))
        )

    def test_a_damaged_table(self, tmp_path, measurements, isolated, target):
        write_measurements(measurements, tmp_path, isolated={target: isolated[target]})
        path = tmp_path / "isolated.parquet"
        table = pq.read_table(path)
        at = table.column_names.index("inputs")
        pq.write_table(table.set_column(at, "inputs", pa.array(["{"] * len(table))), path)
        with pytest.raises(StoreError, match=rf"{path} is damaged"):
            load_isolated(tmp_path)


class TestReading:
    def test_networks_have_the_figures_of_all_runs(self, folder, measurements):
        frame = read_measurements(folder)
        assert list(frame.columns) == list(NETWORK_COLUMNS)
        row, written = frame.iloc[0], measurements[0]
        assert row["latency_ms"] == written.latency_ms
        assert row["p90_ms"] == written.samples.percentile_ms(90)
        assert row["n_samples"] == 3000 and row["n_kernels"] == 2
        assert row["family"] == "größe ×" and row["basis"] == "undisturbed runs"
        assert list(frame["threads"]) == [1, 2, 1]

    def test_what_was_not_measured_is_missing_and_0_is_0(self, folder):
        frame = read_measurements(str(folder))
        assert list(frame["peak_memory_bytes"].isna()) == [False, True, True]
        assert frame["computed_peak_memory_bytes"][2] == 0
        assert list(frame["energy_mj"].notna()) == [False, True, False]
        assert pd.isna(frame["family"][1])

    @pytest.mark.parametrize(
        ("kind", "columns"),
        [
            ("networks", NETWORK_COLUMNS), ("kernels", KERNEL_COLUMNS),
            ("isolated", ISOLATED_COLUMNS),
        ],
    )  # fmt: skip
    def test_a_database_without_networks_has_no_rows(self, tmp_path, kind, columns):
        MeasurementStore(tmp_path / "m.db").close()
        frame = read_measurements(tmp_path / "m.db", kind=kind)
        assert (list(frame.columns), len(frame)) == (list(columns), 0)

    def test_kernels_join_their_networks(self, folder):
        frame = read_measurements(folder, kind="kernels").merge(
            read_measurements(folder), on="network", suffixes=("", "_network")
        )
        assert list(frame["name_network"]) == ["one", "one", "two", "two"]
        first = frame.iloc[0]
        assert (first["macs"], first["bytes"]) == (macs(CONV), CONV.n_bytes)
        assert first["attributes"] == '{"activation":"Relu","kernel_shape":[3,3]}'
        assert first["inputs"] == '[["float",[1,8,6,6]],["float",[4,8,3,3]]]'

    @pytest.mark.parametrize("kind", ["networks", "kernels"])
    def test_a_file_and_a_database_give_the_same(
        self, folder, tmp_path, measurements, device, kind
    ):
        frame = read_measurements(folder, kind=kind)
        pd.testing.assert_frame_equal(read_measurements(folder / f"{kind}.parquet"), frame)
        with MeasurementStore(tmp_path / "m.db") as store:
            for measurement in measurements:
                store.add(measurement, device)
        pd.testing.assert_frame_equal(read_measurements(tmp_path / "m.db", kind=kind), frame)

    def test_the_package_has_it_without_loading_pandas(self, folder):
        frame = profilers.read_measurements(folder, kind="kernels")
        pd.testing.assert_frame_equal(frame, read_measurements(folder, kind="kernels"))
        code = (
            "import sys; from profilers import read_measurements; "
            "assert not {'pandas', 'pyarrow', 'onnx', 'numpy'} & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


class TestRefusedFiles:
    @pytest.mark.parametrize("read", [read_measurements, load_measurements])
    @pytest.mark.parametrize("data", [b"", b"PAR1 but no more", b"name,latency_ms\n"])
    def test_a_damaged_table(self, folder, read, data):
        (folder / "networks.parquet").write_bytes(data)
        with pytest.raises(StoreError, match=rf"cannot read {folder}/networks\.parquet as a table"):
            read(folder)

    def test_a_folder_without_tables_and_nothing_at_all(self, tmp_path):
        with pytest.raises(StoreError, match=r"cannot read .*networks\.parquet"):
            read_measurements(tmp_path)
        with pytest.raises(StoreError, match=r"nowhere\.db: No such file"):
            read_measurements(tmp_path / "nowhere.db")
        assert not list(tmp_path.iterdir())

    def test_a_strangers_table_and_a_newer_one(self, tmp_path):
        path = tmp_path / "networks.parquet"
        pq.write_table(pa.table({"latency_ms": [1.0]}), path)
        with pytest.raises(StoreError, match=r"no table of measurements .*it says nothing"):
            read_measurements(path)
        newer = {"hwnas_table": "networks", "hwnas_format": "99"}
        pq.write_table(pa.table({"latency_ms": [1.0]}).replace_schema_metadata(newer), path)
        with pytest.raises(StoreError, match=r"it says 99\).*update hwnas if it is newer"):
            read_measurements(path)

    def test_a_table_without_a_column(self, folder):
        path = folder / "kernels.parquet"
        pq.write_table(pq.read_table(path).drop_columns("kind"), path)
        with pytest.raises(StoreError, match="no column 'kind'"):
            load_measurements(folder)

    def test_another_kind_than_the_file_holds(self, folder):
        with pytest.raises(StoreError, match="holds networks, not kernels"):
            read_measurements(folder / "networks.parquet", kind="kernels")
        with pytest.raises(
            ValueError, match="kind must be 'networks', .* or 'isolated', got 'nets'"
        ):
            read_measurements(folder, kind="nets")

    @pytest.mark.parametrize(("name", "kind"), [("tags", "networks"), ("inputs", "kernels")])
    def test_text_that_is_no_json(self, folder, name, kind):
        path = folder / f"{kind}.parquet"
        table = pq.read_table(path)
        at = table.column_names.index(name)
        pq.write_table(table.set_column(at, name, pa.array(["{"] * len(table))), path)
        with pytest.raises(StoreError, match=f"the tables in {folder} do not fit each other"):
            load_measurements(folder)

    def test_samples_of_other_networks(self, folder, tmp_path, make_measurement):
        write_measurements([make_measurement()], tmp_path / "other")
        (tmp_path / "other" / "samples.parquet").replace(folder / "samples.parquet")
        with pytest.raises(StoreError, match="do not fit each other"):
            load_measurements(folder)


class TestReadme:
    @pytest.fixture
    def readme(self, folder, device):
        when = (datetime(2026, 1, 2, 23, tzinfo=UTC), datetime(2026, 1, 3, 1, tzinfo=UTC))
        first_s, last_s = (moment.timestamp() for moment in when)
        write_readme(folder, device.to_dict(), "Measured at night.", when=(first_s, last_s))
        return (folder / "README.md").read_text(encoding="utf-8")

    def test_it_says_how_when_and_on_what(self, readme, device):
        assert readme.startswith("# toy\n\nMeasured at night.\n")
        for text in (
            "- measured: 2026-01-02 to 2026-01-03\n",
            "Toy CPU",
            device.fingerprint,
            "L1 32,768",
            "networks: 3",
        ):
            assert text in readme
        assert "governor: performance" in readme and "gpus" not in readme
        assert "threads 2" in readme and "größe × 1" in readme

    def test_one_day_is_told_once_and_an_unknown_one_is_not_made_up(self, folder, device):
        moment_s = datetime(2026, 1, 2, tzinfo=UTC).timestamp()
        for when, text in (((moment_s, moment_s + 9), "2026-01-02"), (None, "not told when")):
            write_readme(folder, device.to_dict(), "", when=when)
            assert f"- measured: {text}\n" in (folder / "README.md").read_text(encoding="utf-8")

    def test_it_describes_every_column_once(self, readme):
        rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.+) \|$", readme, flags=re.MULTILINE)
        assert [name for name, _, _ in rows] == [
            name for _, columns in TABLES.values() for name in columns
        ]
        assert all(doc.endswith(".") for _, _, doc in rows)

    def test_its_example_runs(self, readme, folder, monkeypatch):
        monkeypatch.chdir(folder.parent)
        code = re.search(r"```python\n(.+?)```", readme, flags=re.DOTALL)[1]
        names = {}
        exec(code.replace("data/", ""), names)
        assert list(names["kernels"].columns) == list(KERNEL_COLUMNS)

    def test_no_tables_no_readme(self, tmp_path, device):
        with pytest.raises(StoreError, match="cannot write the README"):
            write_readme(tmp_path, device.to_dict(), "")


def test_every_column_says_its_unit():
    for name, column in {**NETWORK_COLUMNS, **KERNEL_COLUMNS}.items():
        if name.endswith("_ms"):
            assert "milliseconds" in column.doc, name
        if name.endswith("_bytes"):
            assert column.type == pa.int64(), name
