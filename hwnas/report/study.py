"""The trials of a search that wrote no table yet, read from its record; a search may be running."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import sqlalchemy

from hwnas.errors import RunFolderError
from hwnas.record_place import Place, place_text, read_engine
from profilers.limited import TABLE_BYTES, check_size

_QUERY = """
    SELECT trial_id, key, value_json FROM trial_user_attributes
    JOIN trials USING (trial_id) JOIN studies USING (study_id)
    WHERE study_name = :study AND key IN :keys
"""
_KEYS = ("proposal", "genotype", "share", "predicted", "outcome")


def read_study(place: Place, study: str) -> list[dict[str, Any]]:
    """Finished trials in the record of a run, with the columns of `trials.csv`.

    The attributes that `hwnas/record.py` writes are read as they are, without the space that they
    are of. Nothing is written; a record that is not there, or was not begun, has no trials.

    Args:
        place: A file, or a database on a server.
        study: Name of the study there.

    Raises:
        RunFolderError: The record is damaged, or its server cannot be asked.
        ConfigError: The driver of the database is not installed.
    """
    if isinstance(place, Path) and (not place.is_file() or place.stat().st_size == 0):
        return []
    trials: dict[int, dict[str, Any]] = {}
    try:
        if isinstance(place, Path):
            check_size(place, TABLE_BYTES)
        engine = read_engine(place)
        if not sqlalchemy.inspect(engine).has_table("trial_user_attributes"):
            return []
        query = sqlalchemy.text(_QUERY).bindparams(sqlalchemy.bindparam("keys", expanding=True))
        with engine.connect() as record:
            for trial, key, text in record.execute(query, {"study": study, "keys": _KEYS}):
                trials.setdefault(trial, {})[key] = json.loads(text)
        ended = [trial for trial in trials.values() if "outcome" in trial]
        ended.sort(key=lambda trial: int(trial["outcome"]["told"]))
        # By proposal: one that was tried again counts as it ended last.
        return list({trial["proposal"]: _row(trial) for trial in ended}.values())
    except sqlalchemy.exc.SQLAlchemyError as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        hint = "It may be damaged" if isinstance(place, Path) else "See to its server"
        raise RunFolderError(
            f"cannot read the record {place_text(place)}: {reason}. {hint}"
        ) from error
    except (
        LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, OSError,
    ) as error:  # fmt: skip
        raise RunFolderError(
            f"cannot read the record {place_text(place)}: {error}. It may be damaged"
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
