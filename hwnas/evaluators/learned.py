"""Evaluate by what was learned from networks that were evaluated before, with an interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from hwnas.search import Evaluation
from hwnas.spaces.base import Genotype, GenotypeArray
from hwnas.strategies.base import FloatArray, Problem, Trial
from hwnas.strategies.encoding import Encoding, Part
from hwnas.strategies.surrogate import GaussianProcess, Posterior
from predictors.errors import NotFittedError

MIN_NETWORKS = 4
SMALLEST = 1e-3  # error, to take logs
Z90 = 1.645  # deviations of a normal distribution that hold 90 % on both sides


@dataclass(frozen=True, slots=True)
class PredictedError:
    """What is expected of n networks; all arrays are `(n,)`.

    Attributes:
        error: 1 - accuracy; of a lognormal distribution the median.
        low: Lower end of its 90 % interval.
        high: Upper end.
    """

    error: FloatArray
    low: FloatArray
    high: FloatArray


class LearnedAccuracy:
    """A Gaussian process over genotypes: the errors of networks, and how sure they are.

    It reads the options, parameters and multiply-accumulates.

    Args:
        problem: Whose networks these are; its costs are read.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        part = Part((1, 1), (1.0, 1.0), smooth=0.3, straight=0.2)
        self._encoding = Encoding(problem.space.choices, parts=(part,))
        self._scale: tuple[FloatArray, FloatArray] | None = None
        self._posterior: Posterior | None = None
        self._values: FloatArray | None = None

    def fit(self, genotypes: Sequence[Genotype], errors: FloatArray) -> Self:
        """Learn from networks that were evaluated.

        Args:
            genotypes: n of them, at least `MIN_NETWORKS`.
            errors: 1 - accuracy of each, `(n,)`.

        Raises:
            ValueError: They are too few, or not as many as their errors.
        """
        if len(genotypes) != len(errors) or len(errors) < MIN_NETWORKS:
            raise ValueError(
                f"{MIN_NETWORKS} networks at least, each with an error, are needed to learn from; "
                f"got {len(genotypes)} networks and {len(errors)} errors"
            )
        rows = np.array(genotypes, dtype=np.int64)
        sizes = self._sizes(rows)
        self._scale = sizes.mean(axis=0), np.maximum(sizes.std(axis=0), 1e-6)
        inputs = self._inputs(rows)
        self._values = np.log(np.maximum(errors, SMALLEST))
        self._posterior = (
            GaussianProcess(self._encoding).learn(inputs, self._values).fit(inputs, inputs[:1])
        )
        return self

    def predict(self, genotypes: GenotypeArray) -> PredictedError:
        """Errors of `(n, len(choices))` networks, with their intervals.

        Raises:
            NotFittedError: Nothing was learned yet.
        """
        if self._posterior is None or self._values is None:
            raise NotFittedError("LearnedAccuracy.predict was called before fit")
        mean, deviation = self._posterior.predict_at(self._inputs(genotypes), self._values)
        ends = (np.exp(mean + z * deviation) for z in (0.0, -Z90, Z90))
        return PredictedError(*(np.minimum(end, 1.0) for end in ends))

    def _inputs(self, genotypes: GenotypeArray) -> FloatArray:
        """What the process reads, `(n, k)`."""
        assert self._scale is not None
        mean, scale = self._scale
        sizes = (self._sizes(genotypes) - mean) / scale
        one_hot = self._encoding.one_hot(self.problem.space.canonical(genotypes))
        return np.concatenate([one_hot, sizes], axis=1)

    def _sizes(self, genotypes: GenotypeArray) -> FloatArray:
        costs = self.problem.predict(genotypes)
        counts = np.column_stack([costs.params, costs.macs]).astype(np.float64)
        return np.asarray(np.log(np.maximum(counts, 1.0)))


class LearnedEvaluator:
    """Gives a candidate the error that is predicted for it; nothing is trained.

    Attributes:
        accuracy: Fitted.

    Reference:
        Wen et al., Neural Predictor for Neural Architecture Search, ECCV 2020.
    """

    def __init__(self, accuracy: LearnedAccuracy) -> None:
        self.accuracy = accuracy

    def __call__(self, trial: Trial) -> Evaluation:
        """Predict the candidate's error; the record keeps its interval, too."""
        found = self.accuracy.predict(np.array([trial.genotype], dtype=np.int64))
        error, low, high = float(found.error[0]), float(found.low[0]), float(found.high[0])
        result = {"val_accuracy": 1 - error, "low_accuracy": 1 - high, "high_accuracy": 1 - low}
        return Evaluation((error,), result)
