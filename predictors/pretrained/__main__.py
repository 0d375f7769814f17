"""`python -m predictors.pretrained data/FOLDER…`: make the files that ship from their tables."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from predictors.errors import PredictorError
from predictors.files import describe_predictor, save_predictor
from predictors.network_latency import MIN_NETWORKS, NetworkLatencyPredictor
from predictors.pretrained import FOLDER, SUFFIX
from profilers.errors import ProfilerError
from profilers.tables import load_isolated, load_measurements
from profilers.targets import Target

MAX_SHIPPED_BYTES = 1_500_000  # a package is downloaded by everybody


def make_pretrained(tables: Path, out: Path = FOLDER) -> list[Path]:
    """Fit a predictor on each target of a folder of tables, and write it to the folder `out`.

    Targets with fewer than `MIN_NETWORKS` networks are left out.

    Raises:
        StoreError: The tables cannot be read.
        PredictorError: No target has enough networks, or a file is too large to ship.
    """
    measurements = load_measurements(tables)
    paths = []
    for target in dict.fromkeys(m.target for m in measurements):
        of_target = [m for m in measurements if m.target == target]
        if len({m.digest for m in of_target}) < MIN_NETWORKS:
            continue
        predictor = NetworkLatencyPredictor().fit(of_target, isolated=load_isolated(tables, target))
        path = out / (shipped_name(tables.resolve().name, target) + SUFFIX)
        save_predictor(predictor, path)
        if path.stat().st_size > MAX_SHIPPED_BYTES:
            n_bytes = path.stat().st_size
            path.unlink()
            raise PredictorError(
                f"{path.name} would be {n_bytes:,} bytes, more than the {MAX_SHIPPED_BYTES:,} that "
                f"are shipped: make its predictor smaller"
            )
        paths.append(path)
    if not paths:
        raise PredictorError(
            f"no target in {tables} has {MIN_NETWORKS} networks or more: measure more of them"
        )
    return paths


def shipped_name(device: str, target: Target) -> str:
    """The name of a target's predictor; `device` is the folder of its tables."""
    threads = "1-thread" if target.threads == 1 else f"{target.threads}-threads"
    batch = "" if target.batch == 1 else f".batch-{target.batch}"
    return f"{device}.{target.runtime}.{target.precision}.{threads}{batch}"


def main(arguments: Sequence[str]) -> int:
    """Make all of those folders; returns the exit code."""
    if not arguments:
        sys.stderr.write("usage: python -m predictors.pretrained FOLDER…\n")
        return 2
    try:
        for folder in arguments:
            for path in make_pretrained(Path(folder)):
                held_out = describe_predictor(path).training.held_out
                mape = f", held-out error {100 * held_out.mape:.1f} %" if held_out else ""
                sys.stdout.write(f"{path.name}: {path.stat().st_size:,} bytes{mape}\n")
    except (PredictorError, ProfilerError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
