"""Which networks are trained to the end, and their models for other batch sizes."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from hwnas.baselines import baselines
from hwnas.config import SearchConfig, check_trusted, check_unchanged, read_config
from hwnas.data import load_data
from hwnas.errors import RunFolderError, unknown_name
from hwnas.front.filling import MAX_SLACK
from hwnas.front.finalist_weights import load_weights, weights_path
from hwnas.front.verify import BASELINE, Trained, export_candidate
from hwnas.pareto import best_first
from hwnas.spaces.for_data import space_for
from hwnas.strategies import Trial
from profilers.limited import TEXT_BYTES, read_bytes
from profilers.targets import make_target


def choose_finalists(
    trials: Sequence[Trial], n: int, *, limit_ms: float | None = None
) -> list[Trial]:
    """The `n` trials that are worth a long training, fastest first.

    Short training ranks only roughly, so the front alone would not do. Half are the best by Pareto
    rank, and within a rank by crowding distance; the others are the most accurate of the rest in
    each of as many ranges of latency, equal on a logarithmic scale. With a latency budget, a
    quarter are the most accurate of those that use nearly all of it: such networks gain most by a
    long training.

    Args:
        trials: Of a search; those that failed, or had less training than others, do not count.
        n: How many, at most; 0 or more.
        limit_ms: The latency budget; None: there is none.
    """
    whole = whole_trials(trials)
    if not whole:
        return []
    objectives = np.array([trial.objectives for trial in whole])
    order = best_first(objectives).tolist()
    chosen = order[: (n + 1) // 2]
    by_error = sorted(range(len(whole)), key=lambda i: (objectives[i, 0], objectives[i, 1]))
    if limit_ms is not None:
        is_near = objectives[:, 1] >= (1 - MAX_SLACK) * limit_ms
        n_there = sum(bool(is_near[i]) for i in chosen)
        near = [i for i in by_error if is_near[i] and i not in chosen]
        chosen += near[: max(0, n // 4 - n_there)]
    by_error = [i for i in by_error if i not in chosen]
    n_ranges = max(0, n - len(chosen))
    log_ms = np.log(objectives[:, 1])
    edges = np.linspace(log_ms.min(), log_ms.max(), n_ranges + 1)
    bins = np.clip(np.searchsorted(edges, log_ms, side="right") - 1, 0, max(0, n_ranges - 1))
    best_of_bin = {int(bins[i]): i for i in reversed(by_error)}
    chosen += best_of_bin.values()
    chosen += [i for i in by_error if i not in chosen][: n - len(chosen)]
    return sorted((whole[i] for i in chosen[:n]), key=_predicted_ms)


def whole_trials(trials: Sequence[Trial]) -> list[Trial]:
    """Those that did not fail and had as much training as any: only they compare."""
    complete = [trial for trial in trials if trial.objectives is not None]
    largest = max((trial.share for trial in complete), default=1.0)
    return [trial for trial in complete if trial.share == largest]


def _predicted_ms(trial: Trial) -> float:
    """Predicted latency of a complete trial."""
    assert trial.objectives is not None
    return trial.objectives[1]


def export_again(
    folder: Path,
    name: str,
    out: Path,
    *,
    batch: int,
    data_path: Path | None = None,
    trust: bool = False,
) -> float:
    """Export a network that a run trained to the end, for any batch size.

    Args:
        folder: Of the run.
        name: Of the network.
        out: Where the model goes.
        batch: Examples in one run of it.
        data_path: Of the data, where it lies elsewhere now.
        trust: Run code that the folder names (a space or data of the user's own).

    Returns:
        The largest difference between the logits of ONNX Runtime and PyTorch on real examples.

    Raises:
        RunFolderError: The folder is no run, holds no such network, or data or space have changed.
        ExportMismatchError: The export differs from PyTorch.
        ConfigError: The folder names code, and is not trusted.
    """
    tables = read_config(folder / "config.toml")
    config = SearchConfig.from_table(tables.get("search", {}))
    check_trusted(config, folder, trust=trust)
    path = data_path or (Path(config.data_path) if config.data_path else None)
    data = load_data(config.data, path=path)
    space = space_for(config.space, data)
    check_unchanged(
        folder,
        tables.get("run", {}),
        {"data_fingerprint": data.fingerprint, "space_fingerprint": space.fingerprint},
    )
    try:
        content = read_bytes(folder / "candidates.csv", TEXT_BYTES)
        rows = pd.read_csv(io.BytesIO(content)).set_index("name")
    except (OSError, ValueError, KeyError) as error:
        raise RunFolderError(
            f"cannot read {folder / 'candidates.csv'}: {error}; the run has to "
            f"come to its end first"
        ) from None
    if name not in rows.index:
        raise RunFolderError(unknown_name("network", name, map(str, rows.index)))
    if rows.loc[name, "kind"] == BASELINE:
        architecture = baselines(data)[name]
        genotype = None
    else:
        genotype = tuple(json.loads(str(rows.loc[name, "genotype"])))
        architecture = space.architecture(genotype)
    path = weights_path(folder, name)
    network = load_weights(path, architecture)
    if network is None:
        raise RunFolderError(f"{path} is missing or damaged")
    target = make_target(
        config.target, threads=config.threads, precision=config.precision, batch=batch
    )
    return export_candidate(Trained(name, network, architecture, genotype), data, target, out)
