from dataclasses import replace

import numpy as np
import pytest

from hwnas.guides import gradient
from hwnas.guides.gradient import darts, fbnet, learn_by_gradient, proxylessnas
from hwnas.training import Recipe

POINTWISE, SPATIAL, DEAR = range(3)


def passes(lesson, epochs):
    return replace(lesson, recipe=Recipe(epochs=epochs, batch_size=16))


def test_darts_separates_a_useful_operation_from_a_useless_one_whatever_it_takes(
    lesson, make_problem
):
    guide = darts(replace(passes(lesson, 20), problem=make_problem(limit_ms=5.0)))
    (policy,) = guide.policies
    assert policy[0][POINTWISE] < 0.2  # at first 0.33
    assert policy[0][DEAR] > policy[0][POINTWISE]  # there is no latency term
    # The budget is met when the network is derived: of the two useful ones the faster.
    assert guide.ranked[0][0] == SPATIAL


@pytest.mark.parametrize("relaxation", ["gumbel", "two-path"])
def test_a_larger_latency_weight_moves_the_expectation_down(relaxation, lesson):
    guide = learn_by_gradient(passes(lesson, 24), relaxation=relaxation, latency_weights=(0.0, 1.0))
    problem = lesson.problem
    everything = problem.space.all_genotypes()
    latency_ms = problem.predict(everything).latency_ms
    expected = [
        np.prod([np.array(row)[everything[:, i]] for i, row in enumerate(policy)], axis=0)
        @ latency_ms
        for policy in guide.policies
    ]
    assert expected[1] < 0.8 * expected[0]


@pytest.mark.parametrize("learn", [fbnet, proxylessnas])
def test_one_network_and_one_distribution_come_from_each_latency_weight(learn, lesson):
    guide = learn(passes(lesson, 4))
    assert len(guide.ranked) == len(guide.policies) == 3
    assert not guide.errors


@pytest.fixture
def epochs(monkeypatch):
    """Of each search by gradients, by its relaxation."""
    seen = {}
    search = gradient.search_by_gradient

    def note(supernet, data, recipe, settings, **options):
        seen[settings.relaxation] = recipe.epochs
        return search(supernet, data, recipe, settings, **options)

    monkeypatch.setattr(gradient, "search_by_gradient", note)
    return seen


def test_a_mixture_that_runs_more_blocks_is_trained_for_fewer_epochs(lesson, epochs):
    for relaxation in ("softmax", "two-path"):
        learn_by_gradient(passes(lesson, 4), relaxation=relaxation, latency_weights=(0.0,))
    # Three operations, then one block, one or none, and the head: 6 blocks in 4 slots; the width
    # is drawn, and compared with another draw by a forward pass of half of the examples; a forward
    # pass is computed again backwards.
    assert epochs["softmax"] == pytest.approx(4 / (6 / 4 * (4 / 3 + 1 / 6)))
    assert epochs["two-path"] == pytest.approx(4 / (1 + 1 / 3))


def test_networks_over_the_budget_cost_as_many_passes_as_they_are_larger(
    lesson, make_problem, epochs
):
    tight = replace(passes(lesson, 4), problem=make_problem(limit_ms=2.0))
    learn_by_gradient(tight, relaxation="two-path", latency_weights=(0.0,))
    # All networks take 6.5 ms on average, the four that meet the budget 1.75 ms.
    assert 4 / epochs["two-path"] / (1 + 1 / 3) == pytest.approx(6.5 / 1.75, rel=0.3)


def test_a_short_lesson_has_small_batches_and_so_more_steps(lesson, monkeypatch):
    seen = []
    search = gradient.search_by_gradient

    def note(supernet, data, recipe, settings, **options):
        seen.append((recipe.batch_size, recipe.steps(len(data.train) // 2)[1]))
        return search(supernet, data, recipe, settings, **options)

    monkeypatch.setattr(gradient, "search_by_gradient", note)
    short = passes(lesson, 4)
    for batch_size, expected in ((64, 16), (48, 24), (16, 16), (8, 8)):
        recipe = replace(short.recipe, batch_size=batch_size)
        learn_by_gradient(
            replace(short, recipe=recipe), relaxation="two-path", latency_weights=(0.0,)
        )
        assert seen[-1][0] == expected and seen[-1][1] < gradient.FEW_STEPS
