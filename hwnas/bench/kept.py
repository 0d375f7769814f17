"""Results of an experiment of hours, kept as they come: the same call goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hwnas.errors import ConfigError, RunFolderError
from hwnas.record_lock import FileLock

__all__ = ["Kept", "read_kept"]

ASKED = "asked"


class Kept:
    """Results by name in a JSON file, which is written after each; made by `Kept.open`."""

    def __init__(self, path: Path, table: dict[str, Any]) -> None:
        self._path = path
        self._table = table

    @classmethod
    @contextmanager
    def open(cls, path: Path, asked: Mapping[str, Any]) -> Iterator[Kept]:
        """Hold the file, made if it is missing, until the block ends.

        Args:
            path: Of the file; its folder is made.
            asked: Plain data, all that decides what the results are.

        Raises:
            ConfigError: It holds the results of something else; what differs.
            RunFolderError: Another process holds it, or it cannot be read or written.
        """
        lock = _locked(path)
        try:
            plain = json.loads(json.dumps(dict(asked)))  # as it is read again: tuples are lists
            table = read_kept(path) or {ASKED: plain}
            _check_same(path, table[ASKED], plain)
            yield cls(path, table)
        finally:
            lock.close()

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """The result of that name, plain data; `make` is called for it unless it is kept."""
        if name not in self._table:
            self.put(name, make())
        return self._table[name]

    def put(self, name: str, value: Any) -> None:
        """Keep a result, in the place of an earlier one of that name.

        Raises:
            RunFolderError: It cannot be written.
        """
        self._table[name] = value
        part = self._path.with_name(f"{self._path.name}.part")
        try:
            part.write_text(json.dumps(self._table, indent=1), encoding="utf-8")
            part.replace(self._path)
        except OSError as error:
            raise _unwritable(self._path, error) from None

    def get(self, name: str, default: Any = None) -> Any:
        """The result of that name, if it is kept."""
        return self._table.get(name, default)


def read_kept(path: Path) -> dict[str, Any] | None:
    """All results of a file, and what was asked for; None if there is no file.

    Raises:
        RunFolderError: It cannot be read.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunFolderError(f"cannot read the results {path}: {error}; remove it") from None
    if not isinstance(table, dict) or not isinstance(table.get(ASKED), dict):
        raise RunFolderError(f"cannot read the results {path}: it is another file; remove it")
    return table


def _locked(path: Path) -> FileLock:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path)
    except OSError as error:
        raise _unwritable(path, error) from None


def _check_same(path: Path, before: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    differing = [name for name in asked if before.get(name) != asked[name]]
    if differing:
        told = ", ".join(f"{name} was {before.get(name)}, is {asked[name]}" for name in differing)
        raise ConfigError(
            f"{path} holds the results of another experiment: {told}; name another folder"
        )


def _unwritable(path: Path, error: OSError) -> RunFolderError:
    return RunFolderError(f"cannot write {path}: {error.strerror or error}")
