import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from hwnas import pareto
from hwnas.spaces.base import Choice
from hwnas.strategies import OptunaSampler, RandomSearch, Trial, make_strategy
from hwnas.strategies.optuna_sampler import distribution


class Suggests(BaseSampler):
    """Suggests one network, always, and notes what it finds in the study."""

    def __init__(self, options, seen):
        self.options = options
        self.seen = seen

    def infer_relative_search_space(self, study, trial):
        rows = [t for t in study.get_trials() if t.number != trial.number]
        self.seen.append([t for t in rows if t.state != TrialState.FAIL])
        return {}

    def sample_relative(self, study, trial, search_space):
        return {}

    def sample_independent(self, study, trial, name, distribution):
        return self.options[name]


def suggesting(toy, genotype, **settings):
    """A strategy on that sampler, what the sampler saw, and the seeds that it was made with."""
    names = [choice.name for choice in toy.problem.space.choices]
    seen, seeds = [], []

    def make_sampler(seed):
        seeds.append(seed)
        return Suggests(dict(zip(names, genotype, strict=True)), seen)

    strategy = OptunaSampler(
        toy.problem, seed=0, make_sampler=make_sampler, n_initial=2, **settings
    )
    return strategy, seen, seeds


def tell_random(strategy, toy, n):
    for number in range(n):
        genotype = strategy.ask()
        strategy.tell(Trial(number, genotype, toy.objectives(genotype)))


@pytest.fixture
def toy(make_toy):
    return make_toy(n_stages=2, n_layers=1, limit_ms=2.0)  # every choice is read


def test_the_sampler_sees_what_was_told_and_what_runs_with_constraints(toy):
    strategy, seen, seeds = suggesting(toy, (0,) * 9)
    tell_random(strategy, toy, 2)
    failed = strategy.ask()
    strategy.tell(Trial(2, failed, None, "it fails"))
    running = strategy.ask()
    strategy.ask()
    states = [t.state for t in seen[-1]]
    assert states == [TrialState.COMPLETE] * 2 + [TrialState.RUNNING]
    assert tuple(seen[-1][-1].params.values()) == running
    first = seen[-1][0]
    genotype = tuple(first.params.values())
    assert tuple(first.values) == pytest.approx(toy.objectives(genotype))
    (constraint,) = first.constraints.values()
    costs = toy.problem.predict(np.array([genotype]))
    assert constraint == pytest.approx(toy.problem.excess(costs)[0])
    assert constraint <= 0
    assert len(set(seeds)) == len(seeds) > 1  # a new sampler for every proposal


def test_a_suggestion_that_may_be_proposed_is(toy):
    suggestion = (0, 0, 1, 2, 0, 0, 0, 1, 1)
    strategy, _, _ = suggesting(toy, suggestion)
    tell_random(strategy, toy, 2)
    assert strategy.ask() == suggestion


@pytest.mark.parametrize("is_known", [True, False])
def test_a_known_suggestion_or_one_over_the_budget_is_replaced_by_a_near_one(toy, is_known):
    space = toy.problem.space
    feasible = space.all_genotypes()
    feasible = feasible[toy.problem.is_feasible(feasible)]
    # The smallest network, or the largest, which is too slow.
    suggestion = np.zeros(9, dtype=np.int64) if is_known else np.array(space.n_options) - 1
    strategy, _, _ = suggesting(toy, tuple(suggestion.tolist()), n_tries=2)
    tell_random(strategy, toy, 2)
    if is_known:
        genotype = tuple(suggestion.tolist())
        strategy.tell(Trial(2, genotype, toy.objectives(genotype)))
        feasible = feasible[feasible.any(axis=1)]
    n_changes = (np.array(strategy.ask()) != suggestion).sum()
    assert 0 < n_changes <= (feasible != suggestion).sum(axis=1).min() + 1


def test_numbers_keep_their_order_and_names_have_none():
    assert distribution(Choice("width", (8, 16, 32))) == IntDistribution(0, 2)
    named = distribution(Choice("kind", ("none", "skip")))
    assert named == CategoricalDistribution((0, 1))
    assert isinstance(distribution(Choice("is_residual", (False, True))), CategoricalDistribution)


@pytest.mark.parametrize(("name", "n_trials"), [("tpe", 40), ("gp", 16)])
def test_the_samplers_learn_where_good_networks_are(make_toy, name, n_trials):
    toy = make_toy(n_stages=2, n_layers=1, limit_ms=2.0)
    found = {}
    for one in (name, "random"):
        strategy = make_strategy(one, toy.problem, seed=0)
        objectives = []
        for number in range(n_trials):
            genotype = strategy.ask()
            objectives.append(toy.objectives(genotype))
            strategy.tell(Trial(number, genotype, objectives[-1]))
        found[one] = pareto.hypervolume(objectives, [1.0, 2.0])
    assert found[name] > found["random"]


def test_random_search_is_what_a_sampler_starts_with(toy):
    strategy, _, _ = suggesting(toy, (0,) * 9)
    random = RandomSearch(toy.problem, seed=0)
    assert [strategy.ask() for _ in range(3)] == [random.ask() for _ in range(3)]
