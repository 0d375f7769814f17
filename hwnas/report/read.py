"""Reading what lies in a run folder, however far the run came and however old it is."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hwnas.config import CONFIG, read_config
from hwnas.errors import HwnasError, RunFolderError
from hwnas.front.failed_finalists import read_failures
from hwnas.number_text import as_number
from hwnas.record_place import place_of_run
from hwnas.report.data import RunData
from hwnas.report.explanation import read_explanation
from hwnas.report.study import read_study
from profilers.limited import TEXT_BYTES, read_text

FRONT = "front.csv"
CANDIDATES = "candidates.csv"
TRIALS = "trials.csv"
MAX_COLUMNS = 200
FORMS = "forms.csv"

NETWORK_NUMBERS = (
    "val_accuracy",
    "test_accuracy",
    "latency_ms",
    "predicted_latency_ms",
    "predicted_low_ms",
    "predicted_high_ms",
    "peak_memory_bytes",
    "predicted_peak_memory_bytes",
    "params",
    "macs",
    "parity_max_abs_error",
    "slack",
    "measured_low_ms",
    "measured_high_ms",
    "int8_val_accuracy",
    "int8_test_accuracy",
    "int8_latency_ms",
)
NETWORK_TEXTS = (
    "name", "onnx", "meets_budget", "genotype", "kind", "verdict", "int8_onnx", "int8_verdict",
)  # fmt: skip
FORM_NUMBERS = ("val_accuracy", "test_accuracy", "latency_ms", "fp32_latency_ms", "n_bytes")
FORM_TEXTS = ("name", "form", "onnx", "how", "verdict")
TRIAL_NUMBERS = (
    "number",
    "share",
    "val_accuracy",
    "predicted_latency_ms",
    "predicted_low_ms",
    "predicted_high_ms",
    "params",
    "macs",
    "train_seconds",
)
TRIAL_TEXTS = ("state", "genotype", "failure")


def read_run(folder: Path, *, storage: str | None = None) -> RunData:
    """Read what lies in a run folder, however far the run came.

    Args:
        folder: Of the run.
        storage: URL of the database that its trials are in, where the search was given one: as long
            as the search goes on, they are only there.

    Raises:
        RunFolderError: If it is no run folder, or a file in it cannot be read.
    """
    names = (CONFIG, TRIALS, CANDIDATES, FRONT)
    if not folder.is_dir():
        raise RunFolderError(f"{folder} is no folder; give the folder that a search wrote (--out)")
    missing = tuple(name for name in names if not _has_content(folder / name))
    config = read_config(folder / CONFIG) if _has_content(folder / CONFIG) else {}
    trials, unread = _read_trials(folder, config, storage)
    if len(missing) == len(names) and trials.empty:
        raise RunFolderError(
            f"{folder} is no run folder: it holds none of {', '.join(names)}; "
            f"give the folder that a search wrote (--out)"
        )
    front = _read_csv(folder / FRONT, NETWORK_NUMBERS, NETWORK_TEXTS)
    candidates = _read_csv(folder / CANDIDATES, NETWORK_NUMBERS, NETWORK_TEXTS)
    return RunData(
        folder=folder,
        front=front.sort_values("latency_ms", kind="stable").reset_index(drop=True),
        candidates=candidates,
        trials=trials,
        config=config,
        missing=missing,
        unread=unread,
        forms=_read_forms(folder, candidates if not candidates.empty else front),
        explanation=read_explanation(folder),
        left_out=read_failures(folder),
    )


def _read_forms(folder: Path, networks: pd.DataFrame) -> pd.DataFrame:
    """The table of forms, or what the networks' own table says of their INT8 forms."""
    table = _read_csv(folder / FORMS, FORM_NUMBERS, FORM_TEXTS)
    if not table.empty:
        return table
    has_twin = (networks["int8_verdict"] != "") | networks["int8_latency_ms"].notna()
    rows = networks[has_twin]
    of_twin = [name for name in map(str, rows) if name.startswith("int8_")]
    named = {name.removeprefix("int8_"): rows[name] for name in of_twin}
    own = {"name": rows["name"], "form": "int8", "fp32_latency_ms": rows["latency_ms"]}
    return _typed(pd.DataFrame(own | named), FORM_NUMBERS, FORM_TEXTS, folder)


def _read_trials(
    folder: Path, config: Mapping[str, Any], storage: str | None
) -> tuple[pd.DataFrame, str]:
    """The trials by number: from the table that a search writes when it stops, or from its record.

    A killed search has written no table, or one of an earlier call with fewer trials. The text says
    why the record could not be read; else it is empty.
    """
    table, unread = _read_csv(folder / TRIALS, TRIAL_NUMBERS, TRIAL_TEXTS), ""
    search, run = (config.get(name) for name in ("search", "run"))
    asked = as_number(search.get("trials")) if isinstance(search, Mapping) else None
    if asked is None or len(table) < asked:
        rows: list[dict[str, Any]] = []
        try:
            place = place_of_run(folder, run if isinstance(run, Mapping) else {}, storage)
            rows = read_study(*place)
        except HwnasError as error:
            if table.empty:  # else there is something to show
                raise
            unread = str(error)
        if len(rows) > len(table):
            table = _typed(pd.DataFrame(rows), TRIAL_NUMBERS, TRIAL_TEXTS, folder)
    return table.sort_values("number", kind="stable").reset_index(drop=True), unread


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _read_csv(path: Path, numbers: Iterable[str], texts: Iterable[str]) -> pd.DataFrame:
    """The named columns: numbers as floats (NaN: none), texts as they are ("" : none)."""
    frame = pd.DataFrame()
    try:
        if _has_content(path):
            text = read_text(path, TEXT_BYTES)
            _check_width(text)
            # As text first: pandas would take a network that is called "NA" for a missing value.
            frame = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    except OSError as error:
        raise RunFolderError(f"cannot read {path}: {error.strerror or error}") from None
    except (csv.Error, ValueError) as error:  # the latter of pandas and of UTF-8
        raise RunFolderError(f"{path} is no CSV file: {error}") from error
    return _typed(frame, numbers, texts, path)


def _check_width(text: str) -> None:
    """Make sure that a table has no more columns than one can have: pandas is slow with many.

    Raises:
        ValueError, csv.Error: It has.
    """
    n_columns = len(next(csv.reader(io.StringIO(text)), ()))
    if n_columns > MAX_COLUMNS:
        raise ValueError(f"it has {n_columns:,} columns, and tables of a run a few dozen")


def _typed(
    frame: pd.DataFrame, numbers: Iterable[str], texts: Iterable[str], path: Path
) -> pd.DataFrame:
    """The named columns of a table that was read from `path`."""
    columns: dict[str, Any] = {}
    for name in numbers:
        values = frame[name] if name in frame else pd.Series(np.nan, index=frame.index)
        try:
            column = pd.to_numeric(values.replace("", np.nan)).astype(np.float64)
        except (TypeError, ValueError) as error:
            raise RunFolderError(f"{path}: column {name!r} holds no number: {error}") from error
        columns[name] = column.where(np.isfinite(column))  # a diverged network's "inf" is no score
    for name in texts:
        columns[name] = frame[name] if name in frame else pd.Series("", index=frame.index)
    return pd.DataFrame(columns)
