"""The columns of the tables that ship, each described once, and the README that is made of them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from profilers.errors import StoreError

TABLES_FORMAT = "2"


class Column(NamedTuple):
    """A column's type and meaning."""

    type: pa.DataType
    doc: str


NETWORK_COLUMNS: Mapping[str, Column] = {
    "network": Column(pa.int32(), "Number of the measurement in these tables, from 0."),
    "name": Column(pa.string(), "For people."),
    "family": Column(pa.string(), "Kind of network; null: not told."),
    "space": Column(pa.string(), "Search space that it is of; null: of none."),
    "digest": Column(pa.string(), "Tells models apart."),
    "runtime": Column(pa.string(), "What ran it: ONNX Runtime on the CPU is `onnxruntime-cpu`."),
    "version": Column(pa.string(), "The runtime's version."),
    "precision": Column(pa.string(), "Of weights and activations."),
    "threads": Column(pa.int32(), "Threads within one kernel."),
    "batch": Column(pa.int32(), "Examples in one run; times and memory are per run."),
    "device": Column(pa.string(), "Fingerprint of the device."),
    "device_name": Column(pa.string(), "For people."),
    "latency_ms": Column(pa.float64(), "Median of the undisturbed end-to-end runs, milliseconds."),
    "min_ms": Column(pa.float64(), "Fastest run, milliseconds."),
    "p50_ms": Column(pa.float64(), "Median of all runs, disturbed ones too, milliseconds."),
    "p90_ms": Column(pa.float64(), "90th percentile of all runs, milliseconds."),
    "p99_ms": Column(pa.float64(), "99th percentile of all runs, milliseconds."),
    "contended_share": Column(pa.float64(), "Share of the runs that were disturbed, 0 to 1."),
    "basis": Column(pa.string(), "What `latency_ms` rests on."),
    "relative_error": Column(
        pa.float64(),
        "Half the 95 % interval of `latency_ms` over it; null: too few runs to say.",
    ),
    "n_samples": Column(pa.int32(), "End-to-end runs that were timed."),
    "n_kernels": Column(pa.int32(), "Kernels in one run."),
    "kernel_sum_ms": Column(pa.float64(), "Sum of the kernels' latencies, milliseconds."),
    "peak_memory_bytes": Column(
        pa.int64(),
        "Most bytes of tensors in use at once as the runtime counts them, weights and inputs not "
        "among them; null: not measured.",
    ),
    "computed_peak_memory_bytes": Column(
        pa.int64(), "The same from the lifetimes of the tensors; null: not computed."
    ),
    "process_peak_bytes": Column(
        pa.int64(),
        "Most memory that the measuring process held by then, libraries and weights among it; "
        "null: not told.",
    ),
    "energy_mj": Column(pa.float64(), "Energy of one run, millijoules; null: no counter."),
    "energy_relative_spread": Column(
        pa.float64(),
        "From the lowest to the highest repeat of `energy_mj`, over it; null: not measured.",
    ),
    "reference_ms": Column(
        pa.float64(),
        "A fixed reference network in good moments beside it, milliseconds; null: not measured.",
    ),
    "tags": Column(pa.string(), "What else is known of the network, a JSON object of texts."),
}
_DESCRIPTION: Mapping[str, Column] = {
    "kind": Column(pa.string(), "What ran: the runtime's name of the fused operator."),
    "attributes": Column(pa.string(), "JSON object; a fused activation is among them."),
    "inputs": Column(pa.string(), "JSON list of [element type, shape], weights included."),
    "outputs": Column(pa.string(), "JSON list of [element type, shape]."),
    "macs": Column(pa.int64(), "Multiply-accumulates; 0 where no matrices are multiplied."),
    "bytes": Column(pa.int64(), "Bytes read and written if every tensor is touched once."),
}
KERNEL_COLUMNS: Mapping[str, Column] = {
    "network": Column(pa.int32(), "Row of `networks.parquet` with the same number."),
    "position": Column(pa.int32(), "In running order, from 0."),
    "name": Column(pa.string(), "The runtime's name of the node."),
    **_DESCRIPTION,
    "latency_ms": Column(
        pa.float32(), "Mean of the undisturbed runs inside the network, milliseconds."
    ),
    "n_samples": Column(pa.int32(), "Runs that it is the mean of."),
}
_TARGET = ("runtime", "version", "precision", "threads", "batch", "device", "device_name")
ISOLATED_COLUMNS: Mapping[str, Column] = {
    **{name: NETWORK_COLUMNS[name] for name in _TARGET},
    **_DESCRIPTION,
    "latency_ms": Column(pa.float32(), "Median over its copies in a made-up one, milliseconds."),
    "n_samples": Column(pa.int32(), "Runs of the copy that was run least."),
}
SAMPLE_COLUMNS: Mapping[str, Column] = {
    "network": Column(pa.int32(), "Row of `networks.parquet` with the same number."),
    "chunk": Column(pa.int32(), "Runs with the same number followed each other without a break."),
    "wall_ms": Column(pa.float32(), "Wall time of the run, milliseconds, to 0.05 %."),
    "cpu_ms": Column(
        pa.float32(), "CPU time of the thread, milliseconds, to 0.05 %; NaN: says nothing here."
    ),
    "switches": Column(pa.int32(), "Times that the work lost a core."),
    "faults": Column(pa.int32(), "Page faults."),
    "slowdown": Column(pa.float32(), "Time of a reference network beside it, 1 in good moments."),
}
TABLES: Mapping[str, tuple[str, Mapping[str, Column]]] = {
    "networks": ("one row a measured network", NETWORK_COLUMNS),
    "kernels": ("one row a kernel of a network, in running order", KERNEL_COLUMNS),
    "isolated": ("one row a kernel that was measured outside of the networks", ISOLATED_COLUMNS),
    "samples": ("end-to-end runs, so many that they say the same as all", SAMPLE_COLUMNS),
}


