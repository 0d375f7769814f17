"""What the trials so far say about all networks: one model for each objective, and what is gained.

Each objective is learnt on the scale, and from the description of networks, that explain the trials
best. Latencies mostly add up; errors mostly multiply, above what no network of the space falls
below; and runtimes may compute what changes no result.

Reference:
    Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006 (5.2, model selection by
    the evidence).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hwnas.spaces.base import GenotypeArray
from hwnas.strategies.acquisition import LogNormal, Normal, Prediction, expected_gain
from hwnas.strategies.base import Costs, FloatArray
from hwnas.strategies.description import Description, log
from hwnas.strategies.surrogate import GaussianProcess, Posterior

__all__ = ["CAUTIOUS_SCALES", "SCALES", "Belief", "Scale", "Target", "learn_target"]


@dataclass(frozen=True, slots=True)
class Scale:
    """How an objective is transformed before it is learnt.

    Attributes:
        floor_share: Where the log is learnt, of what the objective exceeds a floor by: the floor as
            a share of the smallest value so far. None: the objective is learnt as it is.
    """

    floor_share: float | None

    def values(self, objective: FloatArray) -> FloatArray:
        """What is learnt of trials, `(n,)`."""
        if self.floor_share is None:
            return objective
        return log(objective - self.floor_share * objective.min())

    def prediction(
        self, mean: FloatArray, deviation: FloatArray, objective: FloatArray
    ) -> Prediction:
        """The objective of networks, of which the model predicts the values `(m,)`."""
        if self.floor_share is None:
            return Normal(mean, deviation)
        return LogNormal(mean, deviation, self.floor_share * float(objective.min()))

    def loss(self, values: FloatArray) -> float:
        """What brings the density of values to that of the objective: minus the log slopes."""
        return 0.0 if self.floor_share is None else float(values.sum())


# By column of the objectives: error, latency. Every second proposal goes by the cautious ones: a
# floor close to the smallest error so far tells best what is best of its kind, but by few trials it
# may be sure that no other kind is better.
SCALES = ((Scale(0.95), Scale(0.8), Scale(0.0)), (Scale(None), Scale(0.0)))
CAUTIOUS_SCALES = ((Scale(0.8), Scale(0.0)), (Scale(None), Scale(0.0)))


@dataclass(frozen=True, eq=False)
class Target:
    """One objective as it is modelled.

    Attributes:
        column: Of the objectives: 0 is error, 1 is latency.
        view: What is read of networks, as in `Description`.
        scale: On which the objective is learnt.
        posterior: Given trials, of the candidates.
    """

    column: int
    view: str
    scale: Scale
    posterior: Posterior

    def predict(self, objectives: FloatArray) -> Prediction:
        """The objective of all candidates, if the trials had these objectives, `(n, 2)`."""
        own = objectives[:, self.column]
        return self.scale.prediction(*self.posterior.predict(self.scale.values(own)), own)

    def predict_at(self, inputs: FloatArray, objectives: FloatArray) -> Prediction:
        """The same of other networks."""
        own = objectives[:, self.column]
        found = self.posterior.predict_at(inputs, self.scale.values(own))
        return self.scale.prediction(*found, own)

    def extended(self, inputs: FloatArray) -> Target:
        """Condition on more trials, `(n, k)`."""
        posterior = self.posterior
        for row in inputs:
            posterior = posterior.extended(row)
        return replace(self, posterior=posterior)


def learn_target(
    description: Description,
    trained: tuple[GenotypeArray, Costs],
    candidates: tuple[GenotypeArray, Costs],
    objectives: FloatArray,
    column: int,
    scales: Sequence[Scale],
) -> Target:
    """Model one objective in the way that explains the trials best.

    Args:
        description: Says what can be read of networks.
        trained: The networks of the trials, n of them.
        candidates: Networks that will be asked about each time.
        objectives: Of the trials, `(n, 2)`.
        column: Which of them is learnt.
        scales: Those to choose from.
    """
    own = objectives[:, column]

    def learnt(view: str, scale: Scale) -> tuple[float, GaussianProcess]:
        values = scale.values(own)
        model = GaussianProcess(description.encodings[view])
        model.learn(description.inputs(*trained, view), values)
        return model.loss_ + scale.loss(values), model

    # The scale first, then the view: both at once would take twice as long, and differ little.
    first, *others = description.encodings
    found = {(first, scale): learnt(first, scale) for scale in scales}
    scale = min(found, key=lambda key: found[key][0])[1]
    found |= {(view, scale): learnt(view, scale) for view in others}
    view, scale = min(found, key=lambda key: found[key][0])
    inputs = (description.inputs(*networks, view) for networks in (trained, candidates))
    return Target(column, view, scale, found[view, scale][1].fit(*inputs))


@dataclass(frozen=True, eq=False)
class Belief:
    """What the trials so far say about candidates, for one proposal.

    Attributes:
        description: What is read of networks.
        targets: Error; then latency, unless the problem predicts it.
        learnt: Objectives of the trials that the targets are conditioned on, `(n, 2)`.
        objectives: Of all trials, and those believed of the running ones, `(k, 2)`.
        latency_ms: Of the candidates, if it is predicted.
        is_feasible: Of the candidates: which of them may be proposed.
    """

    description: Description
    targets: tuple[Target, ...]
    learnt: FloatArray
    objectives: FloatArray
    latency_ms: FloatArray | None
    is_feasible: NDArray[np.bool_]

    def gain(self) -> FloatArray:
        """Expected hypervolume improvement of the candidates, `(n,)`; 0 if not feasible."""
        gain = expected_gain(*self._candidates, self.objectives, self.reference)
        return np.where(self.is_feasible, gain, 0.0)

    def gain_of(self, genotypes: GenotypeArray, costs: Costs) -> FloatArray:
        """The same of other networks, all feasible."""
        predictions = self.predict_at(genotypes, costs)
        return expected_gain(*predictions, self.objectives, self.reference)

    @cached_property
    def reference(self) -> tuple[float, float]:
        """Upper corner of the volume to gain: error, and the latency of the slowest candidate.

        Not of the slowest so far: beyond it there would be nothing to gain, and the slowest
        networks are often among the best.
        """
        _, latency = self._candidates
        slowest_ms = float(latency.middle.max(where=self.is_feasible, initial=0.0))
        worst = self.objectives.max(axis=0)
        return max(1.0, float(worst[0])), max(slowest_ms, float(worst[1]))

    def predict_at(self, genotypes: GenotypeArray, costs: Costs) -> tuple[Prediction, Prediction]:
        """Error and latency of networks."""
        found = [
            target.predict_at(self.description.inputs(genotypes, costs, target.view), self.learnt)
            for target in self.targets
        ]
        return found[0], found[1] if self.latency_ms is None else _certain(costs.latency_ms)

    def believing(self, genotypes: GenotypeArray, costs: Costs) -> Belief:
        """The belief if running trials gave what it predicts for them."""
        believed = np.column_stack([p.middle for p in self.predict_at(genotypes, costs)])
        targets = tuple(
            target.extended(self.description.inputs(genotypes, costs, target.view))
            for target in self.targets
        )
        return replace(
            self,
            targets=targets,
            learnt=np.concatenate([self.learnt, believed]),
            objectives=np.concatenate([self.objectives, believed]),
        )

    @cached_property
    def _candidates(self) -> tuple[Prediction, Prediction]:
        found = [target.predict(self.learnt) for target in self.targets]
        return found[0], found[1] if self.latency_ms is None else _certain(self.latency_ms)


def _certain(values: FloatArray) -> Normal:
    return Normal(values, np.zeros(len(values)))
