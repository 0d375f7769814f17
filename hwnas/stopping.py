"""When a search has stopped to gain: the hypervolume of its front no longer grows."""

from __future__ import annotations

import numpy as np

from hwnas import pareto
from hwnas.strategies.base import Trial

__all__ = ["ROUNDING", "Stall"]

ROUNDING = 1e-9  # shares such as 1/3 add up to a whole number only nearly
MARGIN = 1.1  # of the reference point beyond the worst results


class Stall:
    """Says whether the last trials gained hypervolume.

    The reference point is fixed when the first `patience` trials are over: a tenth above the worst
    of their objectives. What is worse than that point gains nothing. Whatever happens, a search
    goes on for twice the patience.

    Args:
        patience: Trials that may gain nothing; those of a smaller share count as that share.
        min_gain: Growth over `patience` trials that counts as one, as a share of the volume.
    """

    def __init__(self, patience: float, *, min_gain: float = 1e-3) -> None:
        if not patience > 0 or not min_gain >= 0:
            raise ValueError(
                f"patience must be > 0 and the gain >= 0, got {patience=}, {min_gain=}"
            )
        self.patience = patience
        self.min_gain = min_gain
        self._n_spent = 0.0
        self._points: list[tuple[float, ...]] = []
        self._reference: list[float] | None = None
        self._volumes: list[tuple[float, float]] = []  # trials spent and volume, since counting

    def tell(self, trial: Trial) -> None:
        """Take note of a trial that ended; of those that failed, that they gained nothing."""
        self._n_spent += trial.share
        if trial.objectives is not None and trial.share == 1:
            self._points.append(trial.objectives)
        if self._n_spent < self.patience - ROUNDING:
            return
        if self._reference is None and self._points:
            self._reference = (MARGIN * np.max(self._points, axis=0)).tolist()
        volume = 0.0
        if self._reference is not None:
            volume = pareto.hypervolume(self._points, self._reference)
        self._volumes.append((self._n_spent, volume))

    @property
    def is_stalled(self) -> bool:
        """Whether `patience` trials together gained no more than `min_gain`."""
        then = self._n_spent - self.patience + ROUNDING
        before = [volume for n_spent, volume in self._volumes if n_spent <= then]
        return bool(before) and self._volumes[-1][1] <= before[-1] * (1 + self.min_gain)
