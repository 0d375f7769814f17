from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from hwnas.budget import parse_budget
from hwnas.errors import BudgetError, InfeasibleBudgetError
from hwnas.feasibility import overview, resolve_budgets
from hwnas.spaces.base import Choice, Constraint, SearchSpace
from hwnas.strategies.base import Costs, Problem


def brute_force(space):
    return np.array(list(product(*map(range, space.n_options))), dtype=np.int64)


@pytest.fixture
def problem(make_toy):
    return make_toy(2, 2).problem


@pytest.mark.parametrize("metric", ["latency_ms", "macs"])
def test_the_cheapest_is_the_cheapest_of_all(problem, metric):
    found = overview(problem, metric, np.random.default_rng(0))
    every = getattr(problem.predict(brute_force(problem.space)), metric)
    assert found.fastest == every.min()
    costs = problem.predict(np.array([found.genotype]))
    assert getattr(costs, metric)[0] == found.fastest
    assert found.fastest_upper == costs.upper(metric)[0]
    assert (problem.space.canonical(np.array([found.genotype])) == found.genotype).all()


def test_the_descent_finds_what_no_sample_holds(make_toy, monkeypatch):
    problem = make_toy(3, 3).problem
    monkeypatch.setattr("hwnas.feasibility.N_SAMPLE", 20)
    found = overview(problem, "latency_ms", np.random.default_rng(0))
    # By hand: every choice at its smallest option is a network that no other undercuts.
    smallest = problem.predict(np.zeros((1, len(problem.space.choices)), np.int64))
    assert found.fastest == smallest.latency_ms[0]


def test_median_and_slowest_are_of_the_space(problem):
    found = overview(problem, "latency_ms", np.random.default_rng(0))
    every = problem.predict(brute_force(problem.space)).latency_ms
    assert found.median == pytest.approx(np.median(every), rel=0.05)
    assert found.fastest < found.median < found.slowest <= every.max()


def test_a_share_becomes_that_share_of_the_median(problem):
    budgets = (parse_budget("latency_ms<=40%"), parse_budget("params<=3e5"))
    resolved, overviews = resolve_budgets(problem, budgets, np.random.default_rng(0))
    latency, params = resolved.budgets
    assert latency.limit == pytest.approx(0.4 * overviews["latency_ms"].median)
    assert params == budgets[1]
    assert set(overviews) == {"latency_ms", "params"}


def test_a_percentile_is_met_by_that_share_of_the_space(problem):
    budgets = (parse_budget("latency_ms<=p25"),)
    resolved, _ = resolve_budgets(problem, budgets, np.random.default_rng(0))
    every = problem.predict(brute_force(problem.space)).latency_ms
    assert (every <= resolved.budgets[0].limit).mean() == pytest.approx(0.25, abs=0.02)


def test_no_budget_changes_nothing(problem):
    resolved, overviews = resolve_budgets(problem, (), np.random.default_rng(0))
    assert resolved.budgets == () and overviews == {}


def test_two_budgets_on_one_metric_are_both_kept(problem):
    budgets = (parse_budget("latency_ms<=40%"), parse_budget("latency_ms<=1.5"))
    resolved, overviews = resolve_budgets(problem, budgets, np.random.default_rng(0))
    assert len(resolved.budgets) == 2 and len(overviews) == 1


def test_what_no_network_meets_is_refused_with_what_is_needed(problem):
    cheapest = overview(problem, "latency_ms", np.random.default_rng(0))
    # Between the prediction and its upper end: the interval decides.
    limit = (cheapest.fastest + cheapest.fastest_upper) / 2
    with pytest.raises(InfeasibleBudgetError) as caught:
        resolve_budgets(problem, (parse_budget(f"latency_ms<={limit}"),), np.random.default_rng(0))
    text = str(caught.value)
    assert f"latency_ms <= {limit:g}" in text
    assert f"Raise the budget above {cheapest.fastest_upper:.4g}" in text
    just_enough = parse_budget(f"latency_ms<={cheapest.fastest_upper * 1.0001}")
    resolved, _ = resolve_budgets(problem, (just_enough,), np.random.default_rng(0))
    assert resolved.is_feasible(np.array([cheapest.genotype])).all()


@pytest.mark.parametrize("metric", ["energy_mj", "peak_memory_bytes"])
def test_a_metric_that_the_target_cannot_deliver_is_refused(problem, metric):
    with pytest.raises(BudgetError, match=f"cannot deliver {metric}.*latency_ms"):
        resolve_budgets(problem, (parse_budget(f"{metric}<=1"),), np.random.default_rng(0))


def test_budgets_already_in_the_problem_do_not_hide_the_overview(make_toy):
    toy = make_toy(2, 2, limit_ms=0.5).problem
    unlimited = Problem(toy.space, toy.predict)
    assert overview(toy, "macs", np.random.default_rng(0)) == overview(
        unlimited, "macs", np.random.default_rng(0)
    )


def test_only_what_is_affordable_is_looked_at(make_toy):
    problem = make_toy(3, 3).problem
    asked = []

    def predict(genotypes):
        asked.append(genotypes)
        return problem.predict(genotypes)

    def affordable(genotypes):  # half of the space
        return genotypes[:, 0] == 0

    limited = Problem(problem.space, predict)
    found = overview(limited, "latency_ms", np.random.default_rng(0), affordable=affordable)
    assert all((genotypes[:, 0] == 0).all() for genotypes in asked)
    # The smallest network is in that half, and the descent finds it from one start.
    smallest = problem.predict(np.zeros((1, len(problem.space.choices)), np.int64))
    assert found.fastest == smallest.latency_ms[0]
    sample = problem.space.sample(np.random.default_rng(1), 4000)
    half = problem.predict(sample[sample[:, 0] == 0]).latency_ms
    assert found.median == pytest.approx(np.median(half), rel=0.05)
    budgets = (parse_budget("latency_ms<=40%"),)
    _, overviews = resolve_budgets(
        limited, budgets, np.random.default_rng(0), affordable=affordable
    )
    assert overviews["latency_ms"] == found


def test_the_descent_keeps_to_valid_networks():
    # The cheapest network of all is not valid: some choice is above its smallest option.
    space = replace(toy_like(), constraints=(Constraint("some", is_allowed),))
    problem = Problem(space, cost_of_sum)
    found = overview(problem, "latency_ms", np.random.default_rng(0))
    assert sum(found.genotype) == 1 and found.fastest == 2.0


def is_allowed(options):
    return options["a"] + options["b"] > 0


def toy_like():
    choices = (Choice("a", (0, 1, 2)), Choice("b", (0, 1, 2)))
    return SearchSpace("sum", choices, lambda options: (options["a"], options["b"]), ())


def cost_of_sum(genotypes):
    latency_ms = 1.0 + genotypes.sum(axis=1)
    counts = np.ones(len(genotypes), np.int64)
    return Costs(latency_ms, latency_ms, latency_ms, np.ones(len(genotypes)), counts, counts)
