import pytest
import torch

from hwnas.baselines import Dense, MeanEmbedding
from hwnas.data import DataSet, Split, load_data
from hwnas.errors import ConfigError, DataError
from hwnas.spaces import catalog
from hwnas.spaces.base import Choice, SearchSpace
from hwnas.spaces.for_data import space_for


def space(shape, *slots, input_type="float32"):
    return SearchSpace(
        name="own", choices=(Choice("width", (4, 8)),), input_shape=lambda options: shape,
        slots=slots, input_type=input_type,
    )  # fmt: skip


@pytest.fixture
def register(monkeypatch):
    """Let the catalog know a space by name."""
    return lambda name, factory: monkeypatch.setitem(catalog.SPACES, name, factory)


def tokens():
    split = Split(torch.arange(60).view(12, 5) % 9, torch.arange(12) % 3)
    return DataSet("tokens", split, split, split, ("a", "b", "c"))


def test_a_space_is_made_for_the_shape_and_the_classes_of_the_data(register):
    register("rows", lambda shape, n: space(shape, lambda options: Dense(n, False)))
    made = space_for("rows", load_data("wine"))
    architecture = made.architecture((0,))
    assert architecture.input_shape == (13,) and architecture.blocks == (Dense(3, False),)


def test_a_space_of_token_ids_is_told_the_vocabulary_of_the_data(register):
    def words(shape, n, vocabulary):
        return space(shape, lambda options: MeanEmbedding(vocabulary, 4), input_type="int64")

    register("words", words)
    register("rows", lambda shape, n: space(shape, lambda options: Dense(n, False)))
    assert space_for("words", tokens()).architecture((0,)).blocks == (MeanEmbedding(9, 4),)
    with pytest.raises(ConfigError, match="space 'rows' does not fit this data: it needs numbers"):
        space_for("rows", tokens())
    with pytest.raises(ConfigError, match="space 'words' does not fit .*: it needs token ids"):
        space_for("words", load_data("wine"))


def test_a_space_for_another_shape_is_refused(register):
    register("fixed", lambda shape, n: space((14,), lambda options: Dense(n, False)))
    with pytest.raises(DataError, match="network for 14 cannot take the rows of 'wine', 13"):
        space_for("fixed", load_data("wine"))
