"""Which subnets a step of supernet training trains: the sampling rules of the papers.

A way is a pure function of the step's number, so that a resumed training trains what an
uninterrupted one would have.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from hwnas.errors import ConfigError, unknown_name
from hwnas.spaces.base import Genotype, SearchSpace
from hwnas.strategies.base import Problem
from hwnas.strategies.proposals import as_genotype
from hwnas.supernet.sampling import Sampler

# What shrinks in which phase, by words in the names of choices.
_SHRINKING: tuple[frozenset[str], ...] = (
    frozenset({"kernel", "kernels"}),
    frozenset({"depth", "layers", "blocks"}),
    frozenset(
        {"width", "expand", "expansion", "channels", "hidden", "features", "ratio", "heads", "dim"}
    ),
)


class Way(Protocol):
    """A rule of sampling. `SinglePath` is the shortest example.

    Attributes:
        distils: The first subnet of a step learns the labels, and the others its outputs.
    """

    distils: bool

    def subnets(self, step: int, n_steps: int) -> tuple[Genotype, ...]:
        """The subnets whose gradients are added up in step `step` of `n_steps`, at least one."""


class SinglePath:
    """One subnet a step, uniformly over the feasible genotypes.

    Reference:
        Guo et al., Single Path One-Shot NAS with Uniform Sampling, ECCV 2020.
    """

    distils = False

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def subnets(self, step: int, n_steps: int) -> tuple[Genotype, ...]:
        """One."""
        return (self._sampler.draw(self._sampler.rng(step)),)


class Fair:
    """Every option of every choice equally often: options are dealt out like shuffled cards.

    Each choice deals its options in a new random order until none is left, then shuffles again. A
    step trains as many subnets as the longest choice has options. So if all choices have as
    many, each option is in exactly one subnet of each step (the paper's strict fairness); else
    counts of two options of a choice differ by one at most at any time, and are equal after every
    common multiple of the numbers of options.

    Subnets that miss the budgets are left out: what only they have is not trained.

    Reference:
        Chu et al., FairNAS, ICCV 2021.
    """

    distils = False

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._n_subnets = max(sampler.space.n_options, default=1)

    def subnets(self, step: int, n_steps: int) -> tuple[Genotype, ...]:
        """As many as the longest choice has options; fewer under a budget."""
        first = step * self._n_subnets
        dealt = np.array(
            [
                [self._option(column, number) for column in range(len(self._sampler.space.choices))]
                for number in range(first, first + self._n_subnets)
            ],
            dtype=np.int64,
        )
        kept = dealt[self._sampler.is_feasible(dealt)]
        return tuple(map(as_genotype, kept)) or (self._sampler.draw(self._sampler.rng(step)),)

    def _option(self, column: int, number: int) -> int:
        """The option that a choice deals to the subnet of that number."""
        n = self._sampler.space.n_options[column]
        shuffle, place = divmod(number, n)
        # From 1 on: a zero at the end would not count, and be the stream of step `shuffle`.
        return int(self._sampler.rng(shuffle, 1 + column).permutation(n)[place])


class Sandwich:
    """The largest, the smallest and random subnets; the largest teaches the others in place.

    Reference:
        Yu et al., BigNAS, ECCV 2020; the rule is of Yu and Huang, Universally Slimmable Networks,
        ICCV 2019.
    """

    distils = True

    def __init__(self, sampler: Sampler, *, n_random: int = 2) -> None:
        self._sampler = sampler
        self._n_random = n_random
        self._largest = sampler.extreme(largest=True)
        self._smallest = sampler.extreme(largest=False)

    def subnets(self, step: int, n_steps: int) -> tuple[Genotype, ...]:
        """The largest first, then the smallest, then random ones."""
        rng = self._sampler.rng(step)
        drawn = (self._sampler.draw(rng) for _ in range(self._n_random))
        return (self._largest, self._smallest, *drawn)


class Shrinking:
    """First the largest alone; then kernels become elastic, then depths, then widths as well.

    Each phase has as many steps. What is not elastic yet has the largest subnet's option; choices
    of no phase (the resolution) are elastic from the second phase on. Unlike in the paper, the
    largest goes on being trained and teaches in place: no second network has to be kept.

    Args:
        sampler: Draws the subnets.
        phases: Names of the choices that become elastic together, by phase; None: by the words in
            their names.
        n_random: Subnets a step beside the largest.

    Reference:
        Cai et al., Once-for-All, ICLR 2020.
    """

    distils = True

    def __init__(
        self,
        sampler: Sampler,
        *,
        phases: Sequence[Sequence[str]] | None = None,
        n_random: int = 1,
    ) -> None:
        self._sampler = sampler
        self._n_random = n_random
        self._largest = sampler.extreme(largest=True)
        self._phases = _columns(sampler.space, phases or shrinking_phases(sampler.space))

    def subnets(self, step: int, n_steps: int) -> tuple[Genotype, ...]:
        """The largest, and in all phases but the first random ones."""
        phase = step * (len(self._phases) + 1) // n_steps
        if phase == 0:
            return (self._largest,)
        rigid = {c: self._largest[c] for columns in self._phases[phase:] for c in columns}
        rng = self._sampler.rng(step)
        drawn = (self._sampler.draw_beside(rng, rigid) for _ in range(self._n_random))
        return (self._largest, *(genotype or self._largest for genotype in drawn))


def shrinking_phases(space: SearchSpace) -> tuple[tuple[str, ...], ...]:
    """The choices of kernel sizes, of depths and of widths, by the words in their names.

    Example:
        >>> from hwnas.spaces.mobilenet import mobile_space
        >>> [names[0] for names in shrinking_phases(mobile_space((1, 28, 28), 10))]
        ['kernel_1_1', 'depth_1', 'width']
    """
    own = {c.name: c.name.lower().rpartition(".")[2] for c in space.choices}  # not of its path
    words = {name: set(re.split(r"[^a-z]+", last)) for name, last in own.items()}
    phases = (tuple(name for name in words if words[name] & group) for group in _SHRINKING)
    return tuple(names for names in phases if names)


def _columns(space: SearchSpace, phases: Sequence[Sequence[str]]) -> list[list[int]]:
    names = [choice.name for choice in space.choices]
    for name in (name for phase in phases for name in phase):
        if name not in names:
            raise ConfigError(unknown_name("choice", name, names))
    return [[names.index(name) for name in phase] for phase in phases]


WAYS: dict[str, Callable[[Sampler], Way]] = {
    "single-path": SinglePath,
    "fair": Fair,
    "sandwich": Sandwich,
    "shrinking": Shrinking,
}


def make_way(name: str, space: SearchSpace, *, seed: int, problem: Problem | None = None) -> Way:
    """The way of that name, with its usual settings.

    Args:
        name: One of `WAYS`.
        space: Whose subnets are trained.
        seed: Of what is drawn.
        problem: Whose budgets the subnets meet; None: all subnets are trained.
    Raises:
        ConfigError: There is no such way.
        InfeasibleBudgetError: No network of the space was found to meet the budgets.
    """
    if name not in WAYS:
        raise ConfigError(unknown_name("way of training a supernet", name, WAYS))
    return WAYS[name](Sampler(space, seed=seed, problem=problem))
