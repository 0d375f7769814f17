"""Measurements as Parquet files that are small enough to ship, and back.

A folder of tables holds `networks.parquet`, `kernels.parquet`, `samples.parquet`,
`isolated.parquet` and a README. The columns are described in `table_columns.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from profilers.errors import StoreError
from profilers.kernels import Kernel, macs
from profilers.limited import TABLE_BYTES
from profilers.measurement import FAMILY_TAG, SPACE_TAG, KernelLatency, NetworkMeasurement
from profilers.parquet import read_parquet
from profilers.store import MeasurementStore
from profilers.table_columns import TABLES, TABLES_FORMAT
from profilers.targets import Target
from profilers.timing import LatencySamples

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["networks", "kernels", "isolated"]
Isolated = Mapping[Target, Mapping[Kernel, KernelLatency]]
FloatArray = NDArray[np.float64]

ENOUGH_SAMPLES = 256  # of one network, unless these say something else than all
LATENCY_TOLERANCE = 0.002
TIME_BITS = 11  # of the mantissa: a sample is kept to 0.05 %, far below its noise
_DESCRIPTION = ("kind", "attributes", "inputs", "outputs", "macs", "bytes")  # of a kernel

# What damaged files and texts raise when they are decoded.
_DAMAGE = (
    pa.ArrowException, OSError, ValueError, KeyError, TypeError, IndexError, AttributeError,
    RecursionError,
)  # fmt: skip


def write_measurements(
    measurements: Sequence[NetworkMeasurement], folder: Path, *, isolated: Isolated | None = None
) -> dict[str, int]:
    """Write the tables of a folder, over those that are there.

    Of a network's runs so many are kept that they say the same of its latency, usually 256; the
    columns of `networks.parquet` are of all runs.

    Args:
        measurements: Of networks, at least one.
        folder: Made if it is not there.
        isolated: By target what `MeasurementStore.isolated` says of it; None: nothing.

    Returns:
        Bytes of each file by its name.

    Raises:
        StoreError: There is nothing to write, or the folder cannot be written.
    """
    if not measurements:
        raise StoreError("no measurements to write: measure some first, with hwnas profile")
    tables = {
        "networks": _network_table(measurements),
        "kernels": _kernel_table(measurements),
        "isolated": _isolated_table(isolated or {}),
        "samples": _sample_table([m.samples for m in measurements]),
    }
    sizes = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for kind, table in tables.items():
            path, part = folder / f"{kind}.parquet", folder / f"{kind}.parquet.part"
            times = [
                name for name in table.column_names if table.schema.field(name).type == "float"
            ]
            pq.write_table(
                table,
                part,
                compression="zstd",
                compression_level=19,
                use_dictionary=[name for name in table.column_names if name not in times],
                use_byte_stream_split=times,  # a time's first bytes are alike, its last are zeros
            )
            part.replace(path)
            sizes[path.name] = path.stat().st_size
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"cannot write the tables in {folder}: {error}") from None
    return sizes


def _table(kind: str, columns: Mapping[str, Any]) -> pa.Table:
    of_kind = TABLES[kind][1]
    schema = pa.schema(
        [(name, column.type) for name, column in of_kind.items()],
        metadata={"hwnas_table": kind, "hwnas_format": TABLES_FORMAT},
    )
    return pa.table({name: columns[name] for name in of_kind}, schema=schema)


def _network_table(measurements: Sequence[NetworkMeasurement]) -> pa.Table:
    rows = [_network_row(m) | {"network": i} for i, m in enumerate(measurements)]
    return _table("networks", {name: [row[name] for row in rows] for name in TABLES["networks"][1]})


def _network_row(m: NetworkMeasurement) -> dict[str, Any]:
    samples, error = m.samples, m.samples.relative_error
    return {
        "name": m.name,
        "family": m.tags.get(FAMILY_TAG),
        "space": m.tags.get(SPACE_TAG),
        "digest": m.digest,
        **m.target.to_dict(),
        "latency_ms": m.latency_ms,
        "min_ms": samples.min_ms,
        "p50_ms": samples.percentile_ms(50),
        "p90_ms": samples.percentile_ms(90),
        "p99_ms": samples.percentile_ms(99),
        "contended_share": samples.contended_share,
        "basis": samples.basis.value,
        "relative_error": error if math.isfinite(error) else None,
        "n_samples": len(samples.wall_ms),
        "n_kernels": len(m.kernels),
        "kernel_sum_ms": m.kernel_sum_ms,
        "peak_memory_bytes": m.peak_memory_bytes,
        "computed_peak_memory_bytes": m.computed_peak_memory_bytes,
        "process_peak_bytes": m.process_peak_bytes,
        "energy_mj": m.energy_mj,
        "energy_relative_spread": m.energy_relative_spread,
        "reference_ms": m.reference_ms,
        "tags": json.dumps(dict(m.tags), sort_keys=True),
    }


def _kernel_table(measurements: Sequence[NetworkMeasurement]) -> pa.Table:
    runs = [(i, j, run) for i, m in enumerate(measurements) for j, run in enumerate(m.kernels)]
    return _table("kernels", _run_columns([run for _, _, run in runs]) | {
        "network": [i for i, _, _ in runs],
        "position": [j for _, j, _ in runs],
        "name": [run.name for _, _, run in runs],
    })  # fmt: skip


def _isolated_table(isolated: Isolated) -> pa.Table:
    runs = [(target, run) for target, of_target in isolated.items() for run in of_target.values()]
    plain = {target: target.to_dict() for target in isolated}
    targets = {
        name: [plain[target][name] for target, _ in runs] for name in Target.__dataclass_fields__
    }
    return _table("isolated", targets | _run_columns([run for _, run in runs]))


def _run_columns(runs: Sequence[KernelLatency]) -> dict[str, Any]:
    """What ran, and how long it took."""
    described = {run.kernel: _kernel_columns(run.kernel) for run in runs}
    return {name: [described[run.kernel][name] for run in runs] for name in _DESCRIPTION} | {
        "latency_ms": [run.latency_ms for run in runs],
        "n_samples": [run.n_samples for run in runs],
    }


def _kernel_columns(kernel: Kernel) -> dict[str, Any]:
    plain = kernel.to_dict()
    texts = {
        name: json.dumps(plain[name], separators=(",", ":"))
        for name in ("attributes", "inputs", "outputs")
    }
    return texts | {"kind": kernel.kind, "macs": macs(kernel), "bytes": kernel.n_bytes}


def _sample_table(networks: Sequence[LatencySamples]) -> pa.Table:
    kept = [_thinned(samples) for samples in networks]
    names = [name for name in TABLES["samples"][1] if name != "network"]
    return _table("samples", {
        "network": np.repeat(np.arange(len(kept)), [len(samples.wall_ms) for samples in kept]),
        **{name: np.concatenate([getattr(samples, name) for samples in kept]) for name in names},
    })  # fmt: skip


def _thinned(samples: LatencySamples) -> LatencySamples:
    """As few of the samples, rounded, as say the same of the latency and rest on the same basis."""
    n_kept = ENOUGH_SAMPLES
    while n_kept < len(samples.wall_ms):
        kept = _take(samples, _spread(samples, n_kept))
        is_close = abs(kept.latency_ms / samples.latency_ms - 1) <= LATENCY_TOLERANCE
        is_trusted = kept.warning is None, samples.warning is None
        if is_close and kept.basis is samples.basis and is_trusted[0] == is_trusted[1]:
            return kept
        n_kept *= 2
    return samples


def _take(samples: LatencySamples, rows: NDArray[np.int64]) -> LatencySamples:
    return LatencySamples(
        wall_ms=_rounded(samples.wall_ms[rows]),
        cpu_ms=_rounded(samples.cpu_ms[rows]),
        switches=samples.switches[rows],
        faults=samples.faults[rows],
        chunk=samples.chunk[rows],
        slowdown=_rounded(samples.slowdown[rows]),
    )


def _spread(samples: LatencySamples, n: int) -> NDArray[np.int64]:
    """Rows of about `n` samples in their order: of every chunk every k-th by wall time.

    So the medians and percentiles of every chunk stay, and with them what is judged by chunks.
    """
    rows = []
    for number in np.unique(samples.chunk):
        of_chunk = np.flatnonzero(samples.chunk == number)
        by_time = of_chunk[np.argsort(samples.wall_ms[of_chunk], kind="stable")]
        n_kept = max(1, len(of_chunk) * n // len(samples.chunk))
        # The middle one of each of `n_kept` equal parts.
        middles = (np.arange(n_kept) + 0.5) * len(of_chunk) / n_kept
        rows.append(by_time[middles.astype(np.int64)])
    return np.sort(np.concatenate(rows))


def _rounded(values: FloatArray) -> FloatArray:
    mantissa, exponent = np.frexp(values)
    return np.asarray(np.ldexp(np.round(mantissa * 2**TIME_BITS) / 2**TIME_BITS, exponent))


def read_measurements(path: Path | str, *, kind: Kind | None = None) -> pd.DataFrame:
    """Read measurements for analysis; `profilers/table_columns.py` says what the columns mean.

    Args:
        path: A folder of tables, one Parquet file of them, or a measurement database.
        kind: `networks`, one row a measurement, or `kernels`, one row a kernel of each; they
            join on the column `network`. `isolated`: one row a kernel that was measured outside of
            networks. None: what the file holds, else `networks`.

    Raises:
        StoreError: It is none of these, damaged, or of a newer version.

    Example:
        >>> read_measurements("nowhere")
        Traceback (most recent call last):
        ...
        profilers.errors.StoreError: cannot read nowhere: No such file or directory. Name a folder \
