"""The expected latency of a network drawn from architecture weights, with gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hwnas.spaces.base import GenotypeArray, SearchSpace
from hwnas.supernet.mixture import ArchitectureWeights

# From genotypes `(n, len(choices))` to milliseconds, `(n,)`.
PredictLatency = Callable[[GenotypeArray], NDArray[np.float64]]


def option_latencies(
    bases: GenotypeArray, space: SearchSpace, predict: PredictLatency
) -> list[NDArray[np.float64]]:
    """What each option of each choice costs among some networks.

    Args:
        bases: `(n, len(choices))`, n > 0, valid.
        space: Of the bases.
        predict: Latencies, all in one call.

    Returns:
        Of each choice `(n_options,)`: the mean latency in ms of the bases if all had that option;
        those that would not be valid then count as they are.
    """
    variants = []
    for column, n in enumerate(space.n_options):
        for option in range(n):
            changed = bases.copy()
            changed[:, column] = option
            variants.append(np.where(space.is_valid(changed)[:, None], changed, bases))
    means = predict(np.concatenate(variants)).reshape(len(variants), len(bases)).mean(axis=1)
    return np.split(means, np.cumsum(space.n_options)[:-1])


def expected_latency(weights: ArchitectureWeights, given: list[NDArray[np.float64]]) -> Tensor:
    """Mean latency of networks drawn from `weights`, in ms: a scalar with a gradient.

    The derivative of the expectation by the probability of an option is the expectation with that
    option given, whatever the latency depends on. So no latency has to be a sum over choices, and
    widths and depths count like all others. With `given` from networks that were drawn from
    `weights`, value and gradient are unbiased.

    Args:
        weights: Of the options.
        given: What `option_latencies` says.
    """
    means = torch.stack(
        [
            (probability * torch.from_numpy(latency).to(probability)).sum()
            for probability, latency in zip(weights.probabilities(), given, strict=True)
        ]
    )
    # Each choice estimates the same mean, and adds a gradient of its own.
    return means.sum() - means.detach().sum() + means.detach().mean()
