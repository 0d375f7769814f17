"""How long strategies think: ask and tell when many trials are known, the study in memory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.bench.peers import PEERS, SAMPLERS, SampledStudy, missing, version
from hwnas.bench.search import DEFAULT_STRATEGY, check_strategies
from hwnas.bench.tables import SearchTable, read_search_table
from hwnas.errors import ConfigError
from hwnas.progress import Progress
from hwnas.strategies import Guided, Trial, make_strategy
from hwnas.strategies.base import Proposal
from profilers.devices import this_device

__all__ = ["bench_overhead"]

N_ASKED = 10


def bench_overhead(
    path: Path,
    *,
    accuracy: str,
    latency: str,
    strategies: Sequence[str],
    n_told: int,
    latency_is_known: bool,
    progress: Progress,
) -> dict[str, Any]:
    """Seconds of a proposal and of learning its result, by strategy, when `n_told` are known.

    Random rows of the table are told first (a strategy that asks for shares of a training is told
    what it asked for); then a strategy asks, and is told, `N_ASKED` times. Of
    a strategy of ours nothing but its own work is timed; of Optuna's samplers the study is a part.
    Seconds of the processor are what is left where other processes want it, too.

    Raises:
        ConfigError: If a strategy or column does not exist, or the table is too small.
        DataError: If the table cannot be used.
    """
    check_strategies(strategies)
    table = read_search_table(path, accuracy=accuracy, latency=latency)
    if n_told + N_ASKED > len(table):
        raise ConfigError(
            f"{path} has {len(table)} architectures, too few for {n_told} known and {N_ASKED} asked"
        )
    reasons = {name: reason for name in strategies if (reason := missing(name))}
    reasons |= {
        name: "not available: it proposes whole generations"
        for name in strategies
        if name in PEERS and name not in SAMPLERS
    }
    timed = [name for name in strategies if name not in reasons]
    found: dict[str, Any] = {}
    with progress.task("asking", len(timed)) as task:
        for i, name in enumerate(timed):
            found[name] = _overhead(name, table, n_told, latency_is_known)
            task.update(i + 1, note=name)
    return {
        "table": path.name,
        "accuracy": accuracy,
        "latency": latency,
        "latency_is_known": latency_is_known,
        "n_architectures": len(table),
        "n_told": n_told,
        "n_asked": N_ASKED,
        "threads": 1,
        "device": this_device().cpu,
        "strategies": found,
        "default": DEFAULT_STRATEGY,
        "not_available": reasons,
    }


@dataclass
class _Spent:
    """Seconds of the parts of one proposal that were timed: by the wall, and of the processor."""

    wall_s: float = 0.0
    cpu_s: float = 0.0

    @contextmanager
    def timed(self) -> Iterator[None]:
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        yield
        self.wall_s += time.perf_counter() - wall_s
        self.cpu_s += time.process_time() - cpu_s


def _overhead(name: str, table: SearchTable, n_told: int, latency_is_known: bool) -> dict[str, Any]:
    rows = np.random.default_rng(0).permutation(len(table))[:n_told]
    told = [(table.genotype(row), table.objectives(row)) for row in rows.tolist()]
    if name in SAMPLERS:
        study = SampledStudy(name, table, seed=0)
        for genotype, objectives in told:
            study.add(genotype, objectives)
        return _summary(name, [_timed_study(study, table) for _ in range(N_ASKED)], [])
    problem = table.problem(latency_is_known=latency_is_known)
    made = DEFAULT_STRATEGY if name == "default" else name
    strategy = make_strategy(made, problem, seed=0)
    if isinstance(make_strategy(made, problem, seed=0).ask(), Proposal):
        # What shares of a training it asks for follows from its own proposals alone.
        for number in range(n_told):
            proposal = Proposal.of(strategy.ask())
            strategy.tell(_trial(number, proposal, table))
    else:
        for number, (genotype, objectives) in enumerate(told):
            strategy.tell(Trial(number, genotype, objectives))
    times: list[_Spent] = []
    weighed: list[int] = []
    for number in range(n_told, n_told + N_ASKED):
        times.append(spent := _Spent())
        with spent.timed():
            proposal = Proposal.of(strategy.ask())
        trial = _trial(number, proposal, table)
        with spent.timed():
            strategy.tell(trial)
        if isinstance(strategy, Guided):
            weighed.append(strategy.n_weighed)
    return _summary(name, times, weighed)


def _trial(number: int, proposal: Proposal, table: SearchTable) -> Trial:
    row = table.row(proposal.genotype)
    assert row is not None  # the problem's budget leaves out what is not in the table
    return Trial(number, proposal.genotype, table.objectives(row), share=proposal.share)


def _timed_study(study: SampledStudy, table: SearchTable) -> _Spent:
    spent = _Spent()
    with spent.timed():
        row = table.row(study.ask())
        study.tell(None if row is None else table.objectives(row))
    return spent


def _summary(name: str, times: list[_Spent], weighed: list[int]) -> dict[str, Any]:
    rates = [n / spent.cpu_s for n, spent in zip(weighed, times, strict=bool(weighed))]
    return {
        "version": version(name),
        "ask_tell_s": float(np.median([spent.wall_s for spent in times])),
        "ask_tell_longest_s": float(np.max([spent.wall_s for spent in times])),
        "ask_tell_cpu_s": float(np.median([spent.cpu_s for spent in times])),
        "candidates_per_cpu_s": float(np.median(rates)) if rates else None,
    }
