"""Files that hold more than is read of such files, or announce something else than they hold."""

import errno
import gzip
import tracemalloc
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from profilers.limited import check_size, read_bytes, read_text
from profilers.parquet import read_parquet

LIMIT = 2**20


@contextmanager
def too_large():
    with pytest.raises(OSError, match="holds more than the 1 MiB that are read") as raised:
        yield
    assert raised.value.errno == errno.EFBIG


def test_a_file_of_the_limit_is_read_and_one_byte_more_is_refused(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"x" * LIMIT)
    check_size(path, LIMIT)
    assert len(read_bytes(path, LIMIT)) == LIMIT == len(read_text(path, LIMIT))
    path.write_bytes(b"x" * (LIMIT + 1))
    for read in (read_bytes, read_text, check_size):
        with too_large():
            read(path, LIMIT)


def test_a_gzipped_file_is_read_no_further_than_the_limit(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"x" * LIMIT))
    assert read_bytes(path, LIMIT) == b"x" * LIMIT
    path.write_bytes(gzip.compress(b"x" * (LIMIT + 1)))
    with too_large():
        read_bytes(path, LIMIT)


def test_a_small_file_takes_little_memory_whatever_the_limit(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    tracemalloc.start()
    assert read_bytes(tmp_path / "a", 2**40) == b"x"
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


@pytest.mark.parametrize("damage", ["no gzip", "cut short", "holed"])
def test_a_damaged_gzipped_file_cannot_be_read(damage, tmp_path):
    packed = gzip.compress(bytes(range(256)) * 100)
    content = {
        "no gzip": b"no gzip",
        "cut short": packed[:-9],
        "holed": packed[:40] + bytes(20) + packed[60:],
    }[damage]
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(OSError, match="damaged|gzipped"):
        read_bytes(tmp_path / "a.gz", LIMIT)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="of Unix")
def test_a_device_without_end_is_refused():
    with too_large():
        read_bytes(Path("/dev/zero"), LIMIT)


class TestParquet:
    def test_a_table_is_what_pandas_reads(self, tmp_path):
        frame = pd.DataFrame(
            {"name": ["a", "b", None], "n": [1, 2, 3], "x": [0.5, np.nan, 2.0], "b": [True] * 3},
            index=[3, 4, 5],
        )
        frame["kind"] = pd.Categorical(["u", "v", "u"])
        path = tmp_path / "a.parquet"
        frame.to_parquet(path)
        read = read_parquet(path, LIMIT)
        assert read.schema.equals(pq.read_schema(path), check_metadata=True)
        pd.testing.assert_frame_equal(read.to_pandas(), pd.read_parquet(path))

    def test_nested_columns_are_left_out(self, tmp_path):
        pq.write_table(pa.table({"n": [1, 2], "curve": [[0.1], [0.2, 0.3]]}), tmp_path / "a")
        assert read_parquet(tmp_path / "a", LIMIT).column_names == ["n"]

    @pytest.mark.parametrize("column", [
        pa.nulls(LIMIT), pa.array([True, None] * LIMIT),
        pa.array(["x" * 2**16] * 1000, pa.large_string()),
    ], ids=["nulls", "flags", "large texts"])  # fmt: skip
    def test_what_takes_more_in_pandas_than_in_a_file_is_counted_so(self, column, tmp_path):
        pq.write_table(pa.table({"n": column}), tmp_path / "a", compression="zstd")
        with too_large():
            read_parquet(tmp_path / "a", LIMIT)

    def test_columns_count_together(self, tmp_path):
        columns = {f"c{i}": np.arange(LIMIT // 20) for i in range(3)}
        pq.write_table(pa.table({"c0": columns["c0"], "c1": columns["c1"]}), tmp_path / "a")
        assert read_parquet(tmp_path / "a", LIMIT).num_columns == 2
        pq.write_table(pa.table(columns), tmp_path / "a")
        with too_large():
            read_parquet(tmp_path / "a", LIMIT)

    def test_columns_of_fixed_sizes_are_left_out(self, tmp_path):
        wide = pa.array([bytes(2**13)] * 1000, pa.binary(2**13))
        pq.write_table(pa.table({"n": [1] * 1000, "w": wide}), tmp_path / "a")
        assert read_parquet(tmp_path / "a", LIMIT).column_names == ["n"]

    def test_columns_of_one_name_are_refused(self, tmp_path):
        table = pa.table([[1], [2]], schema=pa.schema([("n", pa.int64()), ("n", pa.int64())]))
        pq.write_table(table, tmp_path / "a")
        with pytest.raises(pa.ArrowInvalid, match="the same name"):
            read_parquet(tmp_path / "a", LIMIT)

    def test_no_rows_are_a_table_too(self, tmp_path):
        pq.write_table(pa.table({"n": pa.array([], pa.int64())}), tmp_path / "a")
        assert read_parquet(tmp_path / "a", LIMIT).num_rows == 0

    @pytest.mark.parametrize("column", [np.zeros(10**6), pa.array(["long text" * 10**4] * 500)])
    def test_what_unpacks_to_more_is_refused(self, column, tmp_path):
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table({"n": column}), path, compression="zstd")
        assert path.stat().st_size < LIMIT / 10
        with too_large():
            read_parquet(path, LIMIT)

    def test_a_text_that_every_row_repeats_is_not_written_out_before_it_is_counted(self, tmp_path):
        text, path = "x" * 2**20, tmp_path / "a.parquet"
        rows = pa.chunked_array([pa.array([text] * 16)] * 128)  # 2 GB, which share 16 MB
        pq.write_table(
            pa.table({"n": rows}), path, compression="zstd",
            dictionary_pagesize_limit=2**30, write_batch_size=2**20,
        )  # fmt: skip
        assert path.stat().st_size < 1000
        pool = pa.default_memory_pool()
        before = pool.max_memory()
        with too_large():
            read_parquet(path, LIMIT)
        assert pool.max_memory() < before + 2**27
