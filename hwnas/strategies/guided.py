"""Predictor-guided evolution, the default: train only what promises the most new hypervolume.

A Gaussian process learns the error of all networks, and how sure it is, from the trials so far; a
second one learns latency where the problem cannot predict it. Each proposal is the network with
the largest expected hypervolume improvement: of all networks where they can be listed, else of
some thousands that an inner evolution breeds towards that improvement. Models follow from what was
told alone, so a resumed search proposes the same.

References:
    White et al., BANANAS, AAAI 2021 (a learned error model inside evolution).
    Emmerich et al., IEEE TEC 10(4), 2006 (expected hypervolume improvement).
    Ginsbourger et al., Kriging is well-suited to parallelize optimization, 2010 (running trials
    are believed to give what the model predicts).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hwnas import pareto
from hwnas.spaces.base import Genotype, GenotypeArray
from hwnas.strategies.acquisition import LogNormal, expected_gain
from hwnas.strategies.base import Costs, FloatArray, Problem, Trial
from hwnas.strategies.cells import Cell
from hwnas.strategies.encoding import Encoding, Part
from hwnas.strategies.proposals import ENUMERABLE_SIZE, Proposals, as_genotype
from hwnas.strategies.surrogate import GaussianProcess, Posterior

__all__ = ["Guided"]

N_DRAWS = 4096  # candidates for the first proposals
N_POOL = 2048  # uniform draws beside those that the inner evolution breeds
N_ROUNDS, N_CHILDREN, N_PARENTS = 5, 512, 64  # the inner evolution
N_BEST = 64  # of the candidates by gain; the first that is new is proposed
MIN_TOLD = 4  # successful trials before a model is fitted
MAX_LEARNED = 256  # trials that parameters are found from
GROWTH, MAX_STEP = 1.25, 64  # they are found anew when trials grew by this factor, or this number
COST_NAMES = ("latency_ms", "params", "macs", "peak_memory_bytes", "energy_mj")
SMALLEST = 1e-4  # error and latency in ms, to take logs


class Guided:
    """Expected hypervolume improvement by Gaussian processes over genotypes.

    The models read the choices, predicted costs, and of a cell what lies on the ways through.
    Where `problem.predict` gives no latency (NaN), latency is learnt from the trials.

    Args:
        problem: What to search.
        seed: Decides all randomness, together with the number of the proposal.
        n_initial: Proposals before the models are used: random, spread over predicted latency.
    """

    def __init__(self, problem: Problem, *, seed: int, n_initial: int = 10) -> None:
        if n_initial < 2:
            raise ValueError(f"two trials at least are needed, got {n_initial=}")
        self.problem = problem
        self.n_initial = n_initial
        self._proposals = Proposals(problem, seed=seed)
        self._cell = Cell.of(problem.space.choices)
        self._genotypes: list[Genotype] = []  # of the trials that succeeded
        self._objectives: list[tuple[float, ...]] = []
        # Trials that the parameters are from, those of them that were learnt from, the models.
        self._fitted: tuple[int, NDArray[np.int64], tuple[Posterior, ...]] | None = None

    def ask(self) -> Genotype:
        """Propose one of the first, spread ones; then the one of largest expected gain."""
        rng = self._proposals.rng()
        genotype: Genotype | None = None
        if self._proposals.n_asked < self.n_initial:
            genotype = self._initial_proposal()
        elif len(self._genotypes) >= MIN_TOLD:
            genotype = self._best_candidate(rng)
        return self._proposals.ask(genotype or self._proposals.draw(rng))

    def tell(self, trial: Trial) -> None:
        """Learn a result; of failed trials only that they are not to be proposed again."""
        self._proposals.tell(trial)
        if trial.objectives is not None:
            self._genotypes.append(trial.genotype)
            self._objectives.append(trial.objectives)

    def _initial_proposal(self) -> Genotype | None:
        """The planned first proposal of this number; None if there is none, or it was seen."""
        number = self._proposals.n_asked
        planned, _ = self._proposals.novel(self._initial[number : number + 1])
        return as_genotype(planned[0]) if len(planned) else None

    @cached_property
    def _initial(self) -> GenotypeArray:
        """Random feasible genotypes, one from each of as many equal parts by latency."""
        rng = self._proposals.rng(number=0)
        drawn, costs = self._proposals.feasible(self.problem.space.sample(rng, N_DRAWS))
        if len(drawn) <= self.n_initial:
            return drawn
        # Without predicted latencies all are NaN, and the order is random.
        order = np.lexsort((rng.random(len(drawn)), costs.latency_ms))
        edges = np.linspace(0, len(drawn), self.n_initial + 1).astype(np.int64)
        chosen = order[rng.integers(edges[:-1], edges[1:])]
        initial: GenotypeArray = drawn[rng.permutation(chosen)]
        return initial

    def _best_candidate(self, rng: np.random.Generator) -> Genotype | None:
        """The new, feasible network of largest expected gain; None if there is none."""
        genotypes, costs = self._pool
        model = self._model()
        gain = np.where(self.problem.excess(costs) <= 0, model.gain(), 0.0)
        if self.problem.space.size > ENUMERABLE_SIZE:
            genotypes, gain = self._breed(model, genotypes, gain, rng)
        # A random order among those of equal gain: neither lists nor choices have a preferred end.
        order = np.lexsort((rng.random(len(gain)), -gain))
        for start in range(0, len(order), N_BEST):
            new, _ = self._proposals.novel(genotypes[order[start : start + N_BEST]])
            if len(new):
                return as_genotype(new[0])
        return None

    def _model(self) -> _Model:
        """Fit the models to the trials that ended, and to what they say of the running ones."""
        told = np.array(self._genotypes, dtype=np.int64)
        objectives = np.array(self._objectives, dtype=np.float64)
        rows, posteriors = self._posteriors(told, objectives)
        _, costs = self._pool
        is_known = _is_known(costs)
        slowest_ms = float(objectives[:, 1].max())
        if is_known:
            is_feasible = self.problem.excess(costs) <= 0
            slowest_ms = max(slowest_ms, float(costs.latency_ms.max(where=is_feasible, initial=0)))
        model = _Model(
            posteriors=posteriors,
            values=tuple(_targets(objectives[rows], is_known)),
            log_latency=_log(costs.latency_ms) if is_known else None,
            objectives=objectives,
            reference=(max(1.0, float(objectives[:, 0].max())), slowest_ms),
        )
        if self._proposals.running:
            running = np.array(list(self._proposals.running.values()), dtype=np.int64)
            inputs, costs = self._inputs(running)
            model = model.believing(inputs, _log(costs.latency_ms) if is_known else None)
        return model

    def _posteriors(
        self, told: GenotypeArray, objectives: FloatArray
    ) -> tuple[NDArray[np.int64], tuple[Posterior, ...]]:
        """The trials that are learnt from, and one model for each target.

        Parameters are found anew only when the trials have grown by some share: it takes longer
        than a proposal should. And not from where the last search for them ended, but from the
        first n trials: a resumed search knows those too. Later trials are added one by one.
        """
        n = MIN_TOLD
        while (grown := min(math.ceil(n * GROWTH), n + MAX_STEP)) <= len(told):
            n = grown
        if self._fitted is None or self._fitted[0] != n:
            is_known = _is_known(self._pool[1])
            rows = _relevant(objectives[:n], MAX_LEARNED)
            inputs, _ = self._inputs(told[rows])
            candidates, _ = self._inputs(self._pool[0])
            targets = _targets(objectives[rows], is_known)
            models = [GaussianProcess(self._encoding).learn(inputs, t) for t in targets]
            self._fitted = n, rows, tuple(m.fit(inputs, candidates) for m in models)
        n, rows, posteriors = self._fitted
        later = np.arange(n + len(posteriors[0].root) - len(rows), len(told))
        if len(later):
            for row in self._inputs(told[later])[0]:
                posteriors = tuple(posterior.extended(row) for posterior in posteriors)
            self._fitted = n, rows, posteriors
        return np.concatenate([rows, np.arange(n, len(told))]), posteriors

    def _inputs(self, genotypes: GenotypeArray) -> tuple[FloatArray, Costs]:
        """What the models read of networks, `(n, k)`, and their costs."""
        costs = self.problem.predict(genotypes)
        live = self._cell.live(genotypes) if self._cell else genotypes
        groups = zip(self._columns(genotypes, costs), *self._scales, strict=True)
        scaled = [(columns - mean) / scale for columns, mean, scale in groups]
        return np.concatenate([self._encoding.one_hot(live), *scaled], axis=1), costs

    def _columns(self, genotypes: GenotypeArray, costs: Costs) -> list[FloatArray]:
        """Numbers that describe networks beside their choices, in groups of columns."""
        columns = [_log(np.asarray(getattr(costs, n), dtype=float))[:, None] for n in self._names]
        return columns + list(self._cell.descriptors(genotypes) if self._cell else ())

    @cached_property
    def _names(self) -> tuple[str, ...]:
        """Costs that are predicted, and differ between networks."""
        values = {name: getattr(self._pool[1], name) for name in COST_NAMES}
        return tuple(
            name
            for name, column in values.items()
            if column is not None and np.isfinite(column).all() and np.ptp(column) > 0
        )

    @cached_property
    def _scales(self) -> tuple[list[FloatArray], list[float]]:
        """Mean and scale of each group of columns, over the pool."""
        groups = self._columns(*self._pool)
        scales = [float(np.sqrt(columns.var(axis=0).sum())) for columns in groups]
        return [columns.mean(axis=0) for columns in groups], [max(s, SMALLEST) for s in scales]

    @cached_property
    def _encoding(self) -> Encoding:
        n_costs = len(self._names)
        sizes = tuple(len(mean) for mean in self._scales[0])
        costs = Part(sizes[:n_costs], (1.0,) * n_costs, smooth=0.3, straight=0.2)
        # One operation more or less matters less on a long way than on a short one.
        lengths = tuple(1.5 ** max(i - 1, 0) for i in range(len(sizes) - n_costs))
        ways = Part(sizes[n_costs:], lengths, smooth=0.7, straight=0.15)
        parts = tuple(part for part in (costs, ways) if part.sizes)
        is_described = self._cell is not None
        return Encoding(self.problem.space.choices, parts=parts, is_described=is_described)

    @cached_property
    def _pool(self) -> tuple[GenotypeArray, Costs]:
        """All feasible networks of a small space; of a large one draws, feasible or not."""
        space = self.problem.space
        if space.size <= ENUMERABLE_SIZE:
            return self._proposals.feasible(space.all_genotypes())
        drawn = space.sample(self._proposals.rng(number=0), N_POOL)
        genotypes = np.unique(space.canonical(drawn), axis=0)
        return genotypes, self.problem.predict(genotypes)

    def _breed(
        self,
        model: _Model,
        genotypes: GenotypeArray,
        gain: FloatArray,
        rng: np.random.Generator,
    ) -> tuple[GenotypeArray, FloatArray]:
        """Evolve candidates towards larger gain, from the pool and the front of the trials."""
        space = self.problem.space
        told = np.array(self._genotypes, dtype=np.int64)
        front = told[pareto.ranks(np.array(self._objectives)) <= 1]
        found, found_gain = genotypes, gain
        for _ in range(N_ROUNDS):
            best = found[np.argsort(-found_gain, kind="stable")[:N_PARENTS]]
            parents = np.concatenate([front, best])
            # Sorted best first, so the winner of a tournament is the lower index.
            picks = rng.integers(len(parents), size=(2, N_CHILDREN, 2)).min(axis=2)
            first, second = parents[picks]
            crossed = space.crossover(first, second, rng)
            children = np.where(rng.random((N_CHILDREN, 1)) < 0.5, crossed, first)
            is_mutated = rng.random((N_CHILDREN, 1)) < 0.8
            children = np.where(is_mutated, space.mutate(children, rng), children)
            children, _ = self._proposals.novel(children)
            if len(children):
                inputs, costs = self._inputs(children)
                found = np.concatenate([found, children])
                found_gain = np.concatenate([found_gain, model.gain_of(inputs, costs)])
        return found, found_gain


@dataclass(frozen=True)
class _Model:
    """What the trials so far say about candidates, for one proposal.

    Attributes:
        posteriors: Of log error; then of log latency, unless the problem predicts it.
        values: What the trials gave, for each posterior.
        log_latency: Of the candidates, if it is predicted.
        objectives: Of the trials, and those believed of the running ones, `(k, 2)`.
        reference: Upper corner of the volume to gain.
    """

    posteriors: tuple[Posterior, ...]
    values: tuple[FloatArray, ...]
    log_latency: FloatArray | None
    objectives: FloatArray
    reference: tuple[float, float]

    def gain(self) -> FloatArray:
        """Expected hypervolume improvement of the candidates, `(n,)`."""
        pairs = zip(self.posteriors, self.values, strict=True)
        found = [posterior.predict(values) for posterior, values in pairs]
        return self._gain(*self._predictions(found, self.log_latency))

    def gain_of(self, inputs: FloatArray, costs: Costs) -> FloatArray:
        """The same of other networks."""
        log_latency = None if self.log_latency is None else _log(costs.latency_ms)
        return self._gain(*self.predict_at(inputs, log_latency))

    def predict_at(
        self, inputs: FloatArray, log_latency: FloatArray | None
    ) -> tuple[LogNormal, LogNormal]:
        """Error and latency of networks."""
        pairs = zip(self.posteriors, self.values, strict=True)
        found = [posterior.predict_at(inputs, values) for posterior, values in pairs]
        return self._predictions(found, log_latency)

    def believing(self, inputs: FloatArray, log_latency: FloatArray | None) -> _Model:
        """The model if running trials gave what it predicts for them."""
        error, latency = self.predict_at(inputs, log_latency)
        believed = np.exp(np.column_stack([error.mean, latency.mean]))
        targets = _targets(believed, self.log_latency is not None)
        posteriors = self.posteriors
        for row in inputs:
            posteriors = tuple(posterior.extended(row) for posterior in posteriors)
        pairs = zip(self.values, targets, strict=True)
        return replace(
            self,
            posteriors=posteriors,
            values=tuple(np.concatenate(pair) for pair in pairs),
            objectives=np.concatenate([self.objectives, believed]),
        )

    def _predictions(
        self, found: list[tuple[FloatArray, FloatArray]], log_latency: FloatArray | None
    ) -> tuple[LogNormal, LogNormal]:
        latency = (
            LogNormal(*found[1])
            if log_latency is None
            else LogNormal(log_latency, np.zeros(len(log_latency)))
        )
        return LogNormal(*found[0]), latency

    def _gain(self, error: LogNormal, latency: LogNormal) -> FloatArray:
        return expected_gain(error, latency, self.objectives, self.reference)


def _targets(objectives: FloatArray, latency_is_known: bool) -> list[FloatArray]:
    """What the models learn: log errors, and log latencies if they are not predicted."""
    log_error, log_latency = _log(objectives).T
    return [log_error] if latency_is_known else [log_error, log_latency]


def _relevant(objectives: FloatArray, limit: int) -> NDArray[np.int64]:
    """Rows to learn from where there are too many: three quarters near the front, then any."""
    if len(objectives) <= limit:
        return np.arange(len(objectives))
    order = np.argsort(pareto.ranks(objectives), kind="stable")
    n_near = limit * 3 // 4
    far = order[n_near:]
    steps = np.linspace(0, len(far) - 1, limit - n_near).astype(np.int64)
    return np.sort(np.concatenate([order[:n_near], far[steps]]))


def _is_known(costs: Costs) -> bool:
    """Whether the problem predicts latency."""
    return not bool(np.isnan(costs.latency_ms).any())


def _log(values: FloatArray) -> FloatArray:
    logs: FloatArray = np.log(np.maximum(values, SMALLEST))
    return logs
