"""The measurement database: one SQLite file, written as things are measured, never rewritten.

Schema, version 1 (`PRAGMA user_version`):

- `target(key, target, device)`: both as JSON; `key` is `Target.key`.
- `network(id, target, name, digest, tags, latency_ms, peak_memory_bytes, wall_ms, cpu_ms, switches,
  faults, chunk, slowdown, created_at)`: one row a measurement; `latency_ms` repeats what the
  samples say, for readers of the file; the raw samples are
  little-endian arrays of 8-byte numbers.
- `kernel(id, key)`: each distinct kernel once, as `Kernel.key`.
- `network_kernel(network, position, name, kernel, latency_ms, n_samples)`: the kernels of a run.
- `graph(runtime, key, nodes)`: what a runtime makes of a piece of a network, without times, so
  that nothing is exported and optimized twice. `runtime` names the version and the device: the
  instruction set decides layouts.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from profilers.devices import Device
from profilers.errors import StoreError
from profilers.kernels import Kernel
from profilers.measurement import KernelLatency, NetworkMeasurement
from profilers.targets import Target
from profilers.timing import LatencySamples

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE target (key TEXT PRIMARY KEY, target TEXT NOT NULL, device TEXT NOT NULL);
CREATE TABLE network (
    id INTEGER PRIMARY KEY, target TEXT NOT NULL REFERENCES target, name TEXT NOT NULL,
    digest TEXT NOT NULL, tags TEXT NOT NULL, latency_ms REAL NOT NULL, peak_memory_bytes INTEGER,
    wall_ms BLOB NOT NULL, cpu_ms BLOB NOT NULL, switches BLOB NOT NULL, faults BLOB NOT NULL,
    chunk BLOB NOT NULL, slowdown BLOB NOT NULL, created_at REAL NOT NULL
);
CREATE INDEX network_by_target ON network (target, digest);
CREATE TABLE kernel (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE);
CREATE TABLE network_kernel (
    network INTEGER NOT NULL REFERENCES network, position INTEGER NOT NULL, name TEXT NOT NULL,
    kernel INTEGER NOT NULL REFERENCES kernel, latency_ms REAL NOT NULL, n_samples INTEGER NOT NULL,
    PRIMARY KEY (network, position)
) WITHOUT ROWID;
CREATE TABLE graph (
    runtime TEXT NOT NULL, key TEXT NOT NULL, nodes TEXT NOT NULL, PRIMARY KEY (runtime, key)
) WITHOUT ROWID;
"""
BUSY_TIMEOUT_S = 30.0
# What damaged text and arrays raise when they are decoded; SQLite checks only its own structure.
_DAMAGE = (ValueError, KeyError, TypeError)


