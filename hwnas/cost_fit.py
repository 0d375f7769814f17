"""The predictor of a search: fitted on what was measured on the target, and on the space."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from hwnas.cost import CostTable
from predictors.cost import CostPredictor
from profilers.measurement import SPACE_TAG, NetworkMeasurement
from profilers.store import MeasurementStore


def fit_costs(
    measurements: Sequence[NetworkMeasurement],
    table: CostTable,
    store: MeasurementStore,
    *,
    level: float,
) -> CostPredictor:
    """Fit on all measurements of one target; peak memory on those of networks of the table's space.

    Raises:
        PredictorError: There are too few measurements, or they are of several targets.
    """
    key = table.space.key
    estimates = np.full(len(measurements), np.nan)
    own = [i for i, m in enumerate(measurements) if m.tags.get(SPACE_TAG) == key]
    if own:
        genotypes = [json.loads(measurements[i].tags["genotype"]) for i in own]
        estimates[own] = table.estimated_peak_bytes(np.array(genotypes, dtype=np.int64))
    isolated = store.isolated(measurements[0].target) if measurements else None
    return CostPredictor.fit(
        measurements, estimated_peak_bytes=estimates, isolated=isolated, level=level
    )
