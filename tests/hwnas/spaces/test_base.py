import json
from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest

from hwnas.spaces.base import MAX_LISTED, Architecture, Choice, Constraint, SearchSpace, SpaceError
from hwnas.spaces.mobilenet import mobile_space


@dataclass(frozen=True)
class Layer:
    width: int
    kernel_size: int

    def build(self, in_shape):
        raise NotImplementedError


def layer(i):
    def slot(options):
        if options["depth"] < i:
            return None
        return Layer(options["width"], options[f"kernel_{i}"])

    return slot


def small_space(*constraints):
    choices = (
        Choice("depth", (0, 1, 2)),
        Choice("width", (8, 16)),
        Choice("kernel_1", (3, 5, 7)),
        Choice("kernel_2", (3, 5)),
    )
    slots = (layer(1), layer(2))
    return SearchSpace("small", choices, lambda options: (3, 8, 8), slots, constraints=constraints)


def product_of(space):
    return np.array(list(product(*map(range, space.n_options))), dtype=np.int64)


def test_equal_canonical_rows_mean_equal_architectures_and_the_reverse():
    space = small_space()
    genotypes = product_of(space)
    rows = [tuple(row) for row in space.canonical(genotypes)]
    architectures = [space.architecture(tuple(g)) for g in genotypes]
    # By hand: depth 0 is one network, depth 1 has 2·3, depth 2 has 2·3·2.
    assert len(set(rows)) == len(set(architectures)) == 1 + 6 + 12
    assert len(set(zip(rows, architectures, strict=True))) == 19
    assert [space.architecture(row) for row in rows] == architectures


def test_canonical_form_is_its_own_canonical_form():
    space = small_space()
    rows = space.canonical(product_of(space))
    assert (space.canonical(rows) == rows).all()


@pytest.mark.parametrize("size", [8, 28, 224])
def test_equal_canonical_rows_mean_equal_architectures_in_the_mobile_space(size):
    space = mobile_space((3, size, size), 10)
    genotypes = space.sample(np.random.default_rng(0), 500)
    # Neighbours: every second one differs from its partner in one choice, often an inactive one.
    partners = genotypes.copy()
    columns = np.random.default_rng(1).integers(0, len(space.choices), len(partners))
    partners[np.arange(len(partners)), columns] = 0
    both = np.concatenate([genotypes, partners])
    rows = [tuple(row) for row in space.canonical(both)]
    architectures = [space.architecture(tuple(row)) for row in both]
    n_rows = len(set(rows))
    assert n_rows == len(set(architectures)) == len(set(zip(rows, architectures, strict=True)))
    assert n_rows < len({tuple(row) for row in both})


def test_active_choices_are_those_that_the_network_depends_on():
    active = small_space().active(np.array([[0, 1, 2, 1], [1, 0, 0, 0], [2, 0, 0, 0]]))
    assert active.tolist() == [
        [True, False, False, False],
        [True, True, True, False],
        [True, True, True, True],
    ]


def test_a_sample_lies_within_the_options_and_uses_them_all():
    space = small_space()
    sample = space.sample(np.random.default_rng(0), 200)
    assert sample.shape == (200, 4) and sample.dtype == np.int64
    assert (sample.min(axis=0) == 0).all()
    assert tuple(sample.max(axis=0) + 1) == space.n_options == (3, 2, 3, 2)
    assert space.size == 36


def test_a_small_space_is_listed_whole_and_in_order():
    space = small_space()
    listed = space.all_genotypes()
    assert listed.tolist() == np.unique(space.canonical(product_of(space)), axis=0).tolist()
    assert len(listed) == space.n_architectures == 19


def test_a_large_space_is_not_listed():
    space = mobile_space((3, 32, 32), 10)
    assert space.size > MAX_LISTED and space.n_architectures is None
    with pytest.raises(SpaceError, match=r"'mobile' has [0-9,]+ genotypes, too many to list"):
        space.all_genotypes()


def test_networks_are_counted_once_whichever_slots_and_choices_make_them():
    # Either slot may hold the layer: none, one (made in two ways), or two of them.
    def slot(name):
        return lambda options: Layer(8, 3) if options[name] else None

    choices = (Choice("a", (False, True)), Choice("b", (False, True)))
    space = SearchSpace("twins", choices, lambda o: (1, 8, 8), (slot("a"), slot("b")))
    assert len(space.all_genotypes()) == 4 and space.n_architectures == 3


def test_a_space_without_choices_has_one_network():
    space = SearchSpace("fixed", (), lambda o: (1, 8, 8), (lambda o: Layer(8, 3),))
    assert space.size == space.n_architectures == 1
    assert space.all_genotypes().shape == space.sample(np.random.default_rng(0), 1).shape == (1, 0)
    assert len(space.neighbours(())) == 0
    assert space.from_json(space.to_json(())) == ()


def test_neighbours_are_the_other_networks_that_one_option_makes():
    space = small_space()
    # Depth 1 with inactive kernel_2: by depth, width and kernel_1; never by kernel_2.
    assert space.neighbours((1, 0, 1, 1)).tolist() == [
        [0, 0, 0, 0], [2, 0, 1, 0], [1, 1, 1, 0], [1, 0, 0, 0], [1, 0, 2, 0],
    ]  # fmt: skip
    # All networks of depth 0 are one.
    assert space.neighbours((0, 1, 1, 1)).tolist() == [[1, 0, 0, 0], [2, 0, 0, 0]]


@pytest.mark.parametrize("genotype", [(0, 0, 0), (0, 0, 0, 0, 0), (3, 0, 0, 0), (0, -1, 0, 0)])
def test_a_wrong_genotype_is_refused_with_what_is_right(genotype):
    with pytest.raises(ValueError, match=r"'small' has 4 indices below \(3, 2, 3, 2\), got"):
        small_space().check(genotype)


def test_a_checked_genotype_is_plain_integers():
    checked = small_space().check(tuple(np.array([2, 1, 0, 1])))
    assert checked == (2, 1, 0, 1) and all(type(i) is int for i in checked)


def test_an_architecture_says_its_blocks_as_json_and_as_text():
    architecture = small_space().architecture((1, 1, 2, 0))
    assert architecture == Architecture((3, 8, 8), (Layer(16, 7),))
    assert json.loads(architecture.to_json()) == {
        "input_shape": [3, 8, 8],
        "blocks": [{"block": "Layer", "width": 16, "kernel_size": 7}],
    }
    assert architecture.summary() == "input 3×8×8\nLayer(width=16, kernel_size=7)"


def test_an_architecture_says_when_its_input_is_token_ids():
    space = SearchSpace("tokens", (), lambda o: (16,), (), input_type="int64")
    assert json.loads(space.architecture(()).to_json())["input_type"] == "int64"


def test_names_of_choices_and_of_constraints_must_be_distinct():
    depth = Choice("depth", (1, 2))
    with pytest.raises(ValueError, match="names of choices must be distinct"):
        SearchSpace("twice", (depth, depth), lambda o: (1, 8, 8), ())
    rule = Constraint("rule", lambda o: True)
    with pytest.raises(ValueError, match="names of constraints must be distinct"):
        small_space(rule, rule)
