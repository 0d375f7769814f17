import pytest
import torch

from hwnas.baselines import Dense, MeanEmbedding
from hwnas.data import DataSet, Split, load_data
from hwnas.errors import ConfigError, DataError
from hwnas.spaces import catalog
from hwnas.spaces.base import Choice, SearchSpace
from hwnas.spaces.for_data import default_space, space_for


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


def of_shape(*shape):
    split = Split(torch.rand(12, *shape), torch.arange(12) % 3)
    return DataSet("made", split, split, split, ("a", "b", "c"))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (of_shape(1, 8, 8), "mobile"),
        (of_shape(1, 8, 16), "proxylessnas"),  # the first ones are for square images
        (of_shape(2, 64), "wavenet"),
        (of_shape(13), "mlp"),
        (tokens(), "text_transformer"),
    ],
)
def test_without_a_name_it_is_the_first_space_that_is_for_the_data(data, name):
    assert default_space(data) == name


def test_data_that_no_space_is_for_are_told_why():
    with pytest.raises(ConfigError, match="the mobile space needs square images"):
        default_space(of_shape(1, 4, 4))
