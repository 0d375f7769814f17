from dataclasses import replace

import pytest

from hwnas.baselines import Dense
from hwnas.data import load_data
from hwnas.evaluators.supernet import SupernetEvaluator
from hwnas.spaces.base import Choice, SearchSpace
from hwnas.strategies import Trial
from hwnas.supernet import Supernet, make_way
from hwnas.supernet.training import evaluate_subnet, train_supernet
from hwnas.training import Recipe, seeded

WIDTHS = (4, 64)


@pytest.fixture(scope="module")
def wine():
    return load_data("wine")


@pytest.fixture(scope="module")
def space():
    return SearchSpace(
        name="narrow",
        choices=(Choice("width", WIDTHS),),
        input_shape=lambda options: (13,),
        slots=(lambda options: Dense(options["width"], True), lambda options: Dense(3, False)),
    )


def test_a_subnets_objective_is_its_error_with_inherited_weights(space, wine):
    with seeded(0):
        supernet = Supernet(space)
    way = make_way("single-path", space, seed=0)
    train_supernet(supernet, wine, Recipe(30, 16), way, seed=0)
    evaluate = SupernetEvaluator(space, wine, supernet)
    for number, genotype in enumerate([(0,), (1,)]):
        evaluation = evaluate(Trial(number, genotype, None))
        (error,) = evaluation.objectives
        assert 1 - error == pytest.approx(evaluate_subnet(supernet, genotype, wine).accuracy)
        assert evaluation.result["val_accuracy"] == pytest.approx(1 - error)
    assert error < 0.2


def test_a_supernet_of_another_space_is_refused(space, wine):
    other = replace(space, choices=(Choice("width", (8, 16)),))
    with pytest.raises(ValueError, match="the supernet is of the space 'narrow', not of"):
        SupernetEvaluator(space, wine, Supernet(other))
