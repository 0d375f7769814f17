"""What every learner promises; a new one is tested by its line in `LEARNERS`."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hwnas.errors import ConfigError, InfeasibleBudgetError
from hwnas.guides import LEARNERS, learn_guide
from hwnas.strategies import NEEDS_GUIDE, make_strategy
from hwnas.training import TrainingDivergedError


@pytest.fixture(params=sorted(LEARNERS))
def name(request):
    return request.param


def shortly(lesson, epochs=2.0):
    return replace(lesson, recipe=replace(lesson.recipe, epochs=epochs))


def test_the_strategies_that_need_a_guide_are_those_that_can_be_learned():
    assert LEARNERS.keys() == NEEDS_GUIDE


def test_a_guide_is_the_same_again_with_its_seed(name, lesson):
    state = torch.get_rng_state()
    first = learn_guide(name, shortly(lesson))
    assert learn_guide(name, shortly(lesson)) == first
    assert learn_guide(name, replace(shortly(lesson), seed=1)) != first
    assert torch.equal(torch.get_rng_state(), state)


def test_all_that_is_listed_meets_the_budget(name, lesson, make_problem):
    # Of the twelve networks, the four with 2 ms or less.
    problem = make_problem(limit_ms=2.0)
    guide = learn_guide(name, replace(shortly(lesson), problem=problem))
    guide.check(problem.space)
    assert guide.ranked and problem.is_feasible(np.array(guide.ranked)).all()
    strategy = make_strategy(name, problem, seed=0, guide=guide)
    assert problem.is_feasible(np.array([strategy.ask() for _ in range(4)])).all()


def test_an_impossible_budget_is_an_error(name, lesson, make_problem):
    with pytest.raises(InfeasibleBudgetError, match=r"latency_ms <= 0\.5; the nearest"):
        learn_guide(name, replace(shortly(lesson), problem=make_problem(limit_ms=0.5)))


def test_progress_rises_to_one(name, lesson):
    shares = []
    learn_guide(name, replace(shortly(lesson), on_progress=shares.append))
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1.0)


def test_progress_may_end_the_learning(name, lesson):
    def stop(share):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn_guide(name, replace(shortly(lesson), on_progress=stop))


@pytest.mark.parametrize("name", sorted(LEARNERS.keys() - {"zero_cost"}))  # that trains nothing
def test_a_loss_that_is_not_finite_ends_the_learning(name, lesson):
    recipe = replace(lesson.recipe, learning_rate=1e30, max_gradient_norm=1e30, warmup_share=0.0)
    with pytest.raises(TrainingDivergedError, match="lower the learning rate"):
        learn_guide(name, replace(lesson, recipe=recipe))


def test_an_unknown_name_is_an_error(lesson):
    with pytest.raises(ConfigError, match="did you mean 'darts'"):
        learn_guide("dart", lesson)
