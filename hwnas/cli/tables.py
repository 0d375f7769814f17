"""`hwnas table`: measurements as small files that can be shipped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hwnas.cli.output import DEFAULT_MEASUREMENTS, AsJson, Measurements, print_json, print_table


def table(
    folder: Annotated[Path, typer.Argument(help="Folder of the tables, made or written over.")],
    measurements: Measurements = DEFAULT_MEASUREMENTS,
    how: Annotated[
        str, typer.Option("--how", help="How they were measured, for the README.")
    ] = "Measured with `hwnas profile`.",
    device: Annotated[
        str | None,
        typer.Option("--device", help="Fingerprint, where the database is of several devices."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a database's measurements as Parquet tables with a README: small enough to ship.

    Example: [bold]hwnas table data/my-device --how "On a quiet evening."[/bold]
    """
    from profilers.devices import Device
    from profilers.errors import StoreError, unknown_name
    from profilers.store import MeasurementStore
    from profilers.table_columns import write_readme
    from profilers.tables import write_measurements

    if not measurements.exists():
        raise StoreError(f"there is no measurement database {measurements}: name one, or measure")
    with MeasurementStore(measurements) as store:
        measured, records = store.networks(), store.devices()
        targets = dict.fromkeys(m.target for m in measured)
        isolated = {target: store.isolated(target) for target in targets}
        moments = {target: store.measured_between(target) for target in targets}
    fingerprints = sorted({m.target.device for m in measured})
    if device is None and len(fingerprints) > 1:
        raise StoreError(
            f"{measurements} is of several devices, and a folder of tables is of one: choose with "
            f"--device ({', '.join(fingerprints)})"
        )
    if device is not None and device not in fingerprints:
        raise StoreError(unknown_name("device", device, fingerprints))
    chosen = [m for m in measured if device is None or m.target.device == device]
    here = dict.fromkeys(m.target for m in chosen)
    sizes = write_measurements(
        chosen, folder, isolated={target: isolated[target] for target in here}
    )
    times = [moment for target in here for moment in moments[target] or ()]
    # The newest state of the device: drivers and clocks change, its fingerprint does not.
    state: dict[str, Any] = {}
    for record in records:
        known = Device.from_dict(record)
        fingerprints_of = {known.fingerprint_for(None), known.fingerprint_for("cuda")}
        if chosen[0].target.device in fingerprints_of | {record["fingerprint"]}:
            state = record
    write_readme(folder, state, how, when=(min(times), max(times)) if times else None)
    if as_json:
        print_json({"folder": str(folder), "n_networks": len(chosen), "file_bytes": sizes})
        return
    print_table(f"{len(chosen)} networks in {folder}", ("file", "bytes"), list(sizes.items()))