class MeasurementStore:
    """A measurement database, opened or created. Several processes may write to one.

    Raises:
        StoreError: The file cannot be opened or written, is no such database, or is newer.

    Example:
        >>> store = MeasurementStore(":memory:")
        >>> store.networks()
        []
    """

    def __init__(self, path: Path | str) -> None:
        self.path = path
        with self._errors("open", *_DAMAGE):
            if isinstance(path, Path):
                path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
            try:
                self._is_empty()  # before anything is written: a stranger's file stays as it is
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute("PRAGMA synchronous = NORMAL")
                self._create()
            except BaseException:
                self._connection.close()
                raise

    def _create(self) -> None:
        with self._transaction() as connection:
            if self._is_empty():
                for statement in _SCHEMA.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _is_empty(self) -> bool:
        """Whether the file is new; refuses one that is no measurement database."""
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        tables = {name for (name,) in self._connection.execute("SELECT name FROM sqlite_master")}
        if version == 0 and not tables:
            return True
        if version != SCHEMA_VERSION or "network_kernel" not in tables:
            raise StoreError(
                f"{self.path} is no measurement database of schema version {SCHEMA_VERSION} "
                f"(it says {version}). Name another file, or update hwnas if it is newer."
            )
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; everything added before is in it."""
        self._connection.close()

    @contextmanager
    def _errors(self, doing: str, *damage: type[Exception]) -> Iterator[None]:
        try:
            yield
        except damage as error:
            raise StoreError(
                f"cannot {doing} the measurement database {self.path}: it is damaged ({error!r}). "
                f"Name another file, or restore this one from a backup."
            ) from None
        except (sqlite3.Error, OSError) as error:
            raise StoreError(
                f"cannot {doing} the measurement database {self.path}: {error}. "
                f"What was measured before is kept."
            ) from None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def add(self, measurement: NetworkMeasurement, device: Device) -> None:
        """Write one measurement, whole or not at all."""
        samples = measurement.samples
        with self._errors("write"), self._transaction() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO target VALUES (?, ?, ?)",
                (
                    measurement.target.key,
                    json.dumps(measurement.target.to_dict()),
                    json.dumps(device.to_dict()),
                ),
            )
            network = connection.execute(
                "INSERT INTO network (target, name, digest, tags, latency_ms, peak_memory_bytes, "
                "wall_ms, cpu_ms, switches, faults, chunk, slowdown, created_at) "
                "VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
                (
                    measurement.target.key,
                    measurement.name,
                    measurement.digest,
                    json.dumps(dict(measurement.tags)),
                    measurement.latency_ms,
                    measurement.peak_memory_bytes,
                    samples.wall_ms.astype("<f8").tobytes(),
                    samples.cpu_ms.astype("<f8").tobytes(),
                    samples.switches.astype("<i8").tobytes(),
                    samples.faults.astype("<i8").tobytes(),
                    samples.chunk.astype("<i8").tobytes(),
                    samples.slowdown.astype("<f8").tobytes(),
                    time.time(),
                ),
            ).lastrowid
            keys = [kernel.kernel.key for kernel in measurement.kernels]
            connection.executemany(
                "INSERT OR IGNORE INTO kernel (key) VALUES (?)", [(key,) for key in set(keys)]
            )
            connection.executemany(
                "INSERT INTO network_kernel SELECT ?, ?, ?, id, ?, ? FROM kernel WHERE key = ?",
                [
                    (network, i, kernel.name, kernel.latency_ms, kernel.n_samples, key)
                    for i, (kernel, key) in enumerate(zip(measurement.kernels, keys, strict=True))
                ],
            )

    def networks(self, target: Target | None = None) -> list[NetworkMeasurement]:
        """All measurements, in the order in which they were made; of one target, or of all."""
        with self._errors("read", *_DAMAGE):
            targets = {
                key: Target.from_dict(json.loads(text))
                for key, text in self._connection.execute("SELECT key, target FROM target")
            }
            kernels = {
                key: Kernel.from_key(text)
                for key, text in self._connection.execute("SELECT id, key FROM kernel")
            }
            runs: dict[int, list[KernelLatency]] = {}
            for network, name, kernel, latency_ms, n_samples in self._connection.execute(
                "SELECT network, name, kernel, latency_ms, n_samples FROM network_kernel "
                "ORDER BY network, position"
            ):
                runs.setdefault(network, []).append(
                    KernelLatency(name, kernels[kernel], latency_ms, n_samples)
                )
            rows = self._connection.execute(
                "SELECT id, target, name, digest, tags, peak_memory_bytes, wall_ms, cpu_ms, "
                "switches, faults, chunk, slowdown FROM network "
                "WHERE ?1 IS NULL OR target = ?1 ORDER BY id",
                (target.key if target else None,),
            ).fetchall()
            return [
                NetworkMeasurement(
                    name=name,
                    digest=digest,
                    target=targets[key],
                    samples=LatencySamples(
                        wall_ms=np.frombuffer(wall, "<f8"),
                        cpu_ms=np.frombuffer(cpu, "<f8"),
                        switches=np.frombuffer(lost, "<i8"),
                        faults=np.frombuffer(faults, "<i8"),
                        chunk=np.frombuffer(chunk, "<i8"),
                        slowdown=np.frombuffer(slow, "<f8"),
                    ),
                    kernels=tuple(runs.get(i, ())),
                    peak_memory_bytes=peak,
                    tags=json.loads(tags),
                )
                for i, key, name, digest, tags, peak, wall, cpu, lost, faults, chunk, slow in rows
            ]

    def graphs(self, runtime: str, keys: Sequence[str]) -> dict[str, list[Any]]:
        """The stored pieces among `keys`, as `add_graphs` was given them."""
        found = {}
        with self._errors("read", *_DAMAGE):
            for start in range(0, len(keys), 500):  # SQLite's limit of parameters
                part = keys[start : start + 500]
                marks = ",".join("?" * len(part))
                for key, nodes in self._connection.execute(
                    f"SELECT key, nodes FROM graph WHERE runtime = ? AND key IN ({marks})",
                    (runtime, *part),
                ):
                    found[key] = json.loads(nodes)
        return found

    def add_graphs(self, runtime: str, graphs: Mapping[str, Sequence[Any]]) -> None:
        """Keep what a runtime makes of each piece; `graphs` maps its key to plain data."""
        with self._errors("write"), self._transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO graph VALUES (?, ?, ?)",
                [
                    (runtime, key, json.dumps(nodes, separators=(",", ":")))
                    for key, nodes in graphs.items()
                ],
            )
