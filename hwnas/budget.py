"""Budgets: `latency_ms<=5`, declared once, obeyed by every strategy, checked before training.

A budget may be a share of the space's median, `latency_ms<=40%`, or a percentile of its networks,
`latency_ms<=p25`; `Budget.resolve` makes it a number once the space was looked at.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hwnas.errors import BudgetError, unknown_name

__all__ = ["METRICS", "Budget", "parse_budget"]

METRICS: Mapping[str, str] = {
    "latency_ms": "milliseconds",
    "peak_memory_bytes": "bytes",
    "energy_mj": "millijoules",
    "params": "count",
    "macs": "count",
}
_WITHOUT_UNIT = {
    "latency": "latency_ms",
    "peak_memory": "peak_memory_bytes",
    "memory": "peak_memory_bytes",
    "energy": "energy_mj",
}
_PATTERN = re.compile(r"\s*(?P<metric>\w+)\s*(?P<sign>[<>=≤≥]+)\s*(?P<value>.*?)\s*")


@dataclass(frozen=True, slots=True)
class Budget:
    """An upper limit on one metric, in the unit that the metric's name ends in.

    Attributes:
        metric: One of `METRICS`.
        limit: Largest value that meets the budget; None while only its place in the space is known.
        relative: The limit as a share of the space's median, 0.4 for 40 %; None if it was not
            given so.
        percentile: The share of the space's networks that meet it, in percent: 25 is the fastest
            quarter; None if it was not given so.
    """

    metric: str
    limit: float | None
    relative: float | None = None
    percentile: float | None = None

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise BudgetError(unknown_name("budget metric", self.metric, METRICS))
        if self.limit is None and (self.relative is None) == (self.percentile is None):
            raise BudgetError(
                f"a budget on {self.metric} needs a limit, a share of the median, or a percentile"
            )
        if self.percentile is not None and not 0 < self.percentile <= 100:
            raise BudgetError(
                f"the percentile of a budget must lie above 0 and not above 100, got "
                f"{self.percentile:g} for {self.metric}"
            )
        for value in (self.limit, self.relative):
            if value is not None and not 0 < value < math.inf:
                raise BudgetError(
                    f"the limit of a budget must be a positive, finite number, "
                    f"got {value:g} for {self.metric}"
                )

    def __str__(self) -> str:
        if self.limit is not None:
            return f"{self.metric} <= {self.limit:g}"
        if self.percentile is not None:
            return f"{self.metric} <= p{self.percentile:g} of the space"
        return f"{self.metric} <= {100 * (self.relative or 0.0):g}% of the space's median"

    def resolve(self, values: ArrayLike) -> Budget:
        """Return the budget with its limit as a number.

        A budget that has a number already is returned as it is.

        Args:
            values: Of random networks of the space, `(n,)`; those that are NaN do not count.

        Raises:
            BudgetError: The values do not say where the limit lies.
        """
        if self.limit is not None:
            return self
        known = np.asarray(values, dtype=np.float64)
        known = known[~np.isnan(known)]
        at = 50.0 if self.percentile is None else self.percentile
        place = float(np.percentile(known, at)) if len(known) else math.nan
        if not 0 < place < math.inf:
            name = "median" if self.percentile is None else f"percentile {at:g}"
            raise BudgetError(
                f"{self} cannot be turned into a number: the {name} of {self.metric} is {place}"
            )
        return dataclasses.replace(self, limit=(self.relative or 1.0) * place)

    def excess(self, values: ArrayLike) -> NDArray[np.float64]:
        """How far each value lies above the limit, as a share of it, `(n,)`; <= 0 meets it.

        NaN (not known) is infinitely far above.
        """
        if self.limit is None:
            raise BudgetError(f"{self} was checked before it was resolved to a number")
        excess = (np.atleast_1d(np.asarray(values, dtype=np.float64)) - self.limit) / self.limit
        return np.where(np.isnan(excess), math.inf, excess)


def parse_budget(text: str) -> Budget:
    """Read a budget as it is written on the command line.

    Args:
        text: `metric<=number`, `metric<=share%` or `metric<=ppercentile`; spaces do not matter,
            numbers may be `64e6`.

    Raises:
        BudgetError: If the metric, the sign or the number cannot be used.

    Example:
        >>> parse_budget("peak_memory_bytes <= 64e6")
        Budget(metric='peak_memory_bytes', limit=64000000.0, relative=None, percentile=None)
        >>> parse_budget("latency_ms<=p25")
        Budget(metric='latency_ms', limit=None, relative=None, percentile=25.0)
    """
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise BudgetError(
            f"cannot read the budget {text!r}; write metric<=number, such as latency_ms<=5 or "
            f"latency_ms<=40% or latency_ms<=p25 (metrics: {', '.join(METRICS)})"
        )
    metric, sign, value = match["metric"], match["sign"], match["value"]
    if metric in _WITHOUT_UNIT:
        meant = _WITHOUT_UNIT[metric]
        raise BudgetError(f"{text!r} has no unit: write {meant}<={value} ({METRICS[meant]})")
    if metric not in METRICS:
        raise BudgetError(unknown_name("budget metric", metric, METRICS))
    if sign not in ("<=", "≤"):
        raise BudgetError(f"a budget is an upper limit: write {metric}<={value}, not {text!r}")
    is_share, is_percentile = value.endswith("%"), value.startswith("p")
    try:
        number = float(value.removeprefix("p") if is_percentile else value.removesuffix("%"))
    except ValueError:
        raise BudgetError(
            f"the limit in {text!r} must be a plain number in {METRICS[metric]}, such as 5 or "
            f"64e6, a share of the space's median, such as 40%, or a percentile of the space, such "
            f"as p25; got {value!r}"
        ) from None
    if is_percentile:
        return Budget(metric, None, percentile=number)
    return Budget(metric, None, number / 100) if is_share else Budget(metric, number)
