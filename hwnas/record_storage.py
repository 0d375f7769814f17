"""The database under a record: opened with care, its errors turned into one clear message each."""

from __future__ import annotations

import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import ExperimentalWarning, OptunaError
from optuna.storages import RDBStorage

from hwnas.errors import RunFolderError
from hwnas.record_lock import FileLock, RecordLock, ServerLock
from hwnas.record_place import (
    STUDY_NAME,
    Place,
    engine_options,
    missing_driver,
    place_text,
    server_engine,
)
from hwnas.spaces.base import SearchSpace
from hwnas.strategies.base import OBJECTIVES
from profilers.sqlite_files import guard

__all__ = [
    "describe",
    "has_trials",
    "open_lock",
    "open_storage",
    "open_study",
    "optuna_url",
    "storage_errors",
]

BUSY_TIMEOUT_S = 60.0
COUNT = "SELECT count(*) FROM trials JOIN studies USING (study_id) WHERE study_name = :study"
SEE_TO_SERVER = "Check the URL, that the server runs, and that you may create tables there"


@contextmanager
def storage_errors(problem: str, hint: str) -> Iterator[None]:
    """Raise RunFolderError, `problem`: reason. `hint`., for whatever a database can throw."""
    try:
        yield
    # ValueError: a damaged page, whose text is no UTF-8.
    except (
        OptunaError,
        sqlalchemy.exc.SQLAlchemyError,
        sqlite3.Error,
        OSError,
        ValueError,
    ) as error:
        cause: BaseException = error
        if isinstance(error, OptunaError) and error.__cause__ is not None:
            cause = error.__cause__
        cause = getattr(cause, "orig", None) or cause
        reason = " ".join(str(cause).split())  # servers answer in several lines
        end = "" if reason.endswith((".", "?")) else "."
        raise RunFolderError(f"{problem}: {reason}{end} {hint}") from error


def describe(place: Place, study: str) -> str:
    """The record, as messages show it."""
    shown = place_text(place)
    return shown if isinstance(place, Path) else f"study {study!r} in {shown}"


def open_lock(place: Place, study: str) -> RecordLock:
    """Make sure that no other search runs on the record until the lock is closed.

    Raises:
        RunFolderError: One does.
    """
    if isinstance(place, Path):
        return FileLock(place)
    return ServerLock(server_engine(place), study, describe(place, study))


def open_storage(place: Place, lock: RecordLock | None) -> RDBStorage:
    """Open the database; with the lock of a search, Optuna's tables are created if missing.

    Raises:
        ConfigError: The driver of the database is not installed.
        RunFolderError: It is the file of another program, or of another version of Optuna.
    """
    options: dict[str, Any]
    if isinstance(place, Path):
        _refuse_foreign(place)
        options = {"creator": partial(_connect, place)}
    else:
        options = engine_options(place)
        if lock is None:
            _refuse_empty(place)
    try:
        with lock.creating_tables() if lock is not None else nullcontext():
            return RDBStorage(optuna_url(place), engine_kwargs=options)
    except ImportError as error:
        raise missing_driver(error) from error
    except RuntimeError as error:  # the tables are of another version of Optuna
        raise RunFolderError(f"cannot use the record {place_text(place)}: {error}") from error


def optuna_url(place: Place) -> str:
    """Where the database is, as Optuna takes it: it formats the text, hence the doubled braces."""
    if isinstance(place, Path):
        url = f"sqlite:///{place}"
    else:
        url = place.render_as_string(hide_password=False)
    return url.replace("{", "{{").replace("}", "}}")


def has_trials(place: Place, study: str = STUDY_NAME) -> bool:
    """Whether a search was begun there; a file that cannot be read is left to the record.

    Raises:
        RunFolderError: The server cannot be reached.
    """
    if isinstance(place, Path):
        return _file_has_trials(place, study)
    engine = server_engine(place)
    query = sqlalchemy.text(COUNT)
    with storage_errors(f"cannot open the record {describe(place, study)}", SEE_TO_SERVER):
        if not sqlalchemy.inspect(engine).has_table("trials"):
            return False
        with engine.connect() as connection:
            return bool(connection.execute(query, {"study": study}).scalar())


def _file_has_trials(path: Path, study: str) -> bool:
    if not path.exists():
        return False
    try:
        with closing(
            guard(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True))
        ) as file:
            return bool(file.execute(COUNT, {"study": study}).fetchone()[0])
    except sqlite3.Error:
        return True


def _refuse_empty(url: sqlalchemy.URL) -> None:
    """Raise RunFolderError where no search was ever recorded: reading creates no tables."""
    if not sqlalchemy.inspect(server_engine(url)).has_table("studies"):
        raise RunFolderError(f"{place_text(url)} holds no search. Start one there first")


def _connect(path: Path) -> sqlite3.Connection:
    # A creator, not a "connect" event: the tables are made before one could be registered.
    connection = guard(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, check_same_thread=False))
    connection.execute("PRAGMA journal_mode=WAL")
    # In WAL mode a power cut can then lose the last commits but not damage the file, and a kill of
    # the process loses nothing; it saves an fsync a commit.
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection


def _refuse_foreign(path: Path) -> None:
    """Raise RunFolderError for the database of another program, before a table is added to it."""
    if not path.exists():
        return
    connection = guard(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S))
    try:
        rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    finally:
        connection.close()
    # "studies" is the first table that Optuna creates, so a kill in between leaves it at least.
    if rows and ("studies",) not in rows:
        raise RunFolderError(f"{path} is a database, but not of a search. Use another folder")


def open_study(
    storage: RDBStorage, study: str, space: SearchSpace, where: str, *, create: bool
) -> int:
    """Return the id of the study of a search over `space`; made first if `create` and missing."""
    description = {
        "name": space.name,
        "fingerprint": space.fingerprint,
        "choices": {choice.name: list(choice.options) for choice in space.choices},
    }
    if create:
        _create_study(storage, study)
    try:
        study_id = storage.get_study_id_from_name(study)
    except KeyError:
        raise RunFolderError(f"{where} holds no search. Start one there first") from None
    found = storage.get_study_user_attrs(study_id).get("space")
    if found is None and create and storage.get_n_trials(study_id) == 0:
        storage.set_study_user_attr(study_id, "space", description)
        return study_id
    if found != description:
        name = "something else" if found is None else f"the space {found['name']!r}"
        changed = " as it was then" if found is not None and found["name"] == space.name else ""
        raise RunFolderError(
            f"{where} records a search of {name}{changed}, not of {space.name!r} as it is now. "
            f"Use another folder"
        )
    return study_id


def _create_study(storage: RDBStorage, name: str) -> None:
    """Create the study if there is none."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it announces the study on stderr
    try:
        study = optuna.create_study(
            study_name=name,
            storage=storage,
            directions=["minimize"] * len(OBJECTIVES),
            load_if_exists=True,
        )
    finally:
        optuna.logging.set_verbosity(verbosity)
    if study.metric_names is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names(list(OBJECTIVES))
