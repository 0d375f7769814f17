"""Subnets that stand for a whole space: spread over its multiply-accumulates."""

from __future__ import annotations

import numpy as np

from hwnas.errors import ConfigError
from hwnas.networks import counts
from hwnas.spaces.base import Genotype, SearchSpace
from hwnas.supernet.sampling import Sampler

__all__ = ["spread_subnets"]

N_DRAWN = 600  # of each kind


def spread_subnets(space: SearchSpace, n: int, *, seed: int = 0) -> list[Genotype]:
    """Distinct subnets, evenly spread over the logarithm of the MACs, in that order.

    The smallest and the largest are among them. The others are those nearest to where they should
    lie, of random ones: half of these uniform, and half leaning towards the first or the last
    options, by a share that is random itself. Uniform draws alone hardly reach the ends.

    Args:
        space: Whose options rise in size where they have one.
        n: How many.
        seed: Of the draws.

    Raises:
        ConfigError: So many distinct ones were not drawn.
    """
    sampler = Sampler(space, seed=seed)
    rng = np.random.default_rng(seed)
    uniform = space.sample(rng, N_DRAWN)
    leaning = rng.binomial(np.array(space.n_options) - 1, rng.random((N_DRAWN, 1)))
    ends = [sampler.extreme(largest=largest) for largest in (False, True)]
    drawn = np.vstack([ends, uniform, leaning[space.is_valid(leaning)]])
    genotypes = [tuple(row) for row in np.unique(space.canonical(drawn), axis=0).tolist()]
    macs = np.array([counts(space.architecture(genotype)).macs for genotype in genotypes])
    if not 2 <= n <= len(genotypes):
        raise ConfigError(
            f"subnets must be 2 to {len(genotypes)}, the distinct ones that were drawn, got {n}"
        )
    distance = np.log1p(macs)
    chosen: list[int] = []
    for target in np.linspace(distance.min(), distance.max(), n):
        far = np.abs(distance - target)
        far[chosen] = np.inf
        chosen.append(int(far.argmin()))
    return [genotypes[i] for i in sorted(chosen, key=lambda i: macs[i])]
