import numpy as np
import pytest

from hwnas import pareto
from hwnas.strategies import Evolution, RandomSearch, Trial


def objectives_of(strategy, toy, n_trials):
    found = []
    for number in range(n_trials):
        genotype = strategy.ask()
        found.append(toy.objectives(genotype))
        strategy.tell(Trial(number, genotype, found[-1]))
    return np.array(found)


@pytest.mark.parametrize(("limit_ms", "margin"), [(None, 1.02), (0.6, 1.1)])
def test_evolution_dominates_more_than_random_search(make_toy, limit_ms, margin):
    # Measured: 1.06 and 1.21 times the volume.
    toy = make_toy(limit_ms=limit_ms)
    reference = [1.0, limit_ms or 10.0]  # the slowest network needs 10 ms
    evolution_volume, random_volume = (
        np.median(
            [
                pareto.hypervolume(objectives_of(make(toy.problem, seed=seed), toy, 60), reference)
                for seed in range(5)
            ]
        )
        for make in (Evolution, RandomSearch)
    )
    assert evolution_volume > margin * random_volume


def test_the_first_proposals_are_spread_over_the_latencies_that_the_budget_leaves(make_toy):
    toy = make_toy(limit_ms=3.0)
    latency_ms = objectives_of(Evolution(toy.problem, seed=0, n_initial=8), toy, 8)[:, 1]
    drawn = toy.problem.space.sample(np.random.default_rng(1), 4096)
    feasible_ms = toy.problem.predict(drawn[toy.problem.is_feasible(drawn)]).latency_ms
    # Eight even steps of log latency: no gap is much wider than a seventh of the range.
    steps = np.diff(np.sort(np.log(latency_ms)))
    assert steps.max() < 1.5 * (np.log(feasible_ms.max()) - np.log(feasible_ms.min())) / 7


@pytest.mark.parametrize("sizes", [{"n_initial": 1}, {"population_size": 0}])
def test_fewer_than_two_parents_are_refused(make_toy, sizes):
    with pytest.raises(ValueError, match="two parents"):
        Evolution(make_toy().problem, seed=0, **sizes)
