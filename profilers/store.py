"""The measurement database: one SQLite file, written as things are measured, never rewritten.

Schema, version 2 (`PRAGMA user_version`):

- `target(key, target)`: as JSON; `key` is `Target.key`.
- `device(id, record)`: each distinct state of a device once, as JSON: what `hwnas device` shows.
- `network(id, target, device, name, digest, tags, latency_ms, peak_memory_bytes,
  computed_peak_memory_bytes, process_peak_bytes, energy_mj, energy_relative_spread, reference_ms,
  wall_ms, cpu_ms, switches, faults, chunk, slowdown, created_at)`: one row a measurement;
  `latency_ms` repeats what the samples say, for readers of the file; the raw samples are
  little-endian arrays of 8-byte numbers.
- `kernel(id, key)`: each distinct kernel once, as `Kernel.key`.
- `network_kernel(network, position, name, kernel, latency_ms, n_samples)`: the kernels of a run.
- `isolated_kernel(target, kernel, latency_ms, n_samples, created_at)`: kernels measured outside of
  any network; the newest row of a kernel holds.
- `failure(target, digest, name, reason, created_at)`: models that could not be measured.
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
from profilers.sqlite_files import guard
from profilers.targets import Target
from profilers.timing import LatencySamples

SCHEMA_VERSION = 2
_SCHEMA = """
CREATE TABLE target (key TEXT PRIMARY KEY, target TEXT NOT NULL);
CREATE TABLE device (id INTEGER PRIMARY KEY, record TEXT NOT NULL UNIQUE);
CREATE TABLE network (
    id INTEGER PRIMARY KEY, target TEXT NOT NULL REFERENCES target,
    device INTEGER NOT NULL REFERENCES device, name TEXT NOT NULL, digest TEXT NOT NULL,
    tags TEXT NOT NULL, latency_ms REAL NOT NULL, peak_memory_bytes INTEGER,
    computed_peak_memory_bytes INTEGER, process_peak_bytes INTEGER, energy_mj REAL,
    energy_relative_spread REAL, reference_ms REAL,
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
CREATE TABLE isolated_kernel (
    target TEXT NOT NULL REFERENCES target, kernel INTEGER NOT NULL REFERENCES kernel,
    latency_ms REAL NOT NULL, n_samples INTEGER NOT NULL, created_at REAL NOT NULL
);
CREATE TABLE failure (
    target TEXT NOT NULL, digest TEXT NOT NULL, name TEXT NOT NULL, reason TEXT NOT NULL,
    created_at REAL NOT NULL
);
CREATE TABLE graph (
    runtime TEXT NOT NULL, key TEXT NOT NULL, nodes TEXT NOT NULL, PRIMARY KEY (runtime, key)
) WITHOUT ROWID;
"""
BUSY_TIMEOUT_S, BUSY_PAUSE_S = 30.0, 0.02
N_REFERENCES = 1000
# Columns of `network` that are fields of `NetworkMeasurement` as they are.
_SCALARS = (
    "name", "digest", "peak_memory_bytes", "computed_peak_memory_bytes", "process_peak_bytes",
    "energy_mj", "energy_relative_spread", "reference_ms",
)  # fmt: skip
# What damaged text and arrays raise when they are decoded; SQLite checks only its own structure.
_DAMAGE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


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
            self._connection = guard(
                sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
            )
            try:
                with self._snapshot():  # not half of what another process is writing now
                    self._is_empty()  # before anything is written: a stranger's file stays so
                self._use_wal()
                self._connection.execute("PRAGMA synchronous = NORMAL")
                self._create()
            except BaseException:
                self._connection.close()
                raise

    def _use_wal(self) -> None:
        """Let readers and a writer work at the same time; the file remembers it."""
        give_up = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                # Two processes that make the file at once: SQLite does not wait here by itself.
                is_busy = error.sqlite_errorcode == sqlite3.SQLITE_BUSY
                if not is_busy or time.monotonic() > give_up:
                    raise
                time.sleep(BUSY_PAUSE_S)

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
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # a full disk has ended it already
                self._connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        """All reads of the block see one state, whatever other processes write meanwhile."""
        self._connection.execute("BEGIN")
        try:
            yield
        finally:
            self._connection.execute("COMMIT")

    def add(self, measurement: NetworkMeasurement, device: Device) -> None:
        """Write one measurement, whole or not at all."""
        samples = measurement.samples
        with self._errors("write"), self._transaction() as connection:
            record = json.dumps(device.to_dict(), sort_keys=True)
            _add_target(connection, measurement.target)
            connection.execute("INSERT OR IGNORE INTO device (record) VALUES (?)", (record,))
            (device_id,) = connection.execute(
                "SELECT id FROM device WHERE record = ?", (record,)
            ).fetchone()
            row = {
                "target": measurement.target.key,
                "device": device_id,
                "tags": json.dumps(dict(measurement.tags)),
                "latency_ms": measurement.latency_ms,
                **{name: getattr(measurement, name) for name in _SCALARS},
                "wall_ms": samples.wall_ms.astype("<f8").tobytes(),
                "cpu_ms": samples.cpu_ms.astype("<f8").tobytes(),
                "switches": samples.switches.astype("<i8").tobytes(),
                "faults": samples.faults.astype("<i8").tobytes(),
                "chunk": samples.chunk.astype("<i8").tobytes(),
                "slowdown": samples.slowdown.astype("<f8").tobytes(),
                "created_at": time.time(),
            }
            network = connection.execute(
                f"INSERT INTO network ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})",
                tuple(row.values()),
            ).lastrowid
            keys = [kernel.kernel.key for kernel in measurement.kernels]
            _add_kernels(connection, keys)
            connection.executemany(
                "INSERT INTO network_kernel SELECT ?, ?, ?, id, ?, ? FROM kernel WHERE key = ?",
                [
                    (network, i, kernel.name, kernel.latency_ms, kernel.n_samples, key)
                    for i, (kernel, key) in enumerate(zip(measurement.kernels, keys, strict=True))
                ],
            )

    def add_isolated(self, target: Target, kernels: Sequence[KernelLatency]) -> None:
        """Write kernels that were measured outside of any network."""
        with self._errors("write"), self._transaction() as connection:
            _add_target(connection, target)
            _add_kernels(connection, [kernel.kernel.key for kernel in kernels])
            connection.executemany(
                "INSERT INTO isolated_kernel SELECT ?, id, ?, ?, ? FROM kernel WHERE key = ?",
                [
                    (target.key, k.latency_ms, k.n_samples, time.time(), k.kernel.key)
                    for k in kernels
                ],
            )

    def isolated(self, target: Target) -> dict[Kernel, KernelLatency]:
        """The newest isolated measurement of every kernel of a target."""
        with self._errors("read", *_DAMAGE):
            rows = self._connection.execute(
                "SELECT key, latency_ms, n_samples FROM isolated_kernel JOIN kernel "
                "ON kernel.id = isolated_kernel.kernel WHERE target = ? "
                "ORDER BY isolated_kernel.rowid",
                (target.key,),
            )
            found = {}
            for key, latency_ms, n_samples in rows:
                kernel = Kernel.from_key(key)
                found[kernel] = KernelLatency(kernel.kind, kernel, latency_ms, n_samples)
            return found

    def add_failure(self, target: Target, digest: str, name: str, reason: str) -> None:
        """Remember that a model could not be measured, so that it is not tried for ever."""
        with self._errors("write"), self._transaction() as connection:
            connection.execute(
                "INSERT INTO failure VALUES (?, ?, ?, ?, ?)",
                (target.key, digest, name, reason, time.time()),
            )

    def has(self, target: Target, digest: str) -> bool:
        """Whether a model was measured on a target, by this process or by another, until now."""
        return self._finds(
            "SELECT 1 FROM network WHERE target = ? AND digest = ?", target.key, digest
        )

    def has_isolated(self, target: Target, kernel: Kernel) -> bool:
        """Whether a kernel was measured outside of any network on a target until now."""
        return self._finds(
            "SELECT 1 FROM isolated_kernel JOIN kernel ON kernel.id = isolated_kernel.kernel "
            "WHERE target = ? AND key = ?",
            target.key,
            kernel.key,
        )

    def n_failures(self, target: Target, digest: str) -> int:
        """How often measuring a model on a target has failed until now."""
        with self._errors("read", *_DAMAGE):
            (n,) = self._connection.execute(
                "SELECT count(*) FROM failure WHERE target = ? AND digest = ?", (target.key, digest)
            ).fetchone()
            return int(n)

    def _finds(self, query: str, *values: str) -> bool:
        with self._errors("read", *_DAMAGE):
            return self._connection.execute(query + " LIMIT 1", values).fetchone() is not None

    def failures(self, target: Target) -> dict[str, str]:
        """Reason by digest of the models that could not be measured on a target."""
        with self._errors("read", *_DAMAGE):
            return dict(
                self._connection.execute(
                    "SELECT digest, reason FROM failure WHERE target = ? ORDER BY rowid",
                    (target.key,),
                )
            )

    def devices(self) -> list[dict[str, Any]]:
        """The states of devices in which something was measured, as `Device.to_dict` wrote them."""
        with self._errors("read", *_DAMAGE):
            return [
                json.loads(record)
                for (record,) in self._connection.execute("SELECT record FROM device ORDER BY id")
            ]

    def networks(
        self, target: Target | None = None, *, digest: str | None = None
    ) -> list[NetworkMeasurement]:
        """Measurements in the order in which they were made, of one target and model or of all."""
        with self._errors("read", *_DAMAGE), self._snapshot():
            targets = {
                key: Target.from_dict(json.loads(text))
                for key, text in self._connection.execute("SELECT key, target FROM target")
            }
            kernels = {
                key: Kernel.from_key(text)
                for key, text in self._connection.execute("SELECT id, key FROM kernel")
            }
            wanted = "(?1 IS NULL OR target = ?1) AND (?2 IS NULL OR digest = ?2)"
            given = (target.key if target else None, digest)
            runs: dict[int, list[KernelLatency]] = {}
            for network, name, kernel, latency_ms, n_samples in self._connection.execute(
                f"SELECT network, name, kernel, latency_ms, n_samples FROM network_kernel "
                f"WHERE network IN (SELECT id FROM network WHERE {wanted}) "
                f"ORDER BY network, position",
                given,
            ):
                runs.setdefault(network, []).append(
                    KernelLatency(name, kernels[kernel], latency_ms, n_samples)
                )
            scalars = ", ".join(_SCALARS)
            rows = self._connection.execute(
                f"SELECT id, target, tags, wall_ms, cpu_ms, switches, faults, chunk, slowdown, "
                f"{scalars} FROM network WHERE {wanted} ORDER BY id",
                given,
            ).fetchall()
            return [
                NetworkMeasurement(
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
                    tags=json.loads(tags),
                    **dict(zip(_SCALARS, values, strict=True)),
                )
                for i, key, tags, wall, cpu, lost, faults, chunk, slow, *values in rows
            ]

    def measured_between(self, target: Target | None = None) -> tuple[float, float] | None:
        """When the first and the last network were measured, in Unix seconds; None: none was.

        By the system's clock, which may have been set in between: for people, not for order.
        """
        with self._errors("read"):
            first, last = self._connection.execute(
                "SELECT min(created_at), max(created_at) FROM network "
                "WHERE ?1 IS NULL OR target = ?1",
                (target.key if target else None,),
            ).fetchone()
        return None if first is None else (float(first), float(last))

    def references_ms(self, target: Target) -> list[float]:
        """What the reference network took beside earlier measurements, the newest last."""
        with self._errors("read", *_DAMAGE):
            rows = self._connection.execute(
                "SELECT reference_ms FROM network WHERE target = ? AND reference_ms NOT NULL "
                "ORDER BY id DESC LIMIT ?",
                (target.key, N_REFERENCES),
            ).fetchall()
            return [float(ms) for (ms,) in reversed(rows)]

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


def _add_target(connection: sqlite3.Connection, target: Target) -> None:
    connection.execute(
        "INSERT OR IGNORE INTO target VALUES (?, ?)", (target.key, json.dumps(target.to_dict()))
    )


def _add_kernels(connection: sqlite3.Connection, keys: Sequence[str]) -> None:
    connection.executemany(
        "INSERT OR IGNORE INTO kernel (key) VALUES (?)", [(key,) for key in set(keys)]
    )
