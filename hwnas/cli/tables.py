"""`hwnas table`: measurements as small files that can be shipped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
    from profilers.errors import StoreError, unknown_name
    from profilers.store import MeasurementStore
    from profilers.table_columns import write_readme
    from profilers.tables import write_measurements

    if not measurements.exists():
        raise StoreError(f"there is no measurement database {measurements}: name one, or measure")
    with MeasurementStore(measurements) as store:
        measured, records = store.networks(), store.devices()
    fingerprints = sorted({m.target.device for m in measured})
    if device is None and len(fingerprints) > 1:
        raise StoreError(
            f"{measurements} is of several devices, and a folder of tables is of one: choose with "
            f"--device ({', '.join(fingerprints)})"
        )
    if device is not None and device not in fingerprints:
        raise StoreError(unknown_name("device", device, fingerprints))
    chosen = [m for m in measured if device is None or m.target.device == device]
    sizes = write_measurements(chosen, folder)
    # The newest state of the device: drivers and clocks change, its fingerprint does not.
    state = [r for r in records if r["fingerprint"] == chosen[0].target.device][-1]
    write_readme(folder, state, how)
    if as_json:
        print_json({"folder": str(folder), "n_networks": len(chosen), "file_bytes": sizes})
        return
    print_table(f"{len(chosen)} networks in {folder}", ("file", "bytes"), list(sizes.items()))
