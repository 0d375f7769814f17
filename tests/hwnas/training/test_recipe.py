import pytest
import torch

from hwnas.data import DataSet, Split, load_data
from hwnas.data.kinds import KINDS
from hwnas.errors import ConfigError
from hwnas.training import Recipe, default_recipes, with_changes
from hwnas.training.recipe import AUGMENTATIONS


@pytest.mark.parametrize(
    ("epochs", "n_examples", "steps"),
    [(1, 50, (3, 3)), (0.25, 640, (40, 10)), (0.01, 50, (3, 1)), (2, 9, (1, 2))],
)
def test_fractions_of_an_epoch_are_steps_and_there_is_at_least_one(epochs, n_examples, steps):
    assert Recipe(epochs, 16).steps(n_examples) == steps


def test_the_learning_rate_rises_then_falls_to_zero():
    recipe = Recipe(1, learning_rate=0.5, warmup_share=0.2)
    rates = [recipe.learning_rate_at(share) for share in (0.0, 0.1, 0.2, 0.6, 1.0)]
    assert rates == pytest.approx([0.0, 0.25, 0.5, 0.25, 0.0])


@pytest.mark.parametrize(
    "values",
    [
        {"epochs": 0}, {"epochs": float("inf")}, {"batch_size": 1}, {"learning_rate": -1.0},
        {"max_shift": 1.0}, {"ema_decay": 1.0}, {"mixup": -0.1}, {"temperature": 0.0},
        {"distillation": 1.1},
        {"precision": "fp16"}, {"noise": float("nan")}, {"erase": -0.1}, {"token_dropout": 1.0},
    ],
)  # fmt: skip
def test_a_recipe_that_cannot_work_is_refused(values):
    with pytest.raises(ConfigError, match=f"{next(iter(values))} must be"):
        Recipe(**({"epochs": 1} | values))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentations_are_refused_for_data_that_they_are_not_for(kind, name):
    recipe = Recipe(1, **{name: True if name == "flip" else 0.5})
    if kind in AUGMENTATIONS[name]:
        recipe.check_kind(kind)
        return
    with pytest.raises(
        ConfigError, match=f"{name} is for data of kind .* these are of kind {kind}"
    ):
        recipe.check_kind(kind)


def big(side):
    split = Split(torch.zeros((54_000, 1, side, side), dtype=torch.uint8), torch.arange(54_000) % 2)
    return DataSet("big", split, split, split, ("a", "b"))


@pytest.mark.parametrize("name", ["digits", "big", "wine", "breast-cancer", "melodies"])
def test_default_recipes_see_less_in_the_search_than_at_the_end_and_fit_the_data(name):
    data = big(1) if name == "big" else load_data(name)
    search, final = default_recipes(data)
    n = len(data.train)
    assert 50 < search.steps(n)[1] < final.steps(n)[1] < 3000
    search.check_kind(data.kind)
    final.check_kind(data.kind)


def test_values_are_replaced_by_their_names():
    recipe = with_changes(Recipe(2), ["learning_rate=3e-3", " flip = true ", "batch_size=16"])
    assert recipe == Recipe(2, batch_size=16, learning_rate=0.003, flip=True)
    assert with_changes(recipe, ["flip=false", "precision=bf16"]).precision == "bf16"
    assert with_changes(recipe, []) == recipe
    assert with_changes(Recipe(2), ["epochs=0.5"]).epochs == 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "learnig_rate=1",
            "unknown value of a recipe .NAME=VALUE. 'learnig_rate'; did you mean 'le",
        ),
        ("flip", "unknown value of a recipe .NAME=VALUE. 'flip'"),
        ("flip=yes", "flip of a recipe must be true or false, got 'yes'"),
        ("batch_size=1.5", "batch_size of a recipe must be int, got '1.5'"),
        ("mixup=", "mixup of a recipe must be float, got ''"),
        ("mixup=-1", "mixup must be >= 0, got -1.0"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        with_changes(Recipe(1), [text])
