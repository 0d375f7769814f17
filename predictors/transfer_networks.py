"""From networks measured on one target to another target, by a few of them measured there.

The rows of a `TransferPredictor` are networks here, not choices of a table: they are described by
the kernels that the source target makes of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from predictors.architectures import ArchitectureFeatures, FloatArray
from predictors.errors import PredictorError
from predictors.transfer import (
    DEFAULT_LEVEL,
    DEFAULT_MEASURED,
    MIN_TRAINING_ROWS,
    SCALES,
    DeviceSample,
    TransferPredictor,
)
from profilers.measurement import NetworkMeasurement

MIN_SHARE = 0.02  # of the kernels' time: kinds that never reach it do not describe a network
# Runtimes differ by more than devices do: on nine networks by factors of 0.5 to 2, in variance ten
# times what is typical between the devices of tables.
RUNTIME_VARIANCES = 10.0


def transfer_between_targets(
    networks: Sequence[NetworkMeasurement],
    *,
    n_measured: int = DEFAULT_MEASURED,
    level: float = DEFAULT_LEVEL,
    seed: int = 0,
) -> TransferPredictor:
    """A transfer predictor whose rows are those networks, in their order.

    The new target's latency is the source's, times a factor that depends on which kernels a
    network's time goes to; the factor is learned from the networks that are measured there.

    Args:
        networks: Measured on one target, each network once.
        n_measured: How many shall be measured on the new target.
        level: Share of networks that intervals shall contain.
        seed: Of the choice.

    Raises:
        PredictorError: They are too few, of several targets, or one of them comes twice.
    """
    keys = sorted({m.target.key for m in networks})
    if len(keys) != 1:
        raise PredictorError(
            f"networks of exactly one source target are needed, got {len(keys)}: "
            f"{', '.join(keys) or 'none'}"
        )
    if len({m.digest for m in networks}) < len(networks) or len(networks) < MIN_TRAINING_ROWS:
        raise PredictorError(
            f"at least {MIN_TRAINING_ROWS} networks, each once, are needed of "
            f"{networks[0].target.describe()}, got {len({m.digest for m in networks})} in "
            f"{len(networks)} measurements: measure more with `hwnas profile`"
        )
    latency_ms = np.array([m.latency_ms for m in networks])
    source = DeviceSample(
        networks[0].target.describe(), np.arange(len(networks)), latency_ms, is_exact=True
    )
    predictor = TransferPredictor(
        network_features(networks), n_measured=n_measured, level=level, seed=seed, scale=SCALES[1]
    ).fit([source])
    assert predictor.prior_ is not None
    wide = predictor.prior_.parts * RUNTIME_VARIANCES
    predictor.prior_ = replace(predictor.prior_, parts=wide)
    return predictor


def network_features(networks: Sequence[NetworkMeasurement]) -> ArchitectureFeatures:
    """What networks spend their time on: the kind that takes most of it, and all kinds' shares."""
    kinds = sorted({run.kernel.kind for m in networks for run in m.kernels})
    shares = np.array([_shares(m, kinds) for m in networks])  # (n, kinds)
    kept = [i for i in range(len(kinds)) if shares[:, i].max() >= MIN_SHARE]
    given = {kinds[i]: shares[:, i] for i in kept}
    given["log latency"] = np.log([m.latency_ms for m in networks])
    given["log kernels"] = np.log([len(m.kernels) for m in networks])
    largest = [kinds[i] for i in shares.argmax(axis=1)]
    return ArchitectureFeatures.from_columns({"largest": largest}, given)


def _shares(network: NetworkMeasurement, kinds: Sequence[str]) -> FloatArray:
    total = np.zeros(len(kinds))
    for run in network.kernels:
        total[kinds.index(run.kernel.kind)] += run.latency_ms
    return total / max(float(total.sum()), 1e-12)
