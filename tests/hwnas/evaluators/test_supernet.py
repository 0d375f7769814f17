import re
from dataclasses import replace
from pathlib import Path

import pytest

from hwnas.baselines import Dense
from hwnas.data import load_data
from hwnas.evaluators.catalog import make_evaluator
from hwnas.evaluators.supernet import SupernetEvaluator
from hwnas.spaces.base import Choice, SearchSpace
from hwnas.strategies import Trial
from hwnas.supernet import Supernet, make_way, save_supernet
from hwnas.supernet.training import evaluate_subnet, train_supernet
from hwnas.training import Recipe, seeded

WIDTHS = (4, 64)
PAGE = Path(__file__).parents[3] / "docs" / "evaluators.md"


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


def test_the_pages_file_evaluates_by_a_supernet_that_lies_there(space, wine, tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "inherited.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with seeded(1):
        supernet = Supernet(space)
    Path("runs/bench-supernet/seed-0").mkdir(parents=True)
    save_supernet(supernet, Path("runs/bench-supernet/seed-0/supernet.pt"))
    evaluate = make_evaluator("inherited.py:inherited", space, wine, Recipe(1, 16), seed=0)
    (error,) = evaluate(Trial(0, (1,), None)).objectives
    assert 1 - error == pytest.approx(evaluate_subnet(supernet, (1,), wine).accuracy)
