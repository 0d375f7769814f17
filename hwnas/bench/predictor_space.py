"""Prediction within a space: held-out networks, intervals over splits, what a search chooses."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hwnas.bench.predictor_setup import (
    CHOSEN,
    HELD_OUT,
    FloatArray,
    PredictorBench,
    Wanted,
    judge,
    measure_networks,
    plain,
)
from hwnas.cost import CostTable
from hwnas.network_choice import sample_networks
from hwnas.profiling import (
    architecture_digest,
    network_tags,
    profile_space,
    untrained_model,
)
from hwnas.spaces.base import Genotype, GenotypeArray
from hwnas.strategies.base import Costs
from predictors.cost import CostPredictor
from predictors.metrics import accuracy
from predictors.network_latency import MIN_NETWORKS, NetworkLatencyPredictor
from profilers.isolation import AnyProfiler
from profilers.kernels import Kernel
from profilers.measurement import SPACE_TAG, KernelLatency, NetworkMeasurement
from profilers.store import MeasurementStore

N_SAMPLED = 20_000
LOWEST, HIGHEST = 1, 99  # percentiles of the predicted latency between which networks are chosen
MIN_TEST, TEST_SHARE = 100, 1 / 3  # networks of a split that are predicted
GENOTYPE_TAG = "genotype"
N_QUARTERS = 4


@dataclass(frozen=True)
class Truth:
    """What is known of a network that was measured twice.

    Attributes:
        genotype: Which.
        latency_ms: Mean of both measurements, or the one that is trusted.
        n_trusted: Measurements that do not say of themselves that they are not to be trusted.
        repeats_ms: The first and the second, None where there is only one.
    """

    genotype: Genotype
    latency_ms: float
    n_trusted: int
    repeats_ms: tuple[float, float] | None


class _Choose(Protocol):
    def __call__(self, costs: Costs, is_free: NDArray[np.bool_], *, n: int) -> list[int]: ...


def bench_space(bench: PredictorBench) -> dict[str, Any]:
    """How good predictions are for networks of a space that were not measured.

    Returns:
        Plain data: `training`, `held_out` (with `by_quarter` of the latency, and `repeats`: the
        measurements' own error), `splits` and `chosen`.

    Raises:
        PredictorError: Too little was measured.
    """
    minutes = measure_space(bench)
    with MeasurementStore(bench.measurements) as store:
        networks, isolated = store.networks(bench.target), store.isolated(bench.target)
        predictor = NetworkLatencyPredictor(seed=bench.seed).fit(networks, isolated=isolated)
        with bench.profiler(store) as profiler:
            table = CostTable(bench.space, profiler, store)
            table.use(CostPredictor(predictor))
            sample = sample_networks(
                bench.space, np.random.default_rng([bench.seed, N_SAMPLED]), N_SAMPLED
            )
            with bench.progress.task("costing random networks", None):
                costs = table.predict(sample)
        candidates = _Candidates(bench, sample, costs, {m.digest for m in networks})
        held_out = candidates.measured(HELD_OUT, spread_networks, bench.n_held_out, passes=2)
        chosen = candidates.measured(CHOSEN, largest_networks, bench.n_chosen, passes=1)
        truths = [_truth(found) for found in held_out]
        record: dict[str, Any] = {
            "training": {
                "minutes": minutes,
                "n_networks": len({m.digest for m in networks}),
                "n_flagged": sum(m.samples.warning is not None for m in networks),
                "n_isolated_kernels": len(isolated),
            }
        }
        with bench.progress.task("predicting", None):
            record["held_out"] = _held_out(table, truths)
            record["chosen"] = _chosen(table, [_truth(found) for found in chosen])
    pool = [*networks, *(m for found in held_out for m in found)]
    record["splits"] = _splits(bench, pool, isolated)
    return record


def measure_space(bench: PredictorBench) -> float:
    """Measure the space for what is left of its minutes; returns the minutes spent in all.

    The fewest networks that a predictor needs are measured whatever the minutes say.
    """

    def measure(left: float, profiler: AnyProfiler) -> None:
        profile = partial(
            profile_space, bench.space, bench.target, store, seed=bench.seed,
            progress=bench.progress, profiler=profiler,
        )  # fmt: skip
        if len(profile(minutes=left)) < MIN_NETWORKS:
            profile(n_networks=MIN_NETWORKS)

    with MeasurementStore(bench.measurements) as store:
        return bench.campaign(bench.space.key, store, bench.train_minutes, measure)


def spread_networks(costs: Costs, is_free: NDArray[np.bool_], *, n: int) -> list[int]:
    """Rows of `n` networks spread evenly over the log of the predicted latency.

    Args:
        costs: Of all candidates.
        is_free: Which of them may be taken, `(rows,)`.
        n: How many, or as many as are free.
    """
    position = np.log(costs.latency_ms)
    low, high = np.percentile(position, [LOWEST, HIGHEST])
    is_free = is_free.copy()
    rows: list[int] = []
    for wanted in np.linspace(low, high, n):
        if not is_free.any():
            break
        row = int(np.argmin(np.where(is_free, np.abs(position - wanted), np.inf)))
        is_free[row] = False
        rows.append(row)
    return rows


def largest_networks(costs: Costs, is_free: NDArray[np.bool_], *, n: int) -> list[int]:
    """Rows of the networks with the most MACs in each of `n` even steps of log latency.

    Accuracy grows with MACs, so a search that maximises it takes networks like these: those whose
    latency the predictor is most likely to put too low.
    """
    position = np.log(costs.latency_ms)
    low, high = np.percentile(position, [LOWEST, HIGHEST])
    step = np.floor((position - low) / max(high - low, 1e-12) * n)
    rows = []
    for i in range(n):
        here = np.flatnonzero(is_free & (step == i))
        if len(here):
            rows.append(int(here[np.argmax(costs.macs[here])]))
    return rows


class _Candidates:
    """Random networks of the space and what they are predicted to cost.

    Args:
        bench: Options.
        sample: Genotypes.
        costs: Of each.
        seen: Digests of the networks that the predictor was fitted on; none of them is chosen.
    """

    def __init__(
        self, bench: PredictorBench, sample: GenotypeArray, costs: Costs, seen: Set[str]
    ) -> None:
        self.bench, self.sample, self.costs, self.seen = bench, sample, costs, seen

    @cached_property
    def is_free(self) -> NDArray[np.bool_]:
        """Which of the candidates the predictor was not fitted on, `(n,)`."""
        space = self.bench.space
        digests = (architecture_digest(space.architecture(_row(row))) for row in self.sample)
        return np.array([digest not in self.seen for digest in digests])

    def measured(
        self, name: str, choose: _Choose, n: int, *, passes: int
    ) -> list[list[NetworkMeasurement]]:
        """Measurements of `n` networks so chosen, each list of one network.

        Which they are is decided once: a predictor that is fitted on more later shall be judged by
        the same ones, as far as it was not fitted on them.
        """
        bench = self.bench
        key = f"{name}, {n} of {bench.space.key}, seed {bench.seed}, {bench.target.key}"
        with MeasurementStore(bench.database(name)) as store:
            if bench.is_new:
                genotypes = bench.ledger.get(key, None)
                if genotypes is None:
                    rows = choose(self.costs, self.is_free, n=n)
                    genotypes = [_row(self.sample[i]) for i in rows]
                    bench.ledger.put(key, genotypes)
                wanted = [_wanted(bench, _row(genotype)) for genotype in genotypes]
                measure_networks(bench, store, wanted, name=f"measuring {name}", passes=passes)
            found: dict[str, list[NetworkMeasurement]] = {}
            for m in store.networks(bench.target):
                if m.digest not in self.seen and m.tags.get(SPACE_TAG) == bench.space.key:
                    found.setdefault(m.digest, []).append(m)
        return list(found.values())


def _row(values: Iterable[int]) -> Genotype:
    return tuple(int(v) for v in values)


def _wanted(bench: PredictorBench, genotype: Genotype) -> Wanted:
    architecture = bench.space.architecture(genotype)
    return Wanted(
        architecture_digest(architecture),
        partial(untrained_model, architecture, batch=bench.target.batch),
        network_tags(bench.space, genotype),
    )


def _truth(found: Sequence[NetworkMeasurement]) -> Truth:
    trusted = [m.latency_ms for m in found if m.samples.warning is None]
    used = trusted or [m.latency_ms for m in found]
    genotype = tuple(int(v) for v in json.loads(found[0].tags[GENOTYPE_TAG]))
    repeats = (found[0].latency_ms, found[1].latency_ms) if len(found) > 1 else None
    return Truth(genotype, float(np.mean(used)), len(trusted), repeats)


def _judged(table: CostTable, truths: Sequence[Truth]) -> tuple[dict[str, Any], Costs, FloatArray]:
    """Predictions as the search makes them, and those of trusted networks, with what they take."""
    costs = table.predict(np.array([truth.genotype for truth in truths], dtype=np.int64))
    measured_ms = np.array([truth.latency_ms for truth in truths])
    trusted = np.array([truth.n_trusted > 0 for truth in truths])
    used = trusted if trusted.any() else np.ones(len(truths), dtype=bool)
    record = judge(costs.take(used), measured_ms[used]) | {
        "n_untrusted": int((~trusted).sum()),
        "networks": [
            {
                "genotype": list(truth.genotype),
                "measured_ms": truth.latency_ms,
                "repeats_ms": truth.repeats_ms,
                "n_trusted": truth.n_trusted,
                "predicted_ms": float(costs.latency_ms[i]),
                "low_ms": float(costs.low_ms[i]),
                "high_ms": float(costs.high_ms[i]),
            }
            for i, truth in enumerate(truths)
        ],
    }
    return record, costs.take(used), measured_ms[used]


def _held_out(table: CostTable, truths: Sequence[Truth]) -> dict[str, Any]:
    if not truths:
        return {"n": 0}
    record, costs, measured_ms = _judged(table, truths)
    rank = np.argsort(np.argsort(measured_ms, kind="stable"))
    quarter = rank * N_QUARTERS // len(rank)
    return record | {
        "repeats": _repeats([truth.repeats_ms for truth in truths if truth.repeats_ms]),
        "by_quarter": [
            {"from_ms": float(measured_ms[part].min()), "to_ms": float(measured_ms[part].max())}
            | judge(costs.take(part), measured_ms[part])
            for part in (quarter == q for q in np.unique(quarter))
        ],
    }


def _repeats(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """The error of a second measurement, had it been predicted by the first."""
    if not pairs:
        return {"n": 0}
    first, second = np.array(pairs).T
    error = np.abs(np.log(second / first))
    return plain(asdict(accuracy(first, second))) | {
        "median_error": float(np.median(error)),
        "p90_error": float(np.percentile(error, 90)),
    }


def _chosen(table: CostTable, truths: Sequence[Truth]) -> dict[str, Any]:
    return _judged(table, truths)[0] if truths else {"n": 0}


def _splits(
    bench: PredictorBench,
    measurements: Sequence[NetworkMeasurement],
    isolated: Mapping[Kernel, KernelLatency],
) -> dict[str, Any]:
    """Coverage of intervals where both sides of a random split are networks of the same kind."""
    by_digest: dict[str, list[NetworkMeasurement]] = {}
    for m in measurements:
        by_digest.setdefault(m.digest, []).append(m)
    # Those of which every measurement was flagged say nothing of intervals.
    trusted = {m.digest for m in measurements if m.samples.warning is None}
    digests = sorted(trusted or by_digest)
    n_test = min(max(MIN_TEST, round(TEST_SHARE * len(digests))), len(digests) - MIN_NETWORKS)
    if n_test < 1:
        return {"n": 0}
    rows = []
    with bench.progress.task("splitting at random", bench.n_splits) as task:
        for split in range(bench.n_splits):
            order = np.random.default_rng([bench.seed, split]).permutation(len(digests))
            test = [by_digest[digests[i]] for i in order[:n_test]]
            fit = [m for i in order[n_test:] for m in by_digest[digests[i]]]
            predictor = NetworkLatencyPredictor(seed=bench.seed).fit(fit, isolated=isolated)
            answer = predictor.predict(
                [[run.kernel for run in found[0].kernels] for found in test],
                family=bench.space.key,
            )
            measured_ms = np.array([_truth_ms(found) for found in test])
            rows.append(judge(answer, measured_ms))
            task.update(split + 1, note=f"{100 * rows[-1]['coverage']:.0f} % covered")
    coverage = [row["coverage"] for row in rows]
    return {
        "n": len(rows),
        "n_fit": len(digests) - n_test,
        "n_test": n_test,
        "coverage": float(np.mean(coverage)),
        "coverage_min": min(coverage),
        "coverage_max": max(coverage),
        "half_width": float(np.mean([row["half_width"] for row in rows])),
        "mape": float(np.mean([row["mape"] for row in rows])),
    }


def _truth_ms(found: Sequence[NetworkMeasurement]) -> float:
    trusted = [m.latency_ms for m in found if m.samples.warning is None]
    return float(np.mean(trusted or [m.latency_ms for m in found]))
