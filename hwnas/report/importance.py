"""How much each choice mattered in the trials of a search, by Optuna's importances."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from numpy.typing import ArrayLike, NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.importance import (
    FanovaImportanceEvaluator,
    PedAnovaImportanceEvaluator,
    get_param_importances,
)
from optuna.trial import FrozenTrial, create_trial

from hwnas.report.data import RunData, genotype_of, records

MIN_TRIALS = 20  # of fewer, a forest learns chance alone
MAX_TRIALS = 300  # the forests of more take long
N_TREES = 24
N_SHUFFLES = 2
CHANCE = 0.95  # share of choices without influence that stay below `Importances.by_chance`
BEST_SHARE = 0.25  # of the trials, those that count as near the front


@dataclass(frozen=True)
class Importances:
    """How much each choice mattered.

    Attributes:
        shares: By choice, the largest first; they sum to 1.
        by_chance: What a choice without any influence reaches in so few trials; None: not known.
        n_trials: Trials that were used.
    """

    shares: Mapping[str, float]
    by_chance: float | None
    n_trials: int


def variance_importances(
    n_options: Mapping[str, int], genotypes: Sequence[Sequence[int]], values: ArrayLike
) -> Importances:
    """Share of the variance of an objective that each choice explains, by functional ANOVA.

    The threshold of chance comes from the same trials with their values shuffled.

    Args:
        n_options: Number of options of each choice, by name.
        genotypes: Option indices of the n trials.
        values: Of the objective, `(n,)`.

    Reference:
        Hutter et al., ICML 2014. https://proceedings.mlr.press/v32/hutter14.html
    """
    told = np.asarray(values, dtype=np.float64)
    shares = _fanova(n_options, genotypes, told)
    rng = np.random.default_rng(0)
    chance: list[float] = []
    for _ in range(N_SHUFFLES):
        chance += _fanova(n_options, genotypes, rng.permutation(told)).values()
    return Importances(shares, float(np.quantile(chance, CHANCE)), len(told))


def front_importances(
    n_options: Mapping[str, int], genotypes: Sequence[Sequence[int]], objectives: ArrayLike
) -> Importances:
    """How much each choice decides who comes near the Pareto front, by PED-ANOVA.

    Args:
        n_options: Number of options of each choice, by name.
        genotypes: Option indices of the n trials.
        objectives: `(n, m)`, minimised.

    Reference:
        Watanabe et al., IJCAI 2023. https://arxiv.org/abs/2304.10255
    """
    study = _study(n_options, genotypes, np.asarray(objectives, dtype=np.float64))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says which direction it takes
        evaluator = PedAnovaImportanceEvaluator(target_quantile=BEST_SHARE)
        shares = get_param_importances(study, evaluator=evaluator)
    return Importances(_plain(shares), None, len(genotypes))


@dataclass(frozen=True)
class RunImportances:
    """The importances of a run's trials.

    Attributes:
        error: For the validation error after short training.
        latency: For the predicted latency.
        front: For coming near the front of both.
    """

    error: Importances
    latency: Importances
    front: Importances


def importances_of(run: RunData) -> RunImportances | None:
    """The importances of a run, from its complete trials; None: there are too few.

    The same trials give the same importances.
    """
    space = run.config.get("space")
    choices = space.get("choices") if isinstance(space, Mapping) else None
    if not isinstance(choices, Mapping) or not choices:
        return None
    if not all(isinstance(options, list) and options for options in choices.values()):
        return None
    n_options = {str(name): len(options) for name, options in choices.items()}
    limits = np.array(list(n_options.values()))
    genotypes, rows = [], []
    for row in records(run.complete):
        genotype = genotype_of(row)
        if genotype is None or len(genotype) != len(limits):
            continue
        if all(0 <= index < n for index, n in zip(genotype, limits, strict=True)):
            genotypes.append(genotype)
            rows.append((1 - row["val_accuracy"], row["predicted_latency_ms"]))
    if len(rows) < MIN_TRIALS:
        return None
    chosen = np.linspace(0, len(rows) - 1, min(len(rows), MAX_TRIALS)).round().astype(int)
    genotypes = [genotypes[i] for i in chosen]
    objectives = np.array(rows, dtype=np.float64)[chosen]
    return RunImportances(
        variance_importances(n_options, genotypes, objectives[:, 0]),
        variance_importances(n_options, genotypes, np.log(np.maximum(objectives[:, 1], 1e-12))),
        front_importances(n_options, genotypes, objectives),
    )


def _fanova(
    n_options: Mapping[str, int], genotypes: Sequence[Sequence[int]], values: NDArray[np.float64]
) -> dict[str, float]:
    study = _study(n_options, genotypes, values[:, None])
    evaluator = FanovaImportanceEvaluator(n_trees=N_TREES, seed=0)
    try:
        return _plain(get_param_importances(study, evaluator=evaluator))
    except RuntimeError:  # all trials are alike: there is nothing to explain
        return dict.fromkeys(n_options, 0.0)


def _study(
    n_options: Mapping[str, int],
    genotypes: Sequence[Sequence[int]],
    objectives: NDArray[np.float64],
) -> optuna.Study:
    """The trials as a study in memory; what the options are does not matter, only which."""
    distributions: dict[str, BaseDistribution] = {
        name: CategoricalDistribution(tuple(range(n))) for name, n in n_options.items()
    }
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it announces the study on stderr
    try:
        study = optuna.create_study(directions=["minimize"] * objectives.shape[1])
    finally:
        optuna.logging.set_verbosity(verbosity)
    trials: list[FrozenTrial] = [
        create_trial(
            params=dict(zip(n_options, genotype, strict=True)),
            distributions=distributions,
            values=values.tolist(),
        )
        for genotype, values in zip(genotypes, objectives, strict=True)
    ]
    study.add_trials(trials)
    return study


def _plain(shares: Mapping[str, float]) -> dict[str, float]:
    ordered = sorted(shares.items(), key=lambda item: (-item[1], item[0]))
    return {name: float(share) for name, share in ordered}