of tables, a Parquet file of one, or a measurement database
    """
    path = Path(path)
    if kind not in ("networks", "kernels", "isolated", None):
        raise ValueError(f"kind must be 'networks', 'kernels' or 'isolated', got {kind!r}")
    if path.is_dir():
        table = _read_table(path / f"{kind or 'networks'}.parquet", kind or "networks")
    elif _is_database(path):
        with MeasurementStore(path) as store:
            measured = store.networks()
            if kind == "isolated":
                targets = dict.fromkeys(m.target for m in measured)
                table = _isolated_table({target: store.isolated(target) for target in targets})
            else:
                table = (_kernel_table if kind == "kernels" else _network_table)(measured)
    else:
        table = _read_table(path, kind)
    frame: pd.DataFrame = table.to_pandas()
    return frame


def load_measurements(folder: Path) -> list[NetworkMeasurement]:
    """Rebuild the measurements of a folder of tables, to fit predictors on.

    Times of kernels are rounded to single precision, those of runs to 0.05 %, and of the runs only
    some are kept: a network's latency is within 0.2 % of the table's.

    Raises:
        StoreError: A table is missing, damaged or of a newer version.
    """
    networks, kernels, samples = (
        _read_table(folder / f"{kind}.parquet", kind) for kind in ("networks", "kernels", "samples")
    )
    try:
        of_network = _split_kernels(kernels)
        raw = {name: samples[name].to_numpy() for name in samples.column_names}
        measurements = []
        for row in networks.to_pylist():
            is_own = raw["network"] == row["network"]
            columns = {name: values[is_own] for name, values in raw.items()}
            measurements.append(
                NetworkMeasurement(
                    name=row["name"],
                    digest=row["digest"],
                    target=Target.from_dict(row),
                    samples=LatencySamples(
                        wall_ms=columns["wall_ms"].astype(np.float64),
                        cpu_ms=columns["cpu_ms"].astype(np.float64),
                        switches=columns["switches"].astype(np.int64),
                        faults=columns["faults"].astype(np.int64),
                        chunk=columns["chunk"].astype(np.int64),
                        slowdown=columns["slowdown"].astype(np.float64),
                    ),
                    kernels=tuple(of_network.get(row["network"], ())),
                    peak_memory_bytes=row["peak_memory_bytes"],
                    computed_peak_memory_bytes=row["computed_peak_memory_bytes"],
                    process_peak_bytes=row["process_peak_bytes"],
                    energy_mj=row["energy_mj"],
                    energy_relative_spread=row["energy_relative_spread"],
                    reference_ms=row["reference_ms"],
                    tags=json.loads(row["tags"]),
                )
            )
    except _DAMAGE as error:
        raise StoreError(f"the tables in {folder} do not fit each other: {error!r}") from None
    return measurements


def load_isolated(folder: Path, target: Target | None = None) -> dict[Kernel, KernelLatency]:
    """The kernels of a folder of tables that were measured outside of networks, by kernel.

    Args:
        folder: Where `write_measurements` wrote.
        target: Whose kernels; None: of the only target there is.

    Raises:
        StoreError: The table is missing, damaged or of a newer version, or it is of several targets
            and none is chosen.
    """
    path = folder / "isolated.parquet"
    rows = _read_table(path, "isolated").to_pylist()
    try:
        targets = [Target.from_dict(row) for row in rows]
        if target is None and len(set(targets)) > 1:
            names = "; ".join(sorted({found.describe() for found in targets}))
            raise StoreError(f"{path} is of several targets, and one must be chosen: {names}")
        built: dict[tuple[str, ...], Kernel] = {}
        found = {}
        for row, of_target in zip(rows, targets, strict=True):
            if target in (None, of_target):
                kernel = _rebuilt(row, built)
                found[kernel] = KernelLatency(
                    kernel.kind, kernel, row["latency_ms"], row["n_samples"]
                )
    except _DAMAGE as error:
        raise StoreError(f"{path} is damaged: {error!r}") from None
    return found


def _split_kernels(table: pa.Table) -> dict[int, list[KernelLatency]]:
    """The kernels of each network by its number, in running order."""
    built: dict[tuple[str, ...], Kernel] = {}
    found: dict[int, list[KernelLatency]] = {}
    for row in table.sort_by([("network", "ascending"), ("position", "ascending")]).to_pylist():
        kernel = _rebuilt(row, built)
        run = KernelLatency(row["name"], kernel, row["latency_ms"], row["n_samples"])
        found.setdefault(row["network"], []).append(run)
    return found


def _rebuilt(row: Mapping[str, Any], built: dict[tuple[str, ...], Kernel]) -> Kernel:
    """The kernel that a row describes, taken from those that are `built` or added to them."""
    texts = {name: row[name] for name in ("attributes", "inputs", "outputs")}
    key = (row["kind"], *texts.values())
    if key not in built:
        plain = {name: json.loads(text) for name, text in texts.items()}
        built[key] = Kernel.from_dict({"kind": row["kind"], **plain})
    return built[key]


def _is_database(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(16) == b"SQLite format 3\0"
    except OSError as error:
        raise StoreError(
            f"cannot read {path}: {error.strerror or error}. Name a folder of tables, a Parquet "
            f"file of one, or a measurement database"
        ) from None


def _read_table(path: Path, kind: str | None) -> pa.Table:
    """Read a table that this module wrote; `kind` None: any of them."""
    try:
        table = read_parquet(path, TABLE_BYTES)
        table.validate(full=True)
        columns = set(table.column_names)
        said = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
    except _DAMAGE as error:
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise StoreError(
            f"cannot read {path} as a table of measurements: {reason}. Name a folder that "
            f"write_measurements or `hwnas table` wrote, or a measurement database"
        ) from None
    found = said.get("hwnas_table", "")
    if found not in TABLES or said.get("hwnas_format") != TABLES_FORMAT:
        raise StoreError(
            f"{path} is no table of measurements of format {TABLES_FORMAT} (it says "
            f"{said.get('hwnas_format', 'nothing')}): name another file, or update hwnas if it is "
            f"newer"
        )
    if kind is not None and found != kind:
        raise StoreError(f"{path} holds {found}, not {kind}: ask for kind={found!r}")
    missing = [name for name in TABLES[found][1] if name not in columns]
    if missing:
        raise StoreError(f"{path} has no column {missing[0]!r}: it is damaged, restore it")
    return table
