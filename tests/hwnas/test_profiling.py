from itertools import pairwise, product

import numpy as np
import pytest

from hwnas import missing_kernels, profiling
from hwnas.cost import CostTable
from hwnas.network_choice import choose_networks, sample_networks
from hwnas.profiling import (
    architecture_digest,
    profile_space,
    untrained_model,
)
from profilers.isolation import IsolatedProfiler
from profilers.profiler import Profiler
from profilers.store import MeasurementStore
from profilers.targets import make_target


@pytest.fixture(scope="module")
def space(make_tiny_space):
    return make_tiny_space((1, 8, 8), 10)


def test_an_untrained_model_is_the_same_every_time(space):
    architecture = space.architecture((0, 1, 0, 0, 0, 0))
    first, second = (untrained_model(architecture) for _ in range(2))
    assert first.proto.SerializeToString() == second.proto.SerializeToString()
    assert first.digest == second.digest == architecture_digest(architecture)
    assert untrained_model(architecture, batch=3).inputs[0].shape == (3, 1, 8, 8)


@pytest.fixture(scope="module")
def table(space):
    return CostTable(space, Profiler(make_target()), MeasurementStore(":memory:"))


@pytest.fixture(scope="module")
def every(space):
    """All networks of the space."""
    rows = np.array(list(product(*map(range, space.n_options))), dtype=np.int64)
    return np.unique(space.canonical(rows), axis=0)


def kernels_of(table, genotypes):
    return {kernel.key for genotype in genotypes for kernel in table.kernels(tuple(genotype))}


def test_the_first_are_the_corners_then_a_spread_from_the_smallest_to_the_largest(table, every):
    macs = table.counts(every).macs
    chosen = choose_networks(table, every, 10)
    assert chosen[:2] == [tuple(every[0]), tuple(every[1])]  # what `sample_networks` puts first
    half = table.counts(np.array(chosen[:5])).macs
    assert (half.min(), half.max()) == (macs.min(), macs.max())


def test_a_sample_begins_with_the_cheapest_and_the_dearest_corner(make_tiny_space):
    space = make_tiny_space((1, 8, 8), 10)
    sample = sample_networks(space, np.random.default_rng(0), 64)
    corners = np.array([[0] * len(space.choices), [n - 1 for n in space.n_options]])
    assert sample[:2].tolist() == space.canonical(corners).tolist()
    assert len(np.unique(sample, axis=0)) == len(sample)


def test_the_other_half_adds_kernels_while_there_are_new_ones(table, every):
    genotypes = choose_networks(table, every, 16)
    assert len(genotypes) == len(set(genotypes)) == 16
    n_kernels = [len(kernels_of(table, genotypes[:n])) for n in range(8, 17)]
    n_all = len(kernels_of(table, every))
    assert n_kernels[-1] == n_all  # so few suffice here
    assert all(a < b for a, b in pairwise(n_kernels) if a < n_all)


def test_a_small_space_gives_each_network_once(table, every):
    # By hand: 2 stems, 2 features, 2·2 second stages, and 1 (no block) + 2·2 first stages.
    assert len(every) == 2 * 2 * 4 * 5
    genotypes = choose_networks(table, every, 500)
    assert len(genotypes) == len(set(genotypes)) == len(every)
    assert choose_networks(table, every[:1], 8) == [tuple(every[0])]


def test_what_is_stored_is_not_measured_again(space, tmp_path, monkeypatch):
    monkeypatch.setattr(profiling, "SECONDS_PER_NETWORK", 0.05)
    monkeypatch.setattr(missing_kernels, "SECONDS_PER_MODEL", 0.05)
    target = make_target()
    with MeasurementStore(tmp_path / "m.db") as store:
        first = profile_space(space, target, store, n_networks=3)
        assert len({m.digest for m in first}) == len(first) == 3
        assert all(m.latency_ms > 0 and m.kernels and m.target == target for m in first)
        assert {m.tags["family"] for m in first} == {"tiny"}
        monkeypatch.setattr(IsolatedProfiler, "profile", lambda *a, **k: pytest.fail("again"))
        again = profile_space(space, target, store, n_networks=3)
    assert [m.digest for m in again] == [m.digest for m in first]
