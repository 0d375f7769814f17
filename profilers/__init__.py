"""Measure what networks and their kernels cost on a device. Useful without any search."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

__all__ = ["read_measurements"]
__distribution__ = "hwnas"


def read_measurements(
    path: Path | str, *, kind: Literal["networks", "kernels"] | None = None
) -> pd.DataFrame:
    """Read measurements for analysis: tables that ship, or a measurement database.

    It is `profilers.tables.read_measurements`, which says more; imported when it is called, for
    pandas and pyarrow are heavy.
    """
    frame: pd.DataFrame = import_module("profilers.tables").read_measurements(path, kind=kind)
    return frame
