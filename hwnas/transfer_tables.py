"""Transfer over a table of latencies: devices to learn from, and what was measured on a new one."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hwnas.bench.transfer import LATENCY_SUFFIX, LatencyTable, read_latency_table
from hwnas.errors import DataError
from predictors.transfer import MIN_TRAINING_ROWS, DeviceSample, TransferPredictor
from profilers.limited import TEXT_BYTES, read_bytes

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

ROW_COLUMN, LATENCY_COLUMN = "row", "latency_ms"


@dataclass(frozen=True)
class Measured:
    """What a new device took for some rows, `(m,)` each."""

    rows: IntArray
    latency_ms: FloatArray


NOTHING = Measured(np.zeros(0, np.int64), np.zeros(0))


def fit_on_table(
    path: Path,
    devices: Sequence[str],
    *,
    n_measured: int,
    n_rows: int,
    level: float,
    seed: int,
) -> tuple[LatencyTable, TransferPredictor]:
    """Learn from devices of a table, each at the rows that it was measured at.

    Args:
        path: Parquet file: columns `op*`, and `<device>_ms`, which may be empty in rows.
        devices: Which to learn from, with or without `_ms`.
        n_measured: How many measurements of a new device intervals are made for.
        n_rows: Rows used of each device at most, drawn by the seed: time grows with its cube.
        level: Share of rows that intervals shall contain.
        seed: Of the draw.

    Raises:
        DataError: The table cannot be used.
        PredictorError: A device has too few rows.
    """
    names = [name.removesuffix(LATENCY_SUFFIX) for name in devices]
    table = read_latency_table(path, names)
    samples = []
    for name in dict.fromkeys(names):
        latency_ms = table.latency_ms[name]
        known = np.flatnonzero(np.isfinite(latency_ms))
        # Devices that are known at the same rows share work: each draws with the same seed.
        rng = np.random.default_rng(seed)
        rows = np.sort(rng.choice(known, min(max(n_rows, MIN_TRAINING_ROWS), len(known)), False))
        samples.append(DeviceSample(name, rows, latency_ms[rows]))
    predictor = TransferPredictor(table.features, n_measured=n_measured, level=level, seed=seed)
    return table, predictor.fit(samples)


def read_measured(source: str, table: Path | None, n_rows: int) -> Measured:
    """What was measured on a new device.

    Args:
        source: A CSV file with the columns `row` (from 0) and `latency_ms`, or the name of a column
            of the table, with or without `_ms`, that is empty where nothing was measured.
        table: The table, if there is one.
        n_rows: Of the table.

    Raises:
        DataError: It is neither, or holds what is no measurement.
    """
    if not Path(source).is_file():
        if table is None:
            raise DataError(
                f"cannot read {source}: a CSV file with the columns {ROW_COLUMN} and "
                f"{LATENCY_COLUMN} is needed, or --table and the name of a column of it"
            )
        name = source.removesuffix(LATENCY_SUFFIX)
        found = read_latency_table(table, [name]).latency_ms[name]
        rows = np.flatnonzero(np.isfinite(found))
        return Measured(rows, found[rows])
    try:
        frame = pd.read_csv(io.BytesIO(read_bytes(Path(source), TEXT_BYTES)))
    except (OSError, ValueError) as error:  # of pandas, too: its errors derive from these
        raise DataError(f"cannot read {source} as CSV: {error}") from None
    columns = [str(column) for column in frame.columns]
    for name in (ROW_COLUMN, LATENCY_COLUMN):
        if name not in columns:
            raise DataError(f"{source} has no column {name!r}; it has {', '.join(columns)}")
    frame = frame.dropna(subset=[LATENCY_COLUMN])  # rows that are still to be measured
    numbers, latency = frame[ROW_COLUMN], frame[LATENCY_COLUMN]
    if not pd.api.types.is_numeric_dtype(numbers) or not pd.api.types.is_numeric_dtype(latency):
        raise DataError(f"{source} holds text where numbers are needed")
    rows = numbers.to_numpy(np.float64)
    wrong = ~((rows >= 0) & (rows < n_rows) & (rows == np.round(rows)))
    if wrong.any():
        raise DataError(
            f"{source} names row {rows[wrong][0]:g}, but rows are whole numbers from 0 to "
            f"{n_rows - 1}"
        )
    return Measured(rows.astype(np.int64), latency.to_numpy(np.float64))
