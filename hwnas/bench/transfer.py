"""How well a few measurements on a new device predict all others, over tables of latencies.

A table has one row per architecture, columns that start with `op` and say what was chosen, columns
`<device>_ms`, and perhaps `macs` and `params`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hwnas.errors import ConfigError, DataError, unknown_name
from hwnas.number_text import number
from hwnas.progress import Progress
from predictors.architectures import ArchitectureFeatures
from predictors.metrics import accuracy
from predictors.transfer import (
    DEFAULT_LEVEL,
    MIN_ROWS,
    MIN_TRAINING_ROWS,
    DeviceSample,
    TransferPredictor,
)
from profilers.limited import TABLE_BYTES
from profilers.parquet import read_parquet

FloatArray = NDArray[np.float64]

CHOICE_PREFIX, LATENCY_SUFFIX = "op", "_ms"
GIVEN = ("macs", "params")
MAX_SAMPLES = 100
MEAN_DEVICE = "mean of the training devices"

# Spearman as published in the README of HELP (Lee et al., NeurIPS 2021), table 3: NAS-Bench-201.
PUBLISHED_ROWS = 15_625
PUBLISHED = {
    "titan_rtx_256": {"HELP, 10 samples": 0.987, "BRP-NAS, 900 samples": 0.814},
    "gold_6226": {"HELP, 10 samples": 0.989, "BRP-NAS, 900 samples": 0.796},
    "fpga": {"HELP, 10 samples": 0.985, "BRP-NAS, 900 samples": 0.801},
}


@dataclass(frozen=True)
class LatencyTable:
    """Architectures and what they take.

    Attributes:
        features: What the choices say.
        given: `macs` and `params`, as far as the table has them of all rows, `(n,)` each.
        latency_ms: By device, without `_ms`, `(n,)` each, > 0; NaN where it was not measured.
        choices: By column, the options as text, n each.
    """

    features: ArchitectureFeatures
    given: dict[str, FloatArray]
    latency_ms: dict[str, FloatArray]
    choices: dict[str, list[str]]


def read_latency_table(
    path: Path, devices: Iterable[str], *, is_complete: bool = False
) -> LatencyTable:
    """Read what is needed of those devices.

    Counts that are no numbers, or not there of every row, are left out.

    Args:
        path: Parquet file.
        devices: Their names, without `_ms`.
        is_complete: Leave out rows in which one of the devices was not measured.

    Raises:
        DataError: The file cannot be read, has no column of choices or not that device, or a
            latency is not positive.
        PredictorError: A column of choices describes whole architectures.
    """
    try:
        frame = read_parquet(path, TABLE_BYTES).to_pandas(ignore_metadata=True)
    except Exception as error:  # of Arrow and pandas: they share no other base
        raise DataError(f"cannot read {path} as Parquet: {error}") from None
    # Latencies come first: a device may be named so that its column starts like a choice.
    names = [str(name) for name in frame.columns]
    measured = [name for name in names if name.endswith(LATENCY_SUFFIX)]
    choices = [name for name in names if name.startswith(CHOICE_PREFIX) and name not in measured]
    if not choices:
        raise DataError(
            f"{path} has no column that starts with {CHOICE_PREFIX!r} and describes the "
            f"architectures; it has {', '.join(names) or 'none'}"
        )
    known = [name.removesuffix(LATENCY_SUFFIX) for name in measured]
    latency_ms = {}
    for device in devices:
        if device not in known:
            raise DataError(unknown_name("device", device, known))
        latency_ms[device] = _positive(frame[device + LATENCY_SUFFIX], device)
    if is_complete:
        whole = np.all([np.isfinite(each) for each in latency_ms.values()], axis=0)
        frame = frame[whole]
        latency_ms = {device: each[whole] for device, each in latency_ms.items()}
    given = {name: frame[name].to_numpy(np.float64) for name in GIVEN if _is_known(frame, name)}
    features = ArchitectureFeatures.from_columns({name: frame[name] for name in choices}, given)
    described = {name: [str(option) for option in frame[name]] for name in choices}
    return LatencyTable(features, given, latency_ms, described)


def _is_known(frame: pd.DataFrame, name: str) -> bool:
    if name not in frame.columns or not pd.api.types.is_numeric_dtype(frame[name]):
        return False
    return bool(np.isfinite(frame[name].to_numpy(np.float64, na_value=np.nan)).all())


def _positive(column: pd.Series[Any], device: str) -> FloatArray:
    if not pd.api.types.is_numeric_dtype(column):
        raise DataError(f"{device}{LATENCY_SUFFIX} holds {column.dtype}, numbers are needed")
    values = column.to_numpy(np.float64, na_value=np.nan)
    wrong = ~(np.isfinite(values) & (values > 0)) & ~np.isnan(values)
    if wrong.any():
        raise DataError(
            f"{device}{LATENCY_SUFFIX} has {wrong.sum()} of {len(values)} rows that are not > 0. "
            f"Remove those rows, or leave the device out."
        )
    return values


def bench_transfer(
    path: Path,
    *,
    train: Sequence[str],
    test: Sequence[str],
    n_samples: int,
    n_train_samples: int,
    n_seeds: int,
    level: float = DEFAULT_LEVEL,
    progress: Progress,
) -> dict[str, Any]:
    """Transfer from the `train` devices to each `test` device, once per seed 0, 1, …

    A seed draws the rows that the training devices are known at, the same for all of them; from
    those the predictor chooses what to measure on a test device. All other rows are scored. Rows
    that one of the devices was not measured at are left out.

    Args:
        path: Parquet file.
        train: Devices to learn from, with or without `_ms`.
        test: Devices to transfer to.
        n_samples: Measurements of a test device.
        n_train_samples: Rows known of every training device, at most; a smaller table is used
            whole.
        n_seeds: Repetitions, at least one.
        level: Share of rows that intervals shall contain.
        progress: Where to say how far it is.

    Raises:
        ConfigError: A number is out of range, or a device is named twice.
        DataError: As `read_latency_table` says.
    """
    train, test = ([name.removesuffix(LATENCY_SUFFIX) for name in names] for names in (train, test))
    _check_devices(train, test)
    table = read_latency_table(path, [*train, *test], is_complete=True)
    n_rows = len(table.features)
    if n_rows < MIN_TRAINING_ROWS:
        raise DataError(
            f"{path}: at least {MIN_TRAINING_ROWS} rows that all of {', '.join([*train, *test])} "
            f"were measured at are needed, got {n_rows}"
        )
    if not MIN_ROWS <= n_samples <= min(MAX_SAMPLES, n_rows - 2):
        raise ConfigError(
            f"between {MIN_ROWS} and {min(MAX_SAMPLES, n_rows - 2)} samples of a test device can "
            f"be used of this table's {n_rows} rows, got {n_samples}"
        )
    if n_train_samples < MIN_TRAINING_ROWS or n_seeds < 1:
        raise ConfigError(
            f"at least {MIN_TRAINING_ROWS} rows of the training devices and one seed are needed, "
            f"got {n_train_samples} rows and {n_seeds} seeds"
        )
    n_train_samples = min(n_train_samples, n_rows)
    start = time.perf_counter()
    runs: list[dict[str, Any]] = []
    scales = []
    with progress.task("transfer", n_seeds) as task:
        for seed in range(n_seeds):
            rng = np.random.default_rng(seed)
            rows = np.sort(rng.choice(n_rows, n_train_samples, replace=False))
            predictor = TransferPredictor(
                table.features, n_measured=n_samples, level=level, seed=seed
            ).fit([DeviceSample(name, rows, table.latency_ms[name][rows]) for name in train])
            scales.append(predictor.scale_)
            for device in test:
                runs.append({"seed": seed, "device": device, **_run(
                    predictor, table, table.latency_ms[device], n_samples)})  # fmt: skip
            task.update(seed + 1, note=f"Spearman {number(runs[-1]['spearman'])} on {test[-1]}")
    devices = {
        device: _summary([run for run in runs if run["device"] == device]) for device in test
    }
    for device, summary in devices.items():
        if n_rows == PUBLISHED_ROWS and device in PUBLISHED:
            summary["published_spearman"] = PUBLISHED[device]
    return {
        "table": path.name,
        "n_rows": n_rows,
        "n_choice_columns": table.features.n_columns,
        "train": train,
        "n_train_samples": n_train_samples,
        "n_samples": n_samples,
        "n_seeds": n_seeds,
        "level": level,
        "scales": {scale: scales.count(scale) for scale in sorted(set(scales))},
        "seconds": time.perf_counter() - start,
        "spearman": _mean([summary["spearman"] for summary in devices.values()]),
        "mape": _mean([summary["mape"] for summary in devices.values()]),
        "devices": devices,
        "runs": runs,
    }


def _check_devices(train: Sequence[str], test: Sequence[str]) -> None:
    if not train or not test:
        raise ConfigError(
            f"at least one training and one test device are needed, got {len(train)} and "
            f"{len(test)}"
        )
    named = [*train, *test]
    twice = sorted({name for name in named if named.count(name) > 1})
    if twice:
        raise ConfigError(
            f"{', '.join(twice)}: a device is named once, either to learn from or to test on"
        )


def _run(
    predictor: TransferPredictor, table: LatencyTable, measured_ms: FloatArray, n_samples: int
) -> dict[str, Any]:
    chosen = predictor.choose(n_samples)
    prediction = predictor.predict(chosen, measured_ms[chosen])
    rest = np.ones(len(measured_ms), dtype=bool)
    rest[chosen] = False
    found = accuracy(prediction.latency_ms[rest], measured_ms[rest])
    low, high = prediction.low_ms[rest], prediction.high_ms[rest]
    inside = (low <= measured_ms[rest]) & (measured_ms[rest] <= high)
    baselines = {MEAN_DEVICE: predictor.predict_unmeasured(), **table.given}
    return {
        "spearman": _number(found.spearman),
        "mape": found.mape,
        "within_10": found.within_10,
        "coverage": float(inside.mean()),
        "half_width": float(np.mean((high - low) / 2 / prediction.latency_ms[rest])),
        "baselines": {
            name: _baseline(score, measured_ms, chosen, rest) for name, score in baselines.items()
        },
        "rows": [int(row) for row in chosen],
    }


def _baseline(
    score: FloatArray, measured_ms: FloatArray, chosen: NDArray[np.int64], rest: NDArray[np.bool_]
) -> dict[str, float | None]:
    """A score as it is (0 samples), and its MAPE as a line through the same samples."""
    deg = 1 if np.ptp(score[chosen]) > 0 else 0  # a score that does not vary says nothing
    line = np.polynomial.Polynomial.fit(score[chosen], measured_ms[chosen], deg=deg)
    lowest = measured_ms[chosen].min() / 2  # a line may go below zero, a latency does not
    predicted = np.maximum(line(score[rest]), lowest)
    found = accuracy(predicted, measured_ms[rest])
    return {
        "spearman": _number(accuracy(score[rest], measured_ms[rest]).spearman),
        "mape_with_samples": found.mape,
    }


def _summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds of one device; of Spearman the worst and the spread, too."""
    keys = ("spearman", "mape", "within_10", "coverage", "half_width")
    summary: dict[str, Any] = {key: _mean([run[key] for run in runs]) for key in keys}
    spearman = [run["spearman"] for run in runs if run["spearman"] is not None]
    summary["spearman_min"] = min(spearman, default=None)
    summary["spearman_std"] = float(np.std(spearman)) if spearman else None
    summary["baselines"] = {
        name: {key: _mean([run["baselines"][name][key] for run in runs]) for key in baseline}
        for name, baseline in runs[0]["baselines"].items()
    }
    return summary


def _number(value: float) -> float | None:
    """None where nothing can be ranked: nan is no JSON."""
    return None if math.isnan(value) else value


def _mean(values: Sequence[float | None]) -> float | None:
    """Of what is known."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
