"""Predictor-guided evolution, the default: train only what promises the most new hypervolume.

A Gaussian process learns the error of all networks, and how sure it is, from the trials so far; a
second one learns latency where the problem cannot predict it. Each proposal is the network with
the largest expected hypervolume improvement: of all networks where they can be listed, else of
some ten thousand that an inner evolution breeds towards that improvement. Models are made anew for
each proposal from what was told, so a resumed search proposes the same.

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
from hwnas.strategies.proposals import ENUMERABLE_SIZE, Proposals, as_genotype, mutate
from hwnas.strategies.surrogate import Encoding, GaussianProcess

__all__ = ["Guided"]

N_DRAWS = 4096  # candidates for the first proposals
N_POOL = 4096  # uniform draws beside those that the inner evolution breeds
N_ROUNDS, N_CHILDREN, N_PARENTS = 6, 1024, 128  # the inner evolution
N_BEST = 64  # of the candidates by gain; the first that is new is proposed
MIN_TOLD = 4  # successful trials before a model is fitted
MAX_LEARNED, MAX_FITTED = 256, 400  # trials that parameters and predictions are made from
GROWTH = 1.25  # the parameters are found anew each time the trials grew by this factor
SMALLEST = 1e-4  # error and latency in ms, to take logs
NEAR, SQUEEZE = 0.05, 0.15  # shortfalls from the front above the former are squeezed to the sum


class Guided:
    """Expected hypervolume improvement by Gaussian processes over genotypes.

    Where `problem.predict` gives no latency (NaN), latency is learnt from the trials.

    Args:
        problem: What to search.
        seed: Decides all randomness, together with the number of the proposal.
        n_initial: Proposals before the models are used: spread over log predicted latency, and
            over the choices.
    """

    def __init__(self, problem: Problem, *, seed: int, n_initial: int = 10) -> None:
        if n_initial < 2:
            raise ValueError(f"two trials at least are needed, got {n_initial=}")
        self.problem = problem
        self.n_initial = n_initial
        self._proposals = Proposals(problem, seed=seed)
        self._encoding = Encoding(problem.space.choices)
        self._genotypes: list[Genotype] = []  # of the trials that succeeded
        self._objectives: list[tuple[float, ...]] = []
        self._learned: dict[int, list[GaussianProcess]] = {}  # by trials learnt from; the last

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
        """Feasible genotypes, one for each stretch of log latency, far from each other."""
        rng = self._proposals.rng(number=0)
        drawn, costs = self._proposals.feasible(self.problem.space.sample(rng, N_DRAWS))
        if len(drawn) <= self.n_initial:
            return drawn
        stretch = np.zeros(len(drawn), dtype=np.int64)
        if _is_known(costs):
            log_ms = np.log(costs.latency_ms)
            edges = np.linspace(log_ms.min(), log_ms.max(), self.n_initial)
            stretch = np.abs(log_ms[:, None] - edges).argmin(axis=1)
        else:
            edges = np.zeros(self.n_initial)
        chosen: list[int] = []
        distance = np.full(len(drawn), len(self.problem.space.choices), dtype=np.int64)
        for i in rng.permutation(self.n_initial):
            if _is_known(costs) and i in (0, self.n_initial - 1):
                best = int(costs.latency_ms.argmin() if i == 0 else costs.latency_ms.argmax())
            else:
                left = np.flatnonzero((stretch == i) & (distance > 0)) if _is_known(costs) else ()
                among = left if len(left) else np.flatnonzero(distance > 0)
                best = int(among[distance[among].argmax()])
            chosen.append(best)
            distance = np.minimum(distance, (drawn != drawn[best]).sum(axis=1))
        initial: GenotypeArray = drawn[chosen]
        return initial

    def _best_candidate(self, rng: np.random.Generator) -> Genotype | None:
        """The new, feasible network of largest expected gain; None if there is none."""
        genotypes, costs = self._pool
        if not len(genotypes):
            return None
        model = self._model(costs)
        gain = model.gain(genotypes, costs)
        if self.problem.space.size > ENUMERABLE_SIZE:
            genotypes, gain = self._breed(model, genotypes, gain, rng)
        # A random order among those of equal gain: neither lists nor choices have a preferred end.
        order = np.lexsort((rng.random(len(gain)), -gain))
        for start in range(0, len(order), N_BEST):
            new, _ = self._proposals.novel(genotypes[order[start : start + N_BEST]])
            if len(new):
                return as_genotype(new[0])
        return None

    def _model(self, costs: Costs) -> _Model:
        """Fit the models to the trials that ended, and to what they say of the running ones."""
        told = np.array(self._genotypes, dtype=np.int64)
        objectives = np.array(self._objectives, dtype=np.float64)
        is_known = _is_known(costs)
        slowest_ms = float(objectives[:, 1].max())
        if is_known:
            slowest_ms = max(slowest_ms, float(costs.latency_ms.max()))
        reference = (max(1.0, float(objectives[:, 0].max())), slowest_ms)
        front = _Front.of(objectives)
        targets = _targets(objectives, front, is_known)
        models = self._with_parameters(told, objectives, is_known)
        rows = _relevant(objectives, MAX_FITTED)
        for model, target in zip(models, targets, strict=True):
            model.fit(told[rows], target[rows])
        outlook = _Model(models[0], None if is_known else models[1], front, objectives, reference)
        if not self._proposals.running:
            return outlook
        running = np.array(list(self._proposals.running.values()), dtype=np.int64)
        error, latency = outlook.predict(running, self.problem.predict(running))
        believed = np.column_stack([np.exp(error.mean), np.exp(latency.mean)])
        for model, target, values in zip(
            models, targets, _targets(believed, front, is_known), strict=True
        ):
            model.fit(np.concatenate([told[rows], running]), np.concatenate([target[rows], values]))
        return replace(outlook, objectives=np.concatenate([objectives, believed]))

    def _with_parameters(
        self, told: GenotypeArray, objectives: FloatArray, is_known: bool
    ) -> list[GaussianProcess]:
        """One model for each target, with parameters from the first n trials, n as `GROWTH` says.

        Not from all: finding them takes longer than a proposal should. And not from where the
        last search for them ended: a resumed search could not know that.
        """
        n = MIN_TOLD
        while math.ceil(n * GROWTH) <= len(told):
            n = math.ceil(n * GROWTH)
        if n not in self._learned:
            front = _Front.of(objectives[:n])
            targets = _targets(objectives[:n], front, is_known)
            rows = _relevant(objectives[:n], MAX_LEARNED)
            self._learned = {
                n: [
                    GaussianProcess(self._encoding).learn(told[rows], target[rows])
                    for target in targets
                ]
            }
        return self._learned[n]

    @cached_property
    def _pool(self) -> tuple[GenotypeArray, Costs]:
        """All feasible networks of a small space; of a large one, uniform draws."""
        space = self.problem.space
        if space.size <= ENUMERABLE_SIZE:
            grid = np.indices(space.n_options).reshape(len(space.n_options), -1).T
            return self._proposals.feasible(np.ascontiguousarray(grid, dtype=np.int64))
        return self._proposals.feasible(space.sample(self._proposals.rng(number=0), N_POOL))

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
            is_second = rng.random((N_CHILDREN, len(space.choices))) < 0.5
            is_crossed = rng.random((N_CHILDREN, 1)) < 0.5
            children = np.where(is_crossed & is_second, parents[picks[1]], parents[picks[0]])
            is_mutated = rng.random((N_CHILDREN, 1)) < 0.8
            children = np.where(is_mutated, mutate(children, space.n_options, rng), children)
            children, costs = self._proposals.novel(children)
            if len(children):
                found = np.concatenate([found, children])
                found_gain = np.concatenate([found_gain, model.gain(children, costs)])
        return found, found_gain


@dataclass(frozen=True)
class _Front:
    """The best error so far as a curve over latency, straight between the trials of the front.

    Attributes:
        log_latency: Of the front's trials, increasing.
        log_error: Decreasing.
    """

    log_latency: FloatArray
    log_error: FloatArray

    @classmethod
    def of(cls, objectives: FloatArray) -> _Front:
        """The curve through the front of these trials, `(n, 2)`."""
        members = np.unique(objectives[pareto.non_dominated(objectives)], axis=0)[::-1]
        log_error, log_latency = np.log(np.maximum(members, SMALLEST)).T
        return cls(log_latency, log_error)

    def __call__(self, log_latency: FloatArray) -> FloatArray:
        """Log error of the curve; beyond its ends that of the nearer one."""
        return np.interp(log_latency, self.log_latency, self.log_error)


@dataclass(frozen=True)
class _Model:
    """What the trials so far say about candidates, for one proposal.

    Attributes:
        shortfall: Of the log of error over that of the front at the same latency, squeezed.
        latency: Of the log of latency; None: the problem predicts it.
        front: What shortfalls are measured from.
        objectives: Of the trials, and those believed of the running ones, `(k, 2)`.
        reference: Upper corner of the volume to gain.
    """

    shortfall: GaussianProcess
    latency: GaussianProcess | None
    front: _Front
    objectives: FloatArray
    reference: tuple[float, float]

    def predict(self, genotypes: GenotypeArray, costs: Costs) -> tuple[LogNormal, LogNormal]:
        """Error and latency of candidates."""
        if self.latency is None:
            log_latency = np.log(np.maximum(costs.latency_ms, SMALLEST))
            latency = LogNormal(log_latency, np.zeros(len(genotypes)))
        else:
            latency = LogNormal(*self.latency.predict(genotypes))
        mean, deviation = self.shortfall.predict(genotypes)
        return LogNormal(_released(mean) + self.front(latency.mean), deviation), latency

    def gain(self, genotypes: GenotypeArray, costs: Costs) -> FloatArray:
        """Expected hypervolume improvement of candidates, `(n,)`."""
        error, latency = self.predict(genotypes, costs)
        return expected_gain(error, latency, self.objectives, self.reference)


def _targets(objectives: FloatArray, front: _Front, latency_is_known: bool) -> list[FloatArray]:
    """What the models learn: squeezed shortfalls, and log latencies if they are not predicted."""
    log_error, log_latency = np.log(np.maximum(objectives, SMALLEST)).T
    shortfall = _squeezed(log_error - front(log_latency))
    return [shortfall] if latency_is_known else [shortfall, log_latency]


def _squeezed(shortfall: FloatArray) -> FloatArray:
    """Squeeze what lies far from the front: how bad a bad network is says little of good ones."""
    above = np.maximum(shortfall - NEAR, 0.0)
    return np.minimum(shortfall, NEAR) + SQUEEZE * np.tanh(above / SQUEEZE)


def _released(values: FloatArray) -> FloatArray:
    """The inverse of `_squeezed`; what comes out at its upper end is at least as far."""
    share = np.clip((values - NEAR) / SQUEEZE, 0.0, 0.95)
    return np.minimum(values, NEAR) + SQUEEZE * np.arctanh(share)


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
