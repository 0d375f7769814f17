import math

import numpy as np
import pytest

from hwnas import pareto
from hwnas.strategies import Nsga2, Nsga3, RandomSearch, Trial
from hwnas.strategies.nsga3 import reference_points, survivors


def objectives_of(strategy, toy, n_trials):
    found = []
    for number in range(n_trials):
        genotype = strategy.ask()
        found.append(toy.objectives(genotype))
        strategy.tell(Trial(number, genotype, found[-1]))
    return np.array(found)


@pytest.mark.parametrize("make", [Nsga2, Nsga3])
def test_generations_dominate_more_than_random_search(make_toy, make):
    toy = make_toy(limit_ms=3.0)
    volume, random_volume = (
        np.median(
            [
                pareto.hypervolume(objectives_of(one(toy.problem, seed=seed), toy, 120), [1.0, 3.0])
                for seed in range(7)
            ]
        )
        for one in (make, RandomSearch)
    )
    assert volume > 1.02 * random_volume


@pytest.mark.parametrize("make", [Nsga2, Nsga3])
def test_a_generation_ends_when_as_many_trials_have_come_back_as_the_population_holds(
    make_toy, make
):
    toy = make_toy()
    strategy = make(toy.problem, seed=0, population_size=8)
    population = strategy._generations
    sizes, best = [], []
    for number in range(40):
        genotype = strategy.ask()
        failure = "it fails" if number % 5 == 4 else None
        strategy.tell(
            Trial(number, genotype, None if failure else toy.objectives(genotype), failure)
        )
        sizes.append(len(population.genotypes))
        if sizes[-1]:
            best.append(population.objectives.min(axis=0))
    # Four of five succeed: the eighth success is the ninth trial.
    assert sizes == [0] * 8 + [8] * 32
    # Elitism: the best error and the best latency are never lost.
    assert (np.diff(best, axis=0) <= 0).all()
    assert len(np.unique(best, axis=0)) > 1


def test_nsga2_keeps_whole_fronts_and_of_the_last_one_the_least_crowded(make_toy):
    strategy = Nsga2(make_toy().problem, seed=0, population_size=6)
    points = np.random.default_rng(2).random((12, 2))
    genotypes = strategy._generations._problem.space.sample(np.random.default_rng(0), 12)
    for number, (genotype, values) in enumerate(zip(genotypes.tolist(), points, strict=True)):
        strategy.tell(Trial(number, tuple(genotype), tuple(values.tolist())))
    # By the definition: the first six are a population, then six of all twelve survive. The first
    # six all survive the first selection.
    ranks = pareto.ranks(points)
    kept = {tuple(row) for row in strategy._generations.objectives.tolist()}
    expected: set[tuple[float, ...]] = set()
    for rank in range(ranks.max() + 1):
        members = points[ranks == rank]
        room = 6 - len(expected)
        crowding = pareto.crowding_distance(members)
        order = np.argsort(-crowding, kind="stable")[: max(room, 0)]
        expected |= {tuple(row) for row in members[order].tolist()}
    assert kept == expected


@pytest.mark.parametrize(("n_objectives", "n_parts"), [(2, 9), (3, 4), (4, 3), (1, 1)])
def test_reference_points_are_all_on_the_simplex_at_even_steps(n_objectives, n_parts):
    n = math.comb(n_parts + n_objectives - 1, n_objectives - 1)
    points = reference_points(n_objectives, n)
    assert len(points) == len(np.unique(points, axis=0)) == n
    assert points.sum(axis=1) == pytest.approx(1)
    assert points * n_parts == pytest.approx(np.round(points * n_parts))
    assert len(reference_points(n_objectives, n + 1)) == n or n_objectives == 2


def test_nsga3_keeps_one_for_each_reference_line_however_crowded_another_is():
    points = reference_points(3, 15)
    rng = np.random.default_rng(0)
    crowd = np.abs(points[7] + rng.uniform(-0.02, 0.02, size=(60, 3)))
    crowd /= crowd.sum(axis=1, keepdims=True)  # on the same plane: nobody dominates anybody
    # Units do not matter: the second objective is in thousandths.
    objectives = np.concatenate([crowd, 0.98 * points + 0.02 / 3]) * [1, 1e-3, 1]
    rows = survivors(objectives, 15, rng)
    assert len(set(rows)) == 15
    # Of the fifteen on the lines all but perhaps the crowded one survive.
    assert set(range(60, 75)) - set(rows) <= {67}


def test_nsga3_keeps_better_fronts_whole_and_fills_up_from_the_next():
    front = np.column_stack([np.arange(5), np.arange(5)[::-1]]).astype(float)
    objectives = np.concatenate([front + 10, front, front + 5])
    rows = survivors(objectives, 8, np.random.default_rng(0))
    assert set(range(5, 10)) <= set(rows)
    assert set(rows) <= set(range(5, 15))
    assert len(rows) == 8
    # Those of the next front whose lines nobody is near yet: not twice the same direction.
    assert len(survivors(objectives, 99, np.random.default_rng(0))) == 15


def test_equal_objectives_leave_nothing_to_scale_and_are_survived(make_toy):
    rows = survivors(np.ones((10, 2)), 4, np.random.default_rng(0))
    assert len(set(rows)) == 4


@pytest.mark.parametrize("make", [Nsga2, Nsga3])
def test_fewer_than_two_parents_are_refused(make_toy, make):
    with pytest.raises(ValueError, match="two parents"):
        make(make_toy().problem, seed=0, population_size=1)
