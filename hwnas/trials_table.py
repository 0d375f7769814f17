"""`trials.csv`: the trials of a search as a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from hwnas.errors import RunFolderError
from hwnas.strategies.base import Trial

__all__ = ["TRIALS", "write_trials"]

TRIALS = "trials.csv"
_COLUMNS = [
    "number", "state", "share", "genotype", "val_accuracy", "predicted_latency_ms",
    "predicted_low_ms", "predicted_high_ms", "predicted_peak_memory_bytes",
    "predicted_energy_mj", "params", "macs", "train_seconds", "failure",
]  # fmt: skip


def write_trials(
    folder: Path, trials: Sequence[Trial], results: Mapping[int, Mapping[str, Any]]
) -> None:
    """Write the table, whole or not at all.

    Args:
        folder: Of the run.
        trials: Those that ended.
        results: By number of the trial, as `Record.results` gives them.

    Raises:
        RunFolderError: It cannot be written.
    """
    rows = [
        _row(trial, results.get(trial.number, {}))
        for trial in sorted(trials, key=lambda trial: trial.number)
    ]
    path, part = folder / TRIALS, folder / f"{TRIALS}.part"
    try:
        pd.DataFrame(rows, columns=_COLUMNS).to_csv(part, index=False)
        part.replace(path)
    except OSError as error:
        raise RunFolderError(f"cannot write {path}: {error.strerror or error}") from None


def _row(trial: Trial, result: Mapping[str, Any]) -> dict[str, object]:
    predicted = result.get("predicted", {})
    accuracy = None if trial.objectives is None else 1 - trial.objectives[0]
    return {
        "number": trial.number,
        "state": "failed" if trial.objectives is None else "complete",
        "share": trial.share,
        "genotype": json.dumps(trial.genotype),
        "val_accuracy": result.get("val_accuracy", accuracy),
        "predicted_latency_ms": predicted.get("latency_ms"),
        "predicted_low_ms": predicted.get("low_ms"),
        "predicted_high_ms": predicted.get("high_ms"),
        "predicted_peak_memory_bytes": predicted.get("peak_memory_bytes"),
        "predicted_energy_mj": predicted.get("energy_mj"),
        "params": predicted.get("params"),
        "macs": predicted.get("macs"),
        "train_seconds": result.get("train_seconds"),
        "failure": trial.failure,
    }
