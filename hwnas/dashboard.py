"""Optuna's dashboard on the record of a search, which it can read and not change."""

from __future__ import annotations

from pathlib import Path

from optuna.storages import RDBStorage

from hwnas.config import CONFIG, read_config
from hwnas.errors import ConfigError, RunFolderError
from hwnas.record_place import (
    Place,
    missing_driver,
    parse_place,
    place_of_run,
    place_text,
    reading_options,
)
from hwnas.record_storage import optuna_url, storage_errors

HOST = "127.0.0.1"  # nobody else sees it: the dashboard has no password


def serve_dashboard(run: str, *, port: int, storage: str | None = None) -> None:
    """Serve the dashboard on this machine alone, until Ctrl-C.

    The record is opened for reading only: the dashboard's buttons that delete or rename fail, and a
    search that is running goes on.

    Args:
        run: A run folder, or the URL of the database that holds the study.
        port: Where it listens.
        storage: As `place_of_run` takes it, for a run folder.

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
    opened = _opened(parse_place(run) if "://" in run else _place_of(Path(run), storage))
    try:
        optuna_dashboard.run_server(opened, host=HOST, port=port)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {HOST}:{port}: {error.strerror or error}. Choose another --port"
        ) from None
    finally:
        opened.engine.dispose()


def _place_of(folder: Path, storage: str | None) -> Place:
    config = read_config(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    return place_of_run(folder, config.get("run", {}), storage)[0]


def _opened(place: Place) -> RDBStorage:
    """The storage, for reading only."""
    name = place_text(place)
    if isinstance(place, Path):
        hint = "It may be damaged"
        if not place.is_file() or place.stat().st_size == 0:
            raise RunFolderError(
                f"there is no record of a search at {name}; give the folder that a search wrote "
                f"(--out), or the URL of the database that holds it"
            )
    else:
        hint = "Check the URL, that the server runs, and that a search was recorded there"
    try:
        with storage_errors(f"cannot open the record {name}", hint):
            return RDBStorage(
                optuna_url(place), engine_kwargs=reading_options(place), skip_table_creation=True
            )
    except ImportError as error:
        raise missing_driver(error) from error
    except RuntimeError as error:  # of another version of Optuna
        raise RunFolderError(f"cannot open the record {name}: {error}") from None
