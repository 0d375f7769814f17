"""A toy problem: a space with conditional choices, costs from a formula, errors from another.

And file modes that hold for root, too, whom these tests may run as.
"""

import ctypes
import os
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest

from hwnas.budget import Budget
from hwnas.spaces.base import Choice, SearchSpace
from hwnas.strategies.base import Costs, Problem


@dataclass(frozen=True)
class ToyLayer:
    stage: int
    position: int
    width: int
    kernel_size: int
    expand_ratio: int
    resolution: int

    def build(self, in_shape):
        raise NotImplementedError("a search builds no network")

    @property
    def latency_ms(self) -> float:
        macs = self.width * self.expand_ratio * (self.width + self.kernel_size**2)
        return 0.05 + macs * (self.resolution / 32) ** 2 / 1e4

    @property
    def quality(self) -> float:
        best_kernel_size = (3, 7, 5)[self.stage]  # the dear kernel is not always the good one
        fit = 1.0 - 0.2 * abs(self.kernel_size - best_kernel_size)
        size = np.log2(self.width * self.expand_ratio * self.resolution / 32)
        return fit * size / (4 + 4 * self.position)


def toy_layer(stage, position, options):
    if position >= options[f"depth_{stage}"]:
        return None
    return ToyLayer(
        stage,
        position,
        options[f"width_{stage}"],
        options[f"kernel_size_{stage}_{position}"],
        options[f"expand_ratio_{stage}_{position}"],
        options["resolution"],
    )


def toy_space(n_stages: int, n_layers: int) -> SearchSpace:
    choices = [Choice("resolution", (16, 32))]
    slots = []
    for stage in range(n_stages):
        choices.append(Choice(f"depth_{stage}", tuple(range(1, n_layers + 1))))
        choices.append(Choice(f"width_{stage}", (8, 16, 32)))
        for i in range(n_layers):
            choices.append(Choice(f"kernel_size_{stage}_{i}", (3, 5, 7)))
            choices.append(Choice(f"expand_ratio_{stage}_{i}", (2, 4, 6)))
            slots.append(partial(toy_layer, stage, i))

    def input_shape(options):
        return 3, options["resolution"], options["resolution"]

    return SearchSpace("toy", tuple(choices), input_shape, tuple(slots))


@dataclass(frozen=True)
class Toy:
    """A problem, and the truth that a search pays for."""

    problem: Problem
    error: Callable[[tuple[int, ...]], float]

    def objectives(self, genotype) -> tuple[float, float]:
        costs = self.problem.predict(np.array([genotype]))
        return self.error(genotype), float(costs.latency_ms[0])


@pytest.fixture(scope="session")
def make_toy():
    """Make a toy of a size, with a latency budget in ms or none."""

    def make(n_stages: int = 3, n_layers: int = 3, limit_ms: float | None = None) -> Toy:
        space = toy_space(n_stages, n_layers)

        def sums(genotypes, of):
            tables = [
                (t, np.array([of(v) if v else 0.0 for v in t.values])) for t in space.slot_tables
            ]
            return sum(column[table.lookup(genotypes)] for table, column in tables)

        def predict(genotypes):
            latency_ms = sums(genotypes, lambda layer: layer.latency_ms)
            counts = (1e6 * latency_ms).astype(np.int64)
            known = np.ones(len(genotypes))
            return Costs(latency_ms, 0.9 * latency_ms, 1.1 * latency_ms, known, counts, counts)

        def error(genotype):
            return float(np.exp(-sums(np.array([genotype]), lambda layer: layer.quality)[0] / 3))

        budgets = () if limit_ms is None else (Budget("latency_ms", limit_ms),)
        return Toy(Problem(space, predict, budgets), error)

    return make


@pytest.fixture
def file_modes_hold():
    """Let a mode such as 0o500 keep this thread from writing, also where it is root's."""
    if os.geteuid() != 0:
        yield
        return
    if sys.platform != "linux":
        pytest.skip("root may write anywhere")
    with _without_capabilities(CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        yield


CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2
_CAPABILITY_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable"))


@contextmanager
def _without_capabilities(*capabilities):
    """Take them from this thread; it gets them back (capset(2))."""
    libc, header, data = ctypes.CDLL(None), _Header(_CAPABILITY_VERSION_3, 0), (_Data * 2)()
    assert libc.capget(ctypes.byref(header), data) == 0
    before = data[0].effective
    data[0].effective = before & ~sum(1 << capability for capability in capabilities)
    assert libc.capset(ctypes.byref(header), data) == 0
    try:
        yield
    finally:
        data[0].effective = before
        assert libc.capset(ctypes.byref(header), data) == 0
