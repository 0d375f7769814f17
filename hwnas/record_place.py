"""Where the record of a search is: a file, or a database on a server that other searches share."""

from __future__ import annotations

import re
import secrets
import sqlite3
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy

from hwnas.errors import ConfigError, RunFolderError
from profilers.sqlite_files import guard

__all__ = [
    "STUDY_FILE",
    "STUDY_NAME",
    "Place",
    "new_study_name",
    "parse_place",
    "place_of_run",
    "place_text",
    "read_engine",
    "reading_options",
    "server_engine",
    "without_password",
]

Place = Path | sqlalchemy.URL

BUSY_TIMEOUT_S = 10.0  # for who reads while a search writes
STUDY_FILE = "study.db"  # in a run folder
STUDY_NAME = "search"  # in a file of its own
SERVER = "postgresql+psycopg"
# Without a driver SQLAlchemy would take psycopg2; some hosts write `postgres`.
_SERVER_ALIASES = ("postgres", "postgresql")
_SECRETS = ("password", "sslpassword")  # in a query
# A server that cannot be reached is an error after seconds, one that falls silent after a minute,
# and no router forgets a connection that a long training leaves unused.
_CONNECT_OPTIONS = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
    "application_name": "hwnas",
}


def parse_place(location: Place | str) -> Place:
    """The file, or the database on a server, that a path or a URL means.

    Raises:
        ConfigError: It is a URL that means neither.

    Example:
        >>> place_text(parse_place("postgresql://bob:secret@db/searches"))
        'postgresql+psycopg://bob@db/searches'
        >>> parse_place("sqlite:///search.db").name
        'search.db'
    """
    if isinstance(location, Path) or (isinstance(location, str) and "://" not in location):
        return Path(location)
    try:
        url = sqlalchemy.make_url(location)
    except (sqlalchemy.exc.ArgumentError, ValueError):  # the latter for a port that is no number
        raise ConfigError(
            f"{without_password(str(location))!r} is no URL of a database: give one such as "
            f"{SERVER}://USER@HOST/NAME"
        ) from None
    if url.get_backend_name() == "sqlite":
        if url.database in (None, "", ":memory:"):
            raise ConfigError("a record needs a file that stays: sqlite:///PATH, or just its path")
        return Path(str(url.database))
    if url.drivername in _SERVER_ALIASES:
        url = url.set(drivername=SERVER)
    if url.get_backend_name() != "postgresql":
        raise ConfigError(
            f"a search can be recorded in a file or in PostgreSQL, not in {url.drivername}: give "
            f"a URL such as {SERVER}://USER@HOST/NAME"
        )
    return url


def place_text(place: Place) -> str:
    """The path; or the URL without its password, which may be shown and written down."""
    if isinstance(place, Path):
        return str(place)
    return place._replace(password=None).difference_update_query(_SECRETS).render_as_string()


def place_of_run(
    folder: Path, run: Mapping[str, Any], storage: str | None = None
) -> tuple[Place, str]:
    """Where the record of a run is, and the name of its study there.

    No server is asked because a run folder, which may be a stranger's, says so: the user has to say
    so, too. Then the password comes from there.

    Args:
        folder: The run folder.
        run: The table `[run]` of its `config.toml`.
        storage: URL of the database, as the search was given it; None: nobody said one.

    Raises:
        RunFolderError: The record is on a server that the user did not name.
        ConfigError: A URL that cannot be used.

    Example:
        >>> place_of_run(Path("runs/demo"), {})
        (PosixPath('runs/demo/study.db'), 'search')
    """
    if not isinstance(noted := run.get("storage"), str):
        return folder / STUDY_FILE, STUDY_NAME
    place, study = parse_place(noted), str(run.get("study", STUDY_NAME))
    if isinstance(place, Path):
        return place, study
    given = None if storage is None else parse_place(storage)
    if given is None or place_text(given) != place_text(place):
        other = "" if given is None else f", not {place_text(given)}"
        raise RunFolderError(
            f"the trials of {folder} are in {place_text(place)}: give that as --storage, or in "
            f"HWNAS_STORAGE{other}, to read them"
        )
    return given, study


def new_study_name(folder: Path) -> str:
    """A name that no other study of a shared database has, for the run in `folder`."""
    return f"{folder.absolute().name}-{secrets.token_hex(4)}"


def engine_options(url: sqlalchemy.URL) -> dict[str, Any]:
    """How connections to a server are made, as far as the URL does not say otherwise."""
    options = {name: v for name, v in _CONNECT_OPTIONS.items() if name not in url.query}
    return {"connect_args": options}


def server_engine(url: sqlalchemy.URL) -> sqlalchemy.Engine:
    """An engine for a few statements: it keeps no connection that is not in use.

    Raises:
        ConfigError: The driver of the database is not installed.
    """
    try:
        return sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool, **engine_options(url))
    except ImportError as error:
        raise missing_driver(error) from error


def reading_options(place: Place) -> dict[str, Any]:
    """How connections are made that read a record and cannot change it."""
    if isinstance(place, Path):
        return {"creator": partial(_connect_reading, place)}
    return engine_options(place) | {"execution_options": {"postgresql_readonly": True}}


def read_engine(place: Place) -> sqlalchemy.Engine:
    """An engine that reads a record and cannot change it; it keeps no connection that is not used.

    Raises:
        ConfigError: The driver of the database is not installed.
    """
    url = "sqlite://" if isinstance(place, Path) else place
    options = reading_options(place)
    try:
        return sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool, **options)
    except ImportError as error:
        raise missing_driver(error) from error


def _connect_reading(path: Path) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode=ro"
    return guard(sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, check_same_thread=False))


def missing_driver(error: ImportError) -> ConfigError:
    """What to do where the driver of a server is not installed."""
    return ConfigError(
        f"the driver of this database is not installed ({error.__cause__ or error}): pip install "
        f"'hwnas[postgresql]', or give the path of a file"
    )


def without_password(text: str) -> str:
    """The text, passwords of URLs in it left out.

    Example:
        >>> without_password("--storage postgresql://bob:secret@db/searches")
        '--storage postgresql://bob@db/searches'
        >>> without_password("postgresql://bob@db/x?password=secret&sslmode=require")
        'postgresql://bob@db/x?password=…&sslmode=require'
    """
    text = re.sub(r"(://[^:/@\s]*):[^@\s]*@", r"\1@", text)
    return re.sub(rf"([?&](?:{'|'.join(_SECRETS)})=)[^&\s'\"]*", r"\1…", text)
