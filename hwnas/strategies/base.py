"""What a strategy is, what it may know, and what it is told.

A strategy proposes genotypes (`ask`) and learns results (`tell`). It touches no file, no device and
no progress bar, and imports no torch. Resuming is replaying: a new strategy with the same seed that
is told the recorded trials proposes what the old one would have. So all randomness is drawn from
one stream per proposal, `default_rng([seed, n_asked])`, and no state outlives the tells.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hwnas.budget import METRICS, Budget
from hwnas.errors import BudgetError, HwnasError
from hwnas.spaces.base import Genotype, GenotypeArray, SearchSpace

__all__ = [
    "OBJECTIVES",
    "Costs",
    "Problem",
    "Proposal",
    "SpaceExhaustedError",
    "Strategy",
    "Trial",
]

FloatArray = NDArray[np.float64]
OBJECTIVES = ("error", "latency_ms")  # both minimised; error = 1 - validation accuracy
# By metric, the field of `Costs` that a budget is compared with; the others are known exactly.
_UPPER_ENDS: Mapping[str, str] = {
    "latency_ms": "high_ms",
    "peak_memory_bytes": "high_peak_memory_bytes",
    "energy_mj": "high_energy_mj",
}


class SpaceExhaustedError(HwnasError):
    """Every network that meets the budget was proposed already; the search is complete."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """What to evaluate, and how much of the training to spend on it.

    Attributes:
        genotype: What is to be trained.
        share: Of the training that a search gives a candidate, in (0, 1]; 1 is all of it.
    """

    genotype: Genotype
    share: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"a share of the training lies in (0, 1], got {self.share}")

    @classmethod
    def of(cls, asked: Genotype | Proposal) -> Proposal:
        """What a strategy asked for: a genotype alone means the whole training."""
        return asked if isinstance(asked, Proposal) else cls(asked)


@dataclass(frozen=True, slots=True)
class Trial:
    """One evaluation of one genotype.

    Attributes:
        number: Index of the proposal, counted from 0.
        genotype: What was proposed.
        objectives: In the order of `OBJECTIVES`, minimised; None if there are none (yet).
        failure: Why there are no objectives. None beside `objectives=None`: still running.
        share: Of the training that was spent on it, as in `Proposal`. Results of different shares
            do not compare; only those of share 1 belong on a front.
    """

    number: int
    genotype: Genotype
    objectives: tuple[float, ...] | None
    failure: str | None = None
    share: float = 1.0

    def __post_init__(self) -> None:
        if self.objectives is None:
            return
        if self.failure is not None:
            raise ValueError(f"trial {self.number} has both objectives and {self.failure=}")
        if not all(math.isfinite(value) for value in self.objectives):
            raise ValueError(f"objectives must be finite, got {self.objectives}: a failed trial")

    @property
    def is_running(self) -> bool:
        """Whether it was proposed and has no result yet."""
        return self.objectives is None and self.failure is None


@dataclass(frozen=True)
class Costs:
    """What the predictor says about n candidates; all arrays are `(n,)`, None = not available.

    Attributes:
        latency_ms: Predicted latency.
        low_ms: Lower end of its interval.
        high_ms: Upper end of its interval; what a latency budget is compared with.
        known_share: Share of the latency that rests on kernels the predictor knows, 0 to 1.
        params: Number of parameters.
        macs: Number of multiply-accumulates.
        peak_memory_bytes: Predicted peak of memory.
        high_peak_memory_bytes: Upper end of its interval.
        energy_mj: Predicted energy of one inference.
        high_energy_mj: Upper end of its interval.
    """

    latency_ms: FloatArray
    low_ms: FloatArray
    high_ms: FloatArray
    known_share: FloatArray
    params: NDArray[np.int64]
    macs: NDArray[np.int64]
    peak_memory_bytes: FloatArray | None = None
    high_peak_memory_bytes: FloatArray | None = None
    energy_mj: FloatArray | None = None
    high_energy_mj: FloatArray | None = None

    @classmethod
    def joined(cls, parts: Sequence[Costs]) -> Costs:
        """The costs of all candidates of `parts`, at least one, which have the same fields."""
        if len(parts) == 1:
            return parts[0]
        available = [name for name, values in vars(parts[0]).items() if values is not None]
        return dataclasses.replace(
            parts[0],
            **{name: np.concatenate([vars(part)[name] for part in parts]) for name in available},
        )

    def __len__(self) -> int:
        return len(self.latency_ms)

    def upper(self, metric: str) -> FloatArray:
        """The values that a budget on `metric` is compared with, `(n,)`.

        Raises:
            BudgetError: If this target cannot deliver the metric.
        """
        values = getattr(self, _UPPER_ENDS.get(metric, metric))
        if values is None:
            available = [name for name in METRICS if getattr(self, name) is not None]
            raise BudgetError(
                f"this target cannot deliver {metric}, so there can be no budget on it "
                f"(available: {', '.join(available)})"
            )
        return np.asarray(values, dtype=np.float64)

    def take(self, mask: NDArray[np.bool_]) -> Costs:
        """The costs of the candidates that `mask`, `(n,)`, marks."""
        return dataclasses.replace(
            self, **{name: v[mask] for name, v in vars(self).items() if v is not None}
        )

    def row(self, index: int) -> dict[str, float]:
        """What is available about one candidate, as plain numbers by name."""
        columns = vars(self).items()
        return {name: values[index].item() for name, values in columns if values is not None}


@dataclass(frozen=True)
class Problem:
    """All that a strategy may know.

    Attributes:
        space: Where to search.
        predict: Costs of `(n, len(choices))` genotypes. Cheap, vectorised, deterministic.
        budgets: What every proposal must meet; limits are numbers.
    """

    space: SearchSpace
    predict: Callable[[GenotypeArray], Costs]
    budgets: tuple[Budget, ...] = ()

    def __post_init__(self) -> None:
        for budget in self.budgets:
            if budget.limit is None:
                raise BudgetError(f"the budget {budget} has to be resolved to a number first")

    def excess(self, costs: Costs) -> FloatArray:
        """How far each candidate lies above the budget it misses most, `(n,)`; <= 0 meets all.

        A share of the limit, so that budgets in different units compare. -inf without budgets.
        """
        excess = np.full(len(costs), -math.inf)
        for budget in self.budgets:
            excess = np.maximum(excess, budget.excess(costs.upper(budget.metric)))
        return excess

    def is_feasible(self, genotypes: GenotypeArray) -> NDArray[np.bool_]:
        """Say which genotypes meet every budget, by the upper end of the prediction, `(n,)`."""
        return self.excess(self.predict(genotypes)) <= 0

    def objectives(self, error: ArrayLike, costs: Costs) -> FloatArray:
        """Errors and predicted latencies side by side, `(n, 2)`, in the order of `OBJECTIVES`."""
        return np.column_stack([np.atleast_1d(np.asarray(error, np.float64)), costs.latency_ms])


class Strategy(Protocol):
    """Proposes what to evaluate next. `RandomSearch` is the shortest example."""

    def ask(self) -> Genotype | Proposal:
        """Propose a genotype: canonical, feasible, and never one that was asked or told before.

        A strategy that trains candidates in parts gives a `Proposal`, and may propose a genotype
        again with another share.

        Raises:
            InfeasibleBudgetError: If no network that meets the budgets was found.
            SpaceExhaustedError: If every one of them was proposed. It ends, it never spins. While
                trials run, their results may allow another proposal.
        """

    def tell(self, trial: Trial) -> None:
        """Learn a result: of a proposal, or of a trial that somebody else proposed.

        A running trial is only remembered, so that it is not proposed again.
        """
