"""One search at a time on a record: a locked file beside SQLite's, or a lock of the server's.

A server holds the lock for a session of its own, so it is free as soon as the process that held it
has ended, however it ended; where the whole machine went away, about a minute later.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO, Protocol

import sqlalchemy

from hwnas.errors import RunFolderError

__all__ = ["FileLock", "RecordLock", "ServerLock"]

# How a server notices, in about a minute, that the machine of a session is gone.
_KEEPALIVES = (
    "tcp_keepalives_idle = 30",
    "tcp_keepalives_interval = 10",
    "tcp_keepalives_count = 3",
)
_TABLES = "hwnas: creating tables"


class RecordLock(Protocol):
    """Held by a search from the start to the end."""

    def creating_tables(self) -> AbstractContextManager[None]:
        """While the block runs, no other search creates tables in the database."""

    def check(self) -> None:
        """Make sure that it is still held; raises an error of SQLAlchemy if it is not."""

    def close(self) -> None:
        """Give it back."""


class FileLock:
    """`path`.lock, locked until it is closed or the process ends, however it ends.

    Raises:
        RunFolderError: If another process holds it.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path.with_name(path.name + ".lock"), "w")  # noqa: SIM115  (held, not read)
        try:
            _lock(self._file)
        except (BlockingIOError, PermissionError):  # the latter on Windows
            self._file.close()
            raise RunFolderError(
                f"another search is running on {path}. Wait for it, stop it, or use another folder"
            ) from None

    def creating_tables(self) -> AbstractContextManager[None]:
        """Nothing: the file is of this search alone."""
        return nullcontext()

    def check(self) -> None:
        """Nothing: a process does not lose the lock on a file."""

    def close(self) -> None:
        """Give it back."""
        self._file.close()


def _lock(file: IO[str]) -> None:
    """Lock the file for this process alone, or raise OSError at once."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


class ServerLock:
    """An advisory lock of PostgreSQL on the name of a study, held by a connection of its own.

    Args:
        engine: Of the database; the lock's connection is taken from it.
        study: Name of the study.
        where: As messages show it.

    Raises:
        RunFolderError: If another search holds it.

    Reference:
        PostgreSQL 15, sections 13.3.5 (advisory locks) and 20.3.2 (keepalives).
    """

    def __init__(self, engine: sqlalchemy.Engine, study: str, where: str) -> None:
        # Without autocommit the session would stay in a transaction, and hold up vacuuming.
        self._connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            for setting in _KEEPALIVES:
                self._connection.exec_driver_sql(f"SET {setting}")
            if not self._scalar("SELECT pg_try_advisory_lock(:key)", key=_key(f"hwnas: {study}")):
                raise RunFolderError(
                    f"another search is running on {where}. Wait for it, stop it, or use another "
                    f"folder"
                )
        except BaseException:
            self.close()
            raise

    @contextmanager
    def creating_tables(self) -> Iterator[None]:
        """While the block runs, no other search creates tables in the database."""
        self._scalar("SELECT pg_advisory_lock(:key)", key=_key(_TABLES))
        yield  # after an error the session ends, which unlocks it
        self._scalar("SELECT pg_advisory_unlock(:key)", key=_key(_TABLES))

    def check(self) -> None:
        """Make sure that it is still held: as long as its session lives."""
        self._scalar("SELECT 1")

    def close(self) -> None:
        """Give it back."""
        # Not `close` alone, which would first talk to a server that may be gone.
        self._connection.invalidate()
        self._connection.close()

    def _scalar(self, statement: str, **values: int) -> object:
        return self._connection.execute(sqlalchemy.text(statement), values).scalar()


def _key(name: str) -> int:
    """A number for the name: advisory locks are on 64-bit integers."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
