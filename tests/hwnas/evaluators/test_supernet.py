import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from hwnas.baselines import Dense
from hwnas.data import load_data
from hwnas.errors import ConfigError, RunFolderError
from hwnas.evaluators.catalog import evaluator_digest, make_evaluator
from hwnas.evaluators.supernet import SupernetEvaluator
from hwnas.evaluators.training import TrainingEvaluator
from hwnas.spaces.base import Choice, SearchSpace
from hwnas.spaces.catalog import make_space
from hwnas.strategies import Trial
from hwnas.supernet import Supernet, load_supernet, make_way, save_supernet
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


def test_a_supernet_evaluates_by_the_name_of_its_file(space, wine, tmp_path):
    with seeded(1):
        supernet = Supernet(space)
    save_supernet(supernet, tmp_path / "wine")
    name = f"supernet:{tmp_path / 'wine'}"
    evaluate = make_evaluator(name, space, wine, Recipe(1, 16), seed=0)
    (error,) = evaluate(Trial(0, (1,), None)).objectives
    assert 1 - error == pytest.approx(evaluate_subnet(supernet, (1,), wine).accuracy)
    before = evaluator_digest(name)
    with seeded(2):
        save_supernet(Supernet(space), tmp_path / "wine")
    assert re.fullmatch("[0-9a-f]{16}", before) and evaluator_digest(name) != before


def test_a_file_that_is_no_such_supernet_is_one_message(space, wine, tmp_path):
    with pytest.raises(ConfigError, match="cannot read missing.pt"):
        evaluator_digest("supernet:missing.pt")
    other = replace(space, choices=(Choice("width", (8, 16)),))
    save_supernet(Supernet(other), tmp_path / "other.pt")
    with pytest.raises(RunFolderError, match="holds the weights of another space"):
        make_evaluator(f"supernet:{tmp_path / 'other.pt'}", space, wine, Recipe(1, 16), seed=0)
    with pytest.raises(ConfigError, match="did you mean 'supernet:FILE'"):
        evaluator_digest("supernet:")


def test_a_supernet_of_other_data_is_refused(space, wine, tmp_path):
    supernet = Supernet(space)
    for told, is_fine in ((None, True), (wine.fingerprint, True), ("0" * 16, False)):
        save_supernet(supernet, tmp_path / "a.pt", data=told)
        refused = pytest.raises(RunFolderError, match="trained on other data than these")
        with nullcontext() if is_fine else refused:
            make_evaluator(f"supernet:{tmp_path}/a.pt", space, wine, Recipe(1, 16), seed=0)
    way = make_way("single-path", space, seed=0)
    train_supernet(supernet, wine, Recipe(1, 16), way, seed=0, checkpoint=tmp_path / "b.pt")
    make_evaluator(f"supernet:{tmp_path}/b.pt", space, wine, Recipe(1, 16), seed=0)
    with pytest.raises(RunFolderError, match="other data"):
        load_supernet(space, tmp_path / "b.pt", data="0" * 16)


def test_the_pages_file_evaluates_by_the_middle_of_three(wine, tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "thrice.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    space, recipe = make_space("mlp", (13,), 3), Recipe(2, 16)
    trial = Trial(0, tuple(0 for _ in space.choices), None)
    evaluation = make_evaluator("thrice.py:thrice", space, wine, recipe, seed=0)(trial)
    alone = [TrainingEvaluator(space, wine, recipe, seed=i)(trial).objectives[0] for i in range(3)]
    assert evaluation.objectives == (pytest.approx(sorted(alone)[1]),)
    assert len(set(alone)) > 1
