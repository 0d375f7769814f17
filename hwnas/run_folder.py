"""The folder of a run: held by one search at a time, with `config.toml` always up to date.

`config.toml` says what was asked (`search`, `run`), what was found (`target`, `space`, `budget`, …)
and what was spent (`spent`), also by calls that were killed; of the step in which a kill came, what
was noted by then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hwnas.config import CONFIG, check_same_run, read_config, write_config
from hwnas.errors import RunFolderError
from hwnas.record_lock import FileLock

__all__ = ["RunFolder"]


class RunFolder:
    """A run folder that is being written; made by `RunFolder.open`.

    Attributes:
        path: Of the folder.
        has_trials: Whether trials were begun before.
        tables: Of `config.toml`, without `spent`.
        spent: Seconds and numbers by name, over all calls of the run.
        changed: What is not as it was when the run was last called, such as versions; one
            description each.
    """

    def __init__(
        self,
        path: Path,
        tables: Mapping[str, Any],
        before: Mapping[str, Any],
        *,
        has_trials: bool,
    ) -> None:
        self.path = path
        self.has_trials = has_trials
        self.tables = dict(tables)
        self.spent: dict[str, Any] = dict(before.get("spent", {}))
        there, now = before.get("versions", {}), self.tables.get("versions", {})
        self.changed = [
            f"{name} was {there[name]}, is {now[name]}"
            for name in now
            if name in there and there[name] != now[name]
        ]

    @classmethod
    @contextmanager
    def open(
        cls, path: Path, tables: Mapping[str, Any], *, has_trials: Callable[[], bool]
    ) -> Iterator[RunFolder]:
        """Hold the folder, made if it is missing, until the block ends.

        Args:
            path: Of the folder.
            tables: Of `config.toml`; `search` and `run` say which run it is.
            has_trials: Says whether trials were begun there.

        Raises:
            RunFolderError: It holds another run, another search runs on it, or it cannot be
                written.
        """
        asked = {name: tables[name] for name in ("search", "run")}
        check_same_run(path, asked, has_trials=has_trials())
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(f"cannot create {path}: {error.strerror or error}") from None
        try:
            lock = FileLock(path / CONFIG)
        except OSError as error:
            raise RunFolderError(f"cannot write to {path}: {error.strerror or error}") from None
        try:
            # Again: until the lock was held, another search may have come and gone.
            begun = has_trials()
            check_same_run(path, asked, has_trials=begun)
            before = read_config(path / CONFIG) if (path / CONFIG).exists() else {}
            folder = cls(path, tables, before, has_trials=begun)
            folder.write()
            yield folder
        finally:
            lock.close()

    def write(self) -> None:
        """Write `config.toml`, whole or not at all."""
        write_config(self.path, self.tables | {"spent": self.spent})

    @contextmanager
    def spending(self, name: str) -> Iterator[Callable[[], None]]:
        """Add the block's time to what the run has spent, also when it is interrupted.

        Yields:
            Adds the time until now; for blocks in which a kill should not lose it.
        """
        before, start_s = self.spent.get(name, 0.0), time.monotonic()

        def save() -> None:
            self.spent[name] = round(before + time.monotonic() - start_s, 1)
            self.write()

        try:
            yield save
        finally:
            save()
