import json
from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest

from hwnas.spaces.base import Architecture, Choice, SearchSpace, tabulate
from hwnas.spaces.mobilenet import mobile_space


@dataclass(frozen=True)
class Layer:
    width: int
    kernel_size: int

    def build(self, in_shape):
        raise NotImplementedError


DEPTH = Choice("depth", (0, 1, 2))
WIDTH = Choice("width", (8, 16))
KERNEL_1, KERNEL_2 = Choice("kernel_1", (3, 5, 7)), Choice("kernel_2", (3, 5))


def layer(i):
    def slot(options):
        if options["depth"] < i:
            return None
        return Layer(options["width"], options[f"kernel_{i}"])

    return slot


def small_space():
    choices = (DEPTH, WIDTH, KERNEL_1, KERNEL_2)
    return SearchSpace("small", choices, lambda options: (3, 8, 8), (layer(1), layer(2)))


def all_genotypes(space):
    return np.array(list(product(*map(range, space.n_options))), dtype=np.int64)


def test_a_function_that_reads_nothing_has_one_value():
    table = tabulate(lambda options: "same", (DEPTH, WIDTH))
    assert table.columns == () and table.values == ("same",) and table.index.shape == ()
    assert table.lookup(np.zeros((5, 2), np.int64)).tolist() == [0] * 5


def test_reads_that_depend_on_other_reads_are_found():
    table = tabulate(layer(1), (DEPTH, WIDTH, KERNEL_1))
    assert table.columns == (0, 1, 2)
    assert set(table.values) == {None} | {Layer(w, k) for w in (8, 16) for k in (3, 5, 7)}
    # Depth 0 reads the depth alone; the other depths read all three.
    assert table.reads[0].reshape(-1, 3).tolist() == [[True, False, False]] * 6
    assert table.reads[1:].all()


def test_each_combination_is_looked_up_as_the_function_answers():
    space = small_space()
    genotypes = all_genotypes(space)
    for slot, table in zip(space.slots, space.slot_tables, strict=True):
        found = [table.values[i] for i in table.lookup(genotypes)]
        assert found == [slot(space.options(tuple(g))) for g in genotypes]


def test_options_may_be_read_by_get_and_in():
    table = tabulate(lambda options: options.get("width") if "depth" in options else None,
                     (DEPTH, WIDTH))  # fmt: skip
    assert sorted(table.columns) == [0, 1] and table.values == (8, 16)


def test_a_slot_that_reads_an_unknown_choice_is_told_the_known_ones():
    with pytest.raises(KeyError, match=r"'dept', which is no choice.*depth, width"):
        tabulate(lambda options: options["dept"], (DEPTH, WIDTH))


def test_a_slot_that_reads_too_much_is_refused_before_it_is_run_for_hours():
    choices = tuple(Choice(f"c{i}", tuple(range(10))) for i in range(7))
    with pytest.raises(ValueError, match="split it into smaller slots"):
        tabulate(lambda options: sum(options.values()), choices)


def test_equal_canonical_rows_mean_equal_architectures_and_the_reverse():
    space = small_space()
    genotypes = all_genotypes(space)
    rows = [tuple(row) for row in space.canonical(genotypes)]
    architectures = [space.architecture(tuple(g)) for g in genotypes]
    # By hand: depth 0 is one network, depth 1 has 2·3, depth 2 has 2·3·2.
    assert len(set(rows)) == len(set(architectures)) == 1 + 6 + 12
    assert len(set(zip(rows, architectures, strict=True))) == 19
    assert [space.architecture(row) for row in rows] == architectures


def test_canonical_form_is_its_own_canonical_form():
    space = small_space()
    rows = space.canonical(all_genotypes(space))
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


def test_a_sample_lies_within_the_options_and_uses_them_all():
    space = small_space()
    sample = space.sample(np.random.default_rng(0), 200)
    assert sample.shape == (200, 4) and sample.dtype == np.int64
    assert (sample.min(axis=0) == 0).all()
    assert tuple(sample.max(axis=0) + 1) == space.n_options == (3, 2, 3, 2)
    assert space.size == 36


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


@pytest.mark.parametrize("options", [(), (1, 1)])
def test_options_must_be_distinct_and_some(options):
    with pytest.raises(ValueError, match="'width' must be distinct"):
        Choice("width", options)


def test_names_of_choices_must_be_distinct():
    with pytest.raises(ValueError, match="distinct"):
        SearchSpace("twice", (DEPTH, DEPTH), lambda o: (1, 8, 8), ())
