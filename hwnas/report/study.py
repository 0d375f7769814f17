"""The trials of a search that wrote no table yet, read from its record; a search may be running."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from hwnas.errors import RunFolderError

STUDY = "study.db"
_QUERY = "SELECT trial_id, key, value_json FROM trial_user_attributes WHERE key IN ({})"
_KEYS = ("proposal", "genotype", "share", "predicted", "outcome")


def read_study(folder: Path) -> list[dict[str, Any]]:
    """Finished trials in the record `study.db` of a run folder, with the columns of `trials.csv`.

    The attributes that `hwnas/record.py` writes are read as they are, without the space that they
    are of. Nothing is written; a record that is not there, or was not begun, has no trials.

    Raises:
        RunFolderError: The record is damaged.
    """
    path = folder / STUDY
    if not path.is_file() or path.stat().st_size == 0:
        return []
    trials: dict[int, dict[str, Any]] = {}
    try:
        uri = path.absolute().as_uri() + "?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=5.0)) as record:
            tables = record.execute("SELECT name FROM sqlite_master").fetchall()
            if ("trial_user_attributes",) not in tables:
                return []
            query = _QUERY.format(", ".join("?" * len(_KEYS)))
            for trial, key, text in record.execute(query, _KEYS):
                trials.setdefault(trial, {})[key] = json.loads(text)
        ended = [trial for trial in trials.values() if "outcome" in trial]
        ended.sort(key=lambda trial: int(trial["outcome"]["told"]))
        # By proposal: one that was tried again counts as it ended last.
        return list({trial["proposal"]: _row(trial) for trial in ended}.values())
    except (sqlite3.Error, KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunFolderError(
            f"cannot read the record {path}: {error}. It may be damaged"
        ) from error


def _row(trial: dict[str, Any]) -> dict[str, Any]:
    outcome, predicted = trial["outcome"], trial.get("predicted", {})
    result = outcome.get("result", {})
    objectives = outcome["objectives"]
    accuracy = None if objectives is None else 1 - objectives[0]
    return {
        "number": trial["proposal"],
        "state": "failed" if objectives is None else "complete",
        "share": trial.get("share", 1.0),
        "genotype": json.dumps(trial["genotype"]),
        "val_accuracy": result.get("val_accuracy", accuracy),
        "predicted_latency_ms": predicted.get("latency_ms"),
        "predicted_low_ms": predicted.get("low_ms"),
        "predicted_high_ms": predicted.get("high_ms"),
        "params": predicted.get("params"),
        "macs": predicted.get("macs"),
        "train_seconds": result.get("train_seconds"),
        "failure": outcome["failure"] or "",
    }
