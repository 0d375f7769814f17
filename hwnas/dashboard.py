"""Optuna's dashboard on the record of a search, which it can read and not change."""

from __future__ import annotations

import sqlite3
from functools import partial
from pathlib import Path

from optuna.exceptions import OptunaError
from optuna.storages import RDBStorage
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from hwnas.errors import ConfigError, RunFolderError
from hwnas.report.study import STUDY

HOST = "127.0.0.1"  # nobody else sees it: the dashboard has no password
BUSY_TIMEOUT_S = 10.0


def serve_dashboard(place: str, *, port: int) -> None:
    """Serve the dashboard on this machine alone, until Ctrl-C.

    A file is opened for reading only: the dashboard's buttons that delete or rename fail, and a
    search that is running goes on.

    Args:
        place: A run folder, or the URL of the database that holds the study.
        port: Where it listens.

    Raises:
        ConfigError: optuna-dashboard is not installed, or the port is in use.
        RunFolderError: There is no record, or it cannot be read.
    """
    try:
        import optuna_dashboard
    except ImportError as error:
        raise ConfigError(
            f"the dashboard needs optuna-dashboard, which cannot be imported ({error}): "
            f"pip install 'hwnas[dashboard]'"
        ) from None
    storage = _from_url(place) if "://" in place else _from_folder(Path(place))
    try:
        optuna_dashboard.run_server(storage, host=HOST, port=port)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {HOST}:{port}: {error.strerror or error}. Choose another --port"
        ) from None
    finally:
        storage.engine.dispose()


def _from_folder(folder: Path) -> RDBStorage:
    path = folder / STUDY
    if not path.is_file() or path.stat().st_size == 0:
        raise RunFolderError(
            f"there is no record of a search at {path}; give the folder that a search wrote "
            f"(--out), or the URL of the database that holds it"
        )
    return _opened(
        f"sqlite:///{path}", str(path), skip_table_creation=True,
        engine_kwargs={"creator": partial(_connect, path.absolute())},
    )  # fmt: skip


def _from_url(url: str) -> RDBStorage:
    # Not in the message: it may hold a password.
    return _opened(url, "that the URL names")


def _opened(url: str, name: str, **options: object) -> RDBStorage:
    try:
        return RDBStorage(url, **options)  # type: ignore[arg-type]
    except ArgumentError:
        raise ConfigError(
            "that is no URL of a database; it looks like postgresql://user@host/name"
        ) from None
    except (ImportError, OptunaError, SQLAlchemyError, sqlite3.Error, RuntimeError) as error:
        raise RunFolderError(f"cannot open the record {name}: {error}") from None


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.as_uri()}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S, check_same_thread=False
    )