def write_readme(
    folder: Path,
    device: Mapping[str, Any],
    how: str,
    *,
    when: tuple[float, float] | None = None,
) -> None:
    """Write the README of a folder of tables: how, when, device, columns and units.

    Args:
        folder: Where `write_measurements` wrote.
        device: What `Device.to_dict` says of it.
        how: A sentence or more: commands, load of the machine.
        when: The first and the last measurement, Unix seconds, as
            `MeasurementStore.measured_between` says; None: not known.

    Raises:
        StoreError: The tables cannot be read, or the README cannot be written.
    """
    try:
        lines = [
            f"# {folder.name}",
            "",
            how.strip(),
            "",
            *_summary(pq.read_table(folder / "networks.parquet")),
            f"- measured: {_days(when)}",
            "- licence: the project's own (Apache-2.0); measured by the project itself",
            "",
            "```python",
            "from profilers import read_measurements",
            "",
            f'networks = read_measurements("data/{folder.name}")  # a pandas.DataFrame',
            f'kernels = read_measurements("data/{folder.name}", kind="kernels")',
            "```",
            "",
            "`profilers.tables.load_measurements` rebuilds what predictors are fitted on.",
            "",
            "## Device",
            "",
            *_device_lines(device),
        ]
        for kind, (rows, columns) in TABLES.items():
            path = folder / f"{kind}.parquet"
            lines += ["", f"## {path.name}: {rows} ({path.stat().st_size:,} bytes)", ""]
            lines += ["| column | type | meaning |", "| --- | --- | --- |"]
            lines += [f"| `{name}` | {column.type} | {column.doc} |"
                      for name, column in columns.items()]  # fmt: skip
        (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    except (OSError, pa.ArrowException, KeyError) as error:
        raise StoreError(f"cannot write the README of {folder}: {error}") from None


def _days(when: tuple[float, float] | None) -> str:
    """The first and the last day, in UTC, or the only one."""
    if when is None:
        return "not told when"
    days = [f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d}" for moment in when]
    return " to ".join(dict.fromkeys(days))


def _summary(networks: pa.Table) -> list[str]:
    """What the tables hold, as a list."""
    latency_ms, n_kernels = networks["latency_ms"], networks["n_kernels"]
    targets = networks.group_by(["runtime", "version", "precision", "threads", "batch"])
    families = networks.group_by("family").aggregate([([], "count_all")]).sort_by("family")
    return [
        f"- networks: {len(networks)}, {pc.min(latency_ms).as_py():.3g} to "
        f"{pc.max(latency_ms).as_py():.3g} ms, {pc.sum(n_kernels).as_py():,} kernels run",
        "- families: "
        + ", ".join(f"{row['family'] or 'not told'} {row['count_all']}"
                    for row in families.to_pylist()),
        *(
            f"- target: {row['runtime']} {row['version']}, {row['precision']}, "
            f"threads {row['threads']}, batch {row['batch']}"
            for row in targets.aggregate([]).to_pylist()
        ),
    ]  # fmt: skip


def _device_lines(device: Mapping[str, Any]) -> list[str]:
    """What is known of the device, as a list."""
    return [
        f"- {name}: {_text(value)}"
        for name, value in device.items()
        if value is not None and value != "" and value != [] and value != () and value != {}
    ]


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return "; ".join(map(_text, value))
    is_count = isinstance(value, int) and not isinstance(value, bool)
    return f"{value:,}" if is_count else str(value)
