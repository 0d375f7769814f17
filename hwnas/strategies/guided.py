"""Predictor-guided evolution, the default: train only what promises the most new hypervolume.

A Gaussian process learns the error of all networks, and how sure it is, from the trials so far; a
second one learns latency where the problem cannot predict it. Each proposal is the network with
the largest expected hypervolume improvement: of all networks where they can be listed (then nothing
has to evolve), else of some thousands that an inner evolution breeds towards that improvement.
Models follow from what was told alone, so a resumed search proposes the same.

References:
    White et al., BANANAS, AAAI 2021 (a learned error model inside evolution).
    Emmerich et al., IEEE TEC 10(4), 2006 (expected hypervolume improvement).
    Ginsbourger et al., Kriging is well-suited to parallelize optimization, 2010 (running trials
    are believed to give what the model predicts).
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hwnas import pareto
from hwnas.spaces.base import Genotype, GenotypeArray
from hwnas.strategies.base import Costs, FloatArray, Problem, Trial
from hwnas.strategies.belief import CAUTIOUS_SCALES, SCALES, Belief, Target, learn_target
from hwnas.strategies.description import Description
from hwnas.strategies.proposals import ENUMERABLE_SIZE, Proposals, as_genotype
from hwnas.strategies.surrogate import GaussianProcess

__all__ = ["Guided"]

N_DRAWS = 4096  # candidates for the first proposals
N_OFFERED = 32  # of those, from each part by latency; one of them is proposed
N_POOL = 2048  # uniform draws beside those that the inner evolution breeds
N_ROUNDS, N_CHILDREN, N_PARENTS = 5, 512, 64  # the inner evolution
N_BEST = 64  # of the candidates by gain; the first that is new is proposed
MIN_TOLD = 4  # successful trials before a model is fitted
MAX_LEARNED = 256  # trials that parameters are found from
GROWTH, MAX_STEP = 1.25, 64  # they are found anew when trials grew by this factor, or this number


class Guided:
    """Expected hypervolume improvement by Gaussian processes over genotypes.

    Where `problem.predict` gives no latency (NaN), latency is learnt from the trials.

    Args:
        problem: What to search.
        seed: Decides all randomness, together with the number of the proposal.
        n_initial: Proposals before the models are used: spread over predicted latency, and unlike
            each other.

    Attributes:
        n_weighed: Candidates whose gain was computed for the last proposal.
    """

    def __init__(self, problem: Problem, *, seed: int, n_initial: int = 10) -> None:
        if n_initial < 2:
            raise ValueError(f"two trials at least are needed, got {n_initial=}")
        self.problem = problem
        self.n_initial = n_initial
        self.n_weighed = 0
        self._proposals = Proposals(problem, seed=seed)
        self._genotypes: list[Genotype] = []  # of the trials that succeeded
        self._objectives: list[tuple[float, ...]] = []
        # By whether scales are cautious: trials that the parameters are from, those of them that
        # were learnt from, the models.
        self._fitted: dict[bool, tuple[int, NDArray[np.int64], tuple[Target, ...]]] = {}

    def ask(self) -> Genotype:
        """Propose one of the first, spread ones; then the one of largest expected gain."""
        rng = self._proposals.rng()
        genotype: Genotype | None = None
        if self._proposals.n_asked < self.n_initial:
            genotype = self._initial_proposal()
        elif len(self._genotypes) >= MIN_TOLD and len(self._pool[0]):
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
        """Feasible genotypes, one from each of as many equal parts by latency, unlike each other.

        Of those that are drawn from a part, it is the one that the others so far say least about,
        as networks are believed to be alike before anything was learnt: a kind that none of the
        first is of would be found late.
        """
        rng = self._proposals.rng(number=0)
        drawn, costs = self._proposals.feasible(self.problem.space.sample(rng, N_DRAWS))
        if len(drawn) <= self.n_initial:
            return drawn
        # Without predicted latencies all are NaN, and the order is random.
        order = np.lexsort((rng.random(len(drawn)), costs.latency_ms))
        edges = np.linspace(0, len(drawn), self.n_initial + 1).astype(np.int64)
        # As written, not as used: nothing says yet that a cut edge does not matter.
        inputs = self._description.inputs(drawn, costs, "written")
        prior = GaussianProcess(next(iter(self._description.encodings.values())))
        chosen: list[int] = []
        for part in rng.permutation(self.n_initial):
            offered = order[rng.integers(edges[part], edges[part + 1], size=N_OFFERED)]
            doubt = prior.fit(inputs[chosen], inputs[offered]).variance
            chosen.append(int(offered[doubt.argmax()]))
        initial: GenotypeArray = drawn[chosen]
        return initial

    def _best_candidate(self, rng: np.random.Generator) -> Genotype | None:
        """The new, feasible network of largest expected gain; None if there is none."""
        genotypes, _ = self._pool
        belief = self._belief()
        gain = belief.gain()
        if self.problem.space.size > ENUMERABLE_SIZE:
            genotypes, gain = self._breed(belief, genotypes, gain, rng)
        self.n_weighed = len(genotypes)
        # A random order among those of equal gain: neither lists nor choices have a preferred end.
        order = np.lexsort((rng.random(len(gain)), -gain))
        for start in range(0, len(order), N_BEST):
            new, _ = self._proposals.novel(genotypes[order[start : start + N_BEST]])
            if len(new):
                return as_genotype(new[0])
        return None

    def _belief(self) -> Belief:
        """Models of the trials that ended, and of what those say of the running ones."""
        told = np.array(self._genotypes, dtype=np.int64)
        objectives = np.array(self._objectives, dtype=np.float64)
        rows, targets = self._targets(told, objectives)
        _, costs = self._pool
        belief = Belief(
            description=self._description,
            targets=targets,
            learnt=objectives[rows],
            objectives=objectives,
            latency_ms=costs.latency_ms if self._is_latency_known else None,
            is_feasible=self.problem.excess(costs) <= 0,
        )
        if self._proposals.running:
            running = np.array(list(self._proposals.running.values()), dtype=np.int64)
            belief = belief.believing(running, self.problem.predict(running))
        return belief

    def _targets(
        self, told: GenotypeArray, objectives: FloatArray
    ) -> tuple[NDArray[np.int64], tuple[Target, ...]]:
        """The trials that are learnt from, and one model for each objective that is learnt.

        Parameters are found anew only when the trials have grown by some share: it takes longer
        than a proposal should. And not from where the last search for them ended, but from the
        first n trials: a resumed search knows those too. Later trials are added one by one.
        """
        is_cautious = self._proposals.n_asked % 2 == 1
        n = MIN_TOLD
        while (grown := min(math.ceil(n * GROWTH), n + MAX_STEP)) <= len(told):
            n = grown
        if is_cautious not in self._fitted or self._fitted[is_cautious][0] != n:
            scales = CAUTIOUS_SCALES if is_cautious else SCALES
            rows = _relevant(objectives[:n], MAX_LEARNED)
            trained = told[rows], self.problem.predict(told[rows])
            targets = tuple(
                learn_target(
                    self._description, trained, self._pool, objectives[rows], column, scales[column]
                )
                for column in range(1 if self._is_latency_known else 2)
            )
            self._fitted[is_cautious] = n, rows, targets
        n, rows, targets = self._fitted[is_cautious]
        later = np.arange(n + targets[0].posterior.n_trials - len(rows), len(told))
        if len(later):
            costs = self.problem.predict(told[later])
            targets = tuple(
                target.extended(self._description.inputs(told[later], costs, target.view))
                for target in targets
            )
            self._fitted[is_cautious] = n, rows, targets
        return np.concatenate([rows, np.arange(n, len(told))]), targets

    @cached_property
    def _description(self) -> Description:
        return Description(self.problem, *self._pool)

    @cached_property
    def _is_latency_known(self) -> bool:
        """Whether the problem predicts latency."""
        return not bool(np.isnan(self._pool[1].latency_ms).any())

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
        belief: Belief,
        genotypes: GenotypeArray,
        gain: FloatArray,
        rng: np.random.Generator,
    ) -> tuple[GenotypeArray, FloatArray]:
        """Evolve candidates towards larger gain, from the pool and the front of the trials."""
        space = self.problem.space
        told = np.array(self._genotypes, dtype=np.int64)
        front = told[pareto.ranks(np.array(self._objectives)) <= 1]
        found, found_gain = genotypes, gain
        drawn, costs = self._proposals.novel(space.sample(rng, N_CHILDREN))
        if len(drawn):
            found = np.concatenate([found, drawn])
            found_gain = np.concatenate([found_gain, belief.gain_of(drawn, costs)])
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
            children, costs = self._proposals.novel(children)
            if len(children):
                found = np.concatenate([found, children])
                found_gain = np.concatenate([found_gain, belief.gain_of(children, costs)])
        return found, found_gain


def _relevant(objectives: FloatArray, limit: int) -> NDArray[np.int64]:
    """Rows to learn from where there are too many: three quarters near the front, then any."""
    if len(objectives) <= limit:
        return np.arange(len(objectives))
    order = np.argsort(pareto.ranks(objectives), kind="stable")
    n_near = limit * 3 // 4
    far = order[n_near:]
    steps = np.linspace(0, len(far) - 1, limit - n_near).astype(np.int64)
    return np.sort(np.concatenate([order[:n_near], far[steps]]))
