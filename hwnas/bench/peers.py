"""Strategies of other packages, on tables: pymoo's and Optuna's, through their own interfaces.

A peer asks a `Meter` for objectives until the meter has enough. Settings are the better of those
tried on two pairs of columns of one table, so that a peer is not beaten for its defaults.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, TPESampler

from hwnas.bench.tables import SearchTable
from hwnas.spaces.base import Genotype, GenotypeArray
from hwnas.strategies.optuna_sampler import distribution
from hwnas.strategies.proposals import as_genotype

__all__ = ["PEERS", "SAMPLERS", "Meter", "SampledStudy", "Spent", "missing", "version"]

POPULATION_SIZE = 20
PROPOSALS_PER_EVALUATION = 50  # a peer that proposes known or missing ones only has to end
MAX_FRUITLESS = 1000  # proposals in a row that give nothing new
N_STARTING = 10  # of Optuna's samplers, by default
_EXISTS = "is in the table"
DENSE = 0.5  # share of its space that a table holds, from which on random architectures do to begin


class Spent(Exception):
    """The evaluations that a strategy may have are used up."""


class Meter:
    """Evaluates by looking up, and counts: each architecture of the table once, others never.

    Attributes:
        rows: Rows of the table in the order in which they were first evaluated.
        n_missing: Proposals that are not in the table.
        n_repeated: Proposals that were evaluated before; the answer costs nothing.
    """

    def __init__(self, table: SearchTable, n_evaluations: int) -> None:
        self.table = table
        self.n_evaluations = min(n_evaluations, len(table))
        self.rows: list[int] = []
        self.n_missing = 0
        self.n_repeated = 0
        self._seen: set[int] = set()
        self._n_fruitless = 0

    def evaluate(self, genotype: Genotype) -> tuple[float, float] | None:
        """Error and latency of an architecture; None if it is not in the table.

        Raises:
            Spent: If all evaluations were used, or far too many proposals made for them.
        """
        n_proposals = len(self.rows) + self.n_missing + self.n_repeated
        most = PROPOSALS_PER_EVALUATION * self.n_evaluations
        if self.is_spent or n_proposals >= most or self._n_fruitless >= MAX_FRUITLESS:
            raise Spent
        self._n_fruitless += 1
        row = self.table.row(genotype)
        if row is None:
            self.n_missing += 1
            return None
        if row in self._seen:
            self.n_repeated += 1
        else:
            self._seen.add(row)
            self.rows.append(row)
            self._n_fruitless = 0
        return self.table.objectives(row)

    @property
    def is_spent(self) -> bool:
        """Whether all evaluations were used."""
        return len(self.rows) >= self.n_evaluations


def _starting(table: SearchTable, n: int, seed: int) -> GenotypeArray:
    """Up to `n` architectures to begin with, `(m, n_choices)`; none where random ones will do.

    Ours draw rows of the table. Random ones of a space of which it holds little are all missing.
    """
    if len(table) >= DENSE * math.prod(table.space.n_options):
        return np.zeros((0, len(table.space.choices)), dtype=np.int64)
    rows = np.random.default_rng(seed).permutation(len(table))[:n]
    found: GenotypeArray = table.space.rows[rows]
    return found


def _pymoo_nsga2(meter: Meter, seed: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pymoo.algorithms.moo.nsga2 import NSGA2
        from pymoo.core.problem import Problem
        from pymoo.core.variable import Integer
        from pymoo.operators.crossover.ux import UniformCrossover
        from pymoo.operators.mutation.rm import ChoiceRandomMutation
        from pymoo.operators.sampling.rnd import IntegerRandomSampling

    sizes = np.array(meter.table.space.n_options)
    problem = Problem(
        n_var=len(sizes), n_obj=2, n_ieq_constr=1, xl=np.zeros(len(sizes)), xu=sizes - 1, vtype=int
    )
    # The mutation of categories reads the variables, all else the arrays.
    problem.vars = {i: Integer(bounds=(0, n - 1)) for i, n in enumerate(sizes.tolist())}
    starting = _starting(meter.table, POPULATION_SIZE, seed)
    algorithm = NSGA2(
        pop_size=POPULATION_SIZE,
        sampling=starting if len(starting) else IntegerRandomSampling(),
        crossover=UniformCrossover(),
        mutation=ChoiceRandomMutation(prob=1.0, prob_var=1 / len(sizes)),
        eliminate_duplicates=True,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        algorithm.setup(problem, termination=("n_gen", 10**9), seed=seed, verbose=False)
        worst = (1.0, float(meter.table.latency_ms.max()))
        while True:
            asked = algorithm.ask()
            if asked is None or not len(asked):
                raise Spent
            for individual in asked:
                found = meter.evaluate(tuple(int(i) for i in individual.X))
                individual.F = np.array(found or worst)
                individual.G = np.array([-1.0 if found else 1.0])
                individual.evaluated.update(("F", "G"))
            algorithm.tell(infills=asked)


# Optuna's samplers by name, made from a seed.
SAMPLERS: Mapping[str, Callable[[int], BaseSampler]] = {
    "optuna-gp": lambda seed: GPSampler(seed=seed),
    "optuna-nsga2": lambda seed: NSGAIISampler(population_size=POPULATION_SIZE, seed=seed),
    "optuna-tpe": lambda seed: TPESampler(multivariate=True, seed=seed),
}


class SampledStudy:
    """A study of Optuna, in memory, whose sampler proposes architectures of a table.

    Args:
        name: Of the sampler.
        table: What is searched.
        seed: Of the sampler.

    Attributes:
        distributions: What it chooses from, by the name of the choice.
    """

    def __init__(self, name: str, table: SearchTable, *, seed: int) -> None:
        self._names = [choice.name for choice in table.space.choices]
        self.distributions: dict[str, BaseDistribution] = {
            choice.name: distribution(choice) for choice in table.space.choices
        }
        with _quiet():
            self._study = optuna.create_study(
                directions=["minimize", "minimize"], sampler=SAMPLERS[name](seed)
            )
            # It draws at random until a population is complete.
            n_starting = POPULATION_SIZE if name == "optuna-nsga2" else N_STARTING
            for genotype in _starting(table, n_starting, seed):
                self._study.enqueue_trial(self._params(as_genotype(genotype)))
        self._asked: optuna.Trial | None = None
        self._worst = (1.0, float(table.latency_ms.max()))

    def ask(self) -> Genotype:
        """The architecture that the sampler wants evaluated."""
        with _quiet():
            self._asked = self._study.ask(self.distributions)
        return tuple(int(self._asked.params[name]) for name in self._names)

    def tell(self, found: tuple[float, float] | None) -> None:
        """The objectives of the last architecture; None if it is not in the table.

        That is a constraint: samplers do not look at failed trials, and would propose it again.
        """
        assert self._asked is not None
        with _quiet():
            self._asked.set_constraint(_EXISTS, 1.0 if found is None else -1.0)
            self._study.tell(self._asked, found or self._worst)

    def add(self, genotype: Genotype, objectives: tuple[float, float]) -> None:
        """Take a trial over that somebody else proposed, as if its sampler had."""
        told = len(self._study.get_trials(deepcopy=False))
        # NSGA-II looks at trials of its own generations only.
        generation = {NSGAIISampler._get_generation_key(): told // POPULATION_SIZE}
        self._study.add_trial(
            optuna.trial.create_trial(
                params=self._params(genotype),
                distributions=self.distributions,
                values=objectives,
                system_attrs=generation,
            )
        )

    def _params(self, genotype: Genotype) -> dict[str, int]:
        return dict(zip(self._names, genotype, strict=True))


@contextmanager
def _quiet() -> Iterator[None]:
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)


def _optuna(name: str, meter: Meter, seed: int) -> None:
    study = SampledStudy(name, meter.table, seed=seed)
    while True:
        study.tell(meter.evaluate(study.ask()))


PEERS: Mapping[str, Callable[[Meter, int], None]] = {
    **{name: partial(_optuna, name) for name in SAMPLERS},
    "pymoo-nsga2": _pymoo_nsga2,
}


def missing(name: str) -> str | None:
    """Why a peer cannot run, in one line; None if it can, and for strategies of ours."""
    package = name.partition("-")[0]
    if name not in PEERS or importlib.util.find_spec(package) is not None:
        return None
    return f"not available: {package} is no part of hwnas, pip install {package}"


def version(name: str) -> str | None:
    """The package of a peer, with its version; None for strategies of ours."""
    if name not in PEERS:
        return None
    package = name.partition("-")[0]
    return f"{package} {importlib.metadata.version(package)}"
