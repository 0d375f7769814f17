"""Which networks are measured, on a space that is small enough to list."""

from itertools import islice, pairwise, product

import numpy as np
import pytest

from hwnas.cost import CostTable
from hwnas.network_choice import networks_in_turn, random_networks, sample_networks
from profilers.profiler import Profiler
from profilers.store import MeasurementStore
from profilers.targets import make_target


@pytest.fixture(scope="module")
def space(make_tiny_space):
    return make_tiny_space((1, 8, 8), 10)


@pytest.fixture(scope="module")
def table(space):
    return CostTable(space, Profiler(make_target()), MeasurementStore(":memory:"))


@pytest.fixture(scope="module")
def every(space):
    """All networks of the space."""
    rows = np.array(list(product(*map(range, space.n_options))), dtype=np.int64)
    return np.unique(space.canonical(rows), axis=0)


@pytest.fixture(scope="module")
def corners(space):
    rows = np.array([[0] * len(space.choices), [n - 1 for n in space.n_options]])
    return [tuple(row) for row in space.canonical(rows).tolist()]


def kernels_of(table, genotypes):
    return {kernel.key for genotype in genotypes for kernel in table.kernels(tuple(genotype))}


def test_a_sample_begins_with_the_cheapest_and_the_dearest_corner(space, corners):
    sample = sample_networks(space, np.random.default_rng(0), 64)
    assert [tuple(row) for row in sample[:2].tolist()] == corners
    assert len(np.unique(sample, axis=0)) == len(sample)


def test_any_number_of_networks_in_turn_is_useful(space, table):
    sample = sample_networks(space, np.random.default_rng(0), 500)
    rows = list(networks_in_turn(table, sample))
    assert len(rows) == len(set(rows)) == len(sample)
    assert rows[:2] == [tuple(row) for row in sample[:2]]  # the corners
    macs_of = table.counts(sample).macs
    first = table.counts(np.array(rows[:8])).macs
    ranks = np.searchsorted(np.sort(macs_of), first) / len(sample)
    assert (np.diff(np.sort(ranks)) < 0.5).all()  # spread from small to large
    shown = [{k.key for row in rows[:n] for k in table.kernels(row)} for n in (8, 24)]
    every = {k.key for row in rows for k in table.kernels(row)}
    assert len(shown[0]) > 0.5 * len(every)
    assert shown[1] == every


def test_kernels_are_added_while_there_are_new_ones(table, every):
    genotypes = list(islice(networks_in_turn(table, every), 16))
    n_kernels = [len(kernels_of(table, genotypes[:n])) for n in range(2, 17, 2)]
    n_all = len(kernels_of(table, every))
    assert n_kernels[-1] == n_all  # so few suffice here
    assert all(a < b for a, b in pairwise(n_kernels) if a < n_all)


def test_a_small_space_gives_each_network_once(table, every):
    # By hand: 2 stems, 2 features, 2·2 second stages, and 1 (no block) + 2·2 first stages.
    assert len(every) == 2 * 2 * 4 * 5
    genotypes = list(islice(networks_in_turn(table, every), 500))
    assert len(genotypes) == len(set(genotypes)) == len(every)
    assert list(islice(networks_in_turn(table, every[:1]), 8)) == [tuple(every[0])]


def test_random_networks_are_the_corners_and_others_from_small_to_large(
    space, table, every, corners
):
    found = random_networks(space, np.random.default_rng(3), 20)
    assert found[:2] == corners
    assert len(found) == len(set(found)) == 20
    assert found == random_networks(space, np.random.default_rng(3), 20)
    assert found[2:] != random_networks(space, np.random.default_rng(4), 20)[2:]
    median = np.median(table.counts(every).macs)
    others = table.counts(np.array(found[2:])).macs
    assert 4 <= (others > median).sum() <= 14


@pytest.mark.parametrize(("n", "n_found"), [(1, 1), (2, 2), (3, 3), (500, 80)])
def test_random_networks_are_as_many_as_there_are(space, n, n_found):
    found = random_networks(space, np.random.default_rng(0), n)
    assert len(found) == len(set(found)) == n_found
