"""SQLite files that may be anyone's: a schema can hold code, which reading a table would run."""

from __future__ import annotations

import sqlite3

__all__ = ["guard"]

MAX_VALUE_BYTES = 256 * 2**20  # of one text or blob
# Views and triggers have no page of their own.
_COMPUTED = """
    SELECT name FROM sqlite_master
    WHERE type NOT IN ('table', 'index') OR rootpage = 0 OR sql LIKE 'CREATE VIRTUAL%'
    UNION ALL
    SELECT t.name FROM sqlite_master t, pragma_table_xinfo(t.name) c
    WHERE t.type = 'table' AND c.hidden > 1
"""


def guard(connection: sqlite3.Connection) -> sqlite3.Connection:
    """Make sure that what is read of a database is written there, and return its connection.

    What is computed (views, triggers, virtual tables, generated columns) may never end, or take any
    memory; neither measurements nor Optuna's studies have it. The pages of a damaged table may
    lead to each other for ever. Constraints are not looked at: they are run when a row is written.

    Raises:
        sqlite3.Error: It holds such things, or is no database; the connection is closed.
    """
    try:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
        found = connection.execute(_COMPUTED).fetchone()
        if found is not None:
            raise sqlite3.DatabaseError(
                f"it holds {found[0]!r:.60}, which is no plain table; nothing of it is read"
            )
        (state,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if state != "ok":
            reason = " ".join(str(state).split())
            raise sqlite3.DatabaseError(f"database disk image is malformed: {reason:.200}")
    except BaseException:
        connection.close()
        raise
    return connection
