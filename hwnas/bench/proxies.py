"""Do zero-cost proxies rank cells of NAS-Bench-201 as published scores of the same proxies do?

A table has a row for each cell and task: `space`, `task`, `arch`, `val_accuracy`, and published
scores `zc_*`. Scores are computed here anew, on noise: the weights decide most of them, and the
images of the benchmark need not be at hand.

Reference:
    Krishnakumar et al., NAS-Bench-Suite-Zero, NeurIPS Datasets and Benchmarks 2022 (the scores).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hwnas.bench.rank_agreement import rank_agreement
from hwnas.errors import ConfigError, DataError, unknown_name
from hwnas.evaluators.zero_cost import PROXIES, zero_cost_scores
from hwnas.progress import Progress
from hwnas.spaces.base import Genotype, SpaceError
from hwnas.spaces.nasbench201 import EDGES, OPTIONS, nasbench201_space, parse_cell
from hwnas.training import seeded
from profilers.devices import this_device
from profilers.limited import TABLE_BYTES
from profilers.parquet import read_parquet

__all__ = ["bench_proxies", "cell_of"]

SPACE = "nb201"
# By task: shape of its images, and number of classes.
TASKS: Mapping[str, tuple[tuple[int, int, int], int]] = {
    "cifar10": ((3, 32, 32), 10),
    "cifar100": ((3, 32, 32), 100),
    "ImageNet16-120": ((3, 16, 16), 120),
}
COLUMNS = ("space", "task", "arch", "val_accuracy")
# Published scores that are called otherwise than the proxies here.
_PUBLISHED = {"macs": "zc_flops", "naswot": "zc_nwot"}
# NASLib writes a cell as a number for each edge, by source first.
_NASLIB_EDGES = tuple(sorted(EDGES))
_NASLIB_OPTIONS = ("skip_connect", "none", "nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3")
_NASLIB_CELL = re.compile(r"\(\d{1,3}(?:, ?\d{1,3})*,?\)")
N_BATCHES = 2
MIN_CELLS = 3


def bench_proxies(
    path: Path,
    *,
    task: str,
    n_cells: int,
    batch_size: int,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """Score random cells of the table by all proxies, and compare the orders.

    Ctrl-C ends the scoring; what was scored by then is compared.

    Args:
        path: Parquet file.
        task: Whose rows are taken.
        n_cells: That are scored; fewer, if the table has fewer.
        batch_size: Inputs of noise a batch, with random labels.
        seed: Of the cells, the noise and the weights.
        progress: Told how it goes on.

    Returns:
        What was asked for, the seconds of a cell, and by proxy Spearman's rho with 95 % intervals:
        of its score `with_published` (None: none was published), `with_accuracy`, and of the
        published score with accuracy, `published_with_accuracy`.

    Raises:
        ConfigError: There is no such task, or too few cells are asked for.
        DataError: The table cannot be read, or has no cells of that task.
    """
    if task not in TASKS:
        raise ConfigError(unknown_name("task", task, TASKS))
    if n_cells < MIN_CELLS or batch_size < 2:
        raise ConfigError(
            f"at least {MIN_CELLS} cells and batches of 2 are needed, got {n_cells=}, {batch_size=}"
        )
    frame = _cells(path, task).sample(frac=1.0, random_state=seed).head(n_cells)
    if len(frame) < MIN_CELLS:
        raise DataError(f"{path} has {len(frame)} cells of {SPACE} and {task}, too few to compare")
    shape, n_classes = TASKS[task]
    space = nasbench201_space(shape, n_classes)
    batches = _noise(batch_size, shape, n_classes, seed)
    scores: list[dict[str, float]] = []
    start_s = time.perf_counter()
    with progress.task("scoring cells", len(frame)) as tracked:
        try:
            for text in frame["arch"]:
                architecture = space.architecture(cell_of(str(text)))
                scores.append(zero_cost_scores(architecture, batches, seed=seed))
                tracked.update(len(scores))
        except KeyboardInterrupt:
            if len(scores) < MIN_CELLS:
                raise
            progress.say(f"stopped: {len(scores)} of {len(frame)} cells are compared")
    frame = frame.head(len(scores))
    accuracy = frame["val_accuracy"].to_numpy(np.float64)
    return {
        "table": path.name,
        "task": task,
        "n_cells": len(scores),
        "batch_size": batch_size,
        "n_batches": N_BATCHES,
        "seed": seed,
        "threads": torch.get_num_threads(),
        "device": this_device().cpu,
        "seconds_a_cell": (time.perf_counter() - start_s) / len(scores),
        "proxies": {
            name: _agreements([row[name] for row in scores], _published(frame, name), accuracy)
            for name in PROXIES
        },
    }


def cell_of(text: str) -> Genotype:
    """A cell as the paper names it, `|nor_conv_3x3~0|+…`, or as NASLib does, `(0, 2, 3, 2, 3, 1)`.

    Raises:
        SpaceError: It is none of both.

    Example:
        >>> cell_of("(1, 1, 2, 1, 1, 1)")  # a 3×3 convolution from the first node to the last
        (0, 0, 0, 3, 0, 0)
    """
    if text.lstrip().startswith("|"):
        return parse_cell(text)
    is_listed = _NASLIB_CELL.fullmatch(text.strip())
    numbers = tuple(map(int, re.findall(r"\d+", text))) if is_listed else ()
    if len(numbers) != len(EDGES) or not all(0 <= n < len(_NASLIB_OPTIONS) for n in numbers):
        raise SpaceError(
            f"a cell is named like |nor_conv_3x3~0|+… or (0, 2, 3, 2, 3, 1), got {text[:120]!r}"
        )
    chosen = dict(zip(_NASLIB_EDGES, numbers, strict=True))
    return tuple(OPTIONS.index(_NASLIB_OPTIONS[chosen[edge]]) for edge in EDGES)


def _cells(path: Path, task: str) -> Any:
    try:
        frame = read_parquet(path, TABLE_BYTES).to_pandas()
    except Exception as reason:  # of Arrow and pandas: they share no other base
        raise DataError(f"cannot read the table {path}: {reason}") from None
    if missing := [name for name in COLUMNS if name not in frame.columns]:
        raise DataError(
            f"{path} has no column {missing[0]!r}; it has {', '.join(map(str, frame.columns))}"
        )
    return frame[(frame["space"] == SPACE) & (frame["task"] == task)]


def _noise(
    batch_size: int, shape: tuple[int, ...], n_classes: int, seed: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    def draw() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for _ in range(N_BATCHES):
            yield torch.randn(batch_size, *shape), torch.randint(n_classes, (batch_size,))

    with seeded(seed):
        return list(draw())


def _published(frame: Any, name: str) -> list[float] | None:
    column = _PUBLISHED.get(name, f"zc_{name}")
    return frame[column].tolist() if column in frame.columns else None


def _agreements(
    scores: Sequence[float], published: Sequence[float] | None, accuracy: Any
) -> dict[str, Any]:
    return {
        "with_published": None if published is None else _spearman(scores, published),
        "with_accuracy": _spearman(scores, accuracy),
        "published_with_accuracy": None if published is None else _spearman(published, accuracy),
    }


def _spearman(x: Sequence[float], y: Sequence[float]) -> dict[str, float | None]:
    return rank_agreement(x, y)["spearman"]
