"""The database under a record: opened with care, its errors turned into one clear message each."""

from __future__ import annotations

import sqlite3
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO

import optuna
import sqlalchemy
from optuna.exceptions import ExperimentalWarning, OptunaError
from optuna.storages import RDBStorage

from hwnas.errors import ConfigError, RunFolderError
from hwnas.spaces.base import SearchSpace
from hwnas.strategies.base import OBJECTIVES

__all__ = ["STUDY_NAME", "lock_file", "open_storage", "open_study", "sqlite_path", "storage_errors"]

STUDY_NAME = "search"
BUSY_TIMEOUT_S = 60.0


@contextmanager
def storage_errors(problem: str, hint: str) -> Iterator[None]:
    """Raise RunFolderError, `problem`: reason. `hint`., for whatever a database can throw."""
    try:
        yield
    except (OptunaError, sqlalchemy.exc.SQLAlchemyError, sqlite3.Error, OSError) as error:
        reason: BaseException = error
        if isinstance(error, OptunaError) and error.__cause__ is not None:
            reason = error.__cause__
        reason = getattr(reason, "orig", None) or reason
        raise RunFolderError(f"{problem}: {reason}. {hint}") from error


def sqlite_path(location: Path | str) -> Path | None:
    """The file that `location`, a path or a URL, means; None for a database server."""
    if "://" not in str(location):
        return Path(location)
    url = sqlalchemy.make_url(str(location))
    return Path(url.database) if url.drivername.startswith("sqlite") and url.database else None


def _lock(file: IO[str]) -> None:
    """Lock the file for this process alone, or raise OSError at once."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def lock_file(path: Path) -> IO[str]:
    """Hold `path`.lock until the file is closed or the process ends, however it ends.

    Raises:
        RunFolderError: If another process holds it.
    """
    lock = open(path.with_name(path.name + ".lock"), "w")  # noqa: SIM115  (held, not read)
    try:
        _lock(lock)
    except (BlockingIOError, PermissionError):  # the latter on Windows
        lock.close()
        raise RunFolderError(
            f"another search is running on {path}. Wait for it, stop it, or use another folder"
        ) from None
    return lock


def open_storage(location: Path | str) -> RDBStorage:
    """Open the database, and create Optuna's tables if there are none."""
    path = sqlite_path(location)
    try:
        if path is None:
            return RDBStorage(str(location))
        _refuse_foreign(path)
        return RDBStorage(f"sqlite:///{path}", engine_kwargs={"creator": partial(_connect, path)})
    except ImportError as error:
        raise ConfigError(
            f"the driver of this database is not installed: {error.__cause__ or error}. "
            f"Install it, or give a path"
        ) from error
    except RuntimeError as error:  # the tables are of another version of Optuna
        raise RunFolderError(f"cannot use the record {path or 'given'}: {error}") from error


def _connect(path: Path) -> sqlite3.Connection:
    # A creator, not a "connect" event: the tables are made before one could be registered.
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    # In WAL mode a power cut can then lose the last commits but not damage the file, and a kill of
    # the process loses nothing; it saves an fsync a commit.
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection


def _refuse_foreign(path: Path) -> None:
    """Raise RunFolderError for the database of another program, before a table is added to it."""
    if not path.exists():
        return
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S)
    try:
        rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    finally:
        connection.close()
    # "studies" is the first table that Optuna creates, so a kill in between leaves it at least.
    if rows and ("studies",) not in rows:
        raise RunFolderError(f"{path} is a database, but not of a search. Use another folder")


def open_study(storage: RDBStorage, space: SearchSpace, where: str, *, create: bool) -> int:
    """Return the id of the study of a search over `space`; made first if `create` and missing."""
    description = {
        "name": space.name,
        "fingerprint": space.fingerprint,
        "choices": {choice.name: list(choice.options) for choice in space.choices},
    }
    if create:
        _create_study(storage)
    try:
        study_id = storage.get_study_id_from_name(STUDY_NAME)
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


def _create_study(storage: RDBStorage) -> None:
    """Create the study if there is none."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it announces the study on stderr
    try:
        study = optuna.create_study(
            study_name=STUDY_NAME,
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
