from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest

from hwnas.spaces.base import Choice, SearchSpace, tabulate
from hwnas.spaces.choices import distinct_rows


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


def test_a_function_that_reads_nothing_has_one_value():
    table = tabulate(lambda options: "same", (DEPTH, WIDTH))
    assert table.columns == () and table.values == ("same",) and table.index.shape == ()
    assert table.lookup(np.zeros((5, 2), np.int64)).tolist() == [0] * 5
    assert table.reads_of(np.zeros((5, 2), np.int64)).shape == (5, 0)


def test_reads_that_depend_on_other_reads_are_found():
    table = tabulate(layer(1), (DEPTH, WIDTH, KERNEL_1))
    assert table.columns == (0, 1, 2)
    assert set(table.values) == {None} | {Layer(w, k) for w in (8, 16) for k in (3, 5, 7)}
    # Depth 0 reads the depth alone; the other depths read all three.
    assert table.reads[0].reshape(-1, 3).tolist() == [[True, False, False]] * 6
    assert table.reads[1:].all()


def test_each_combination_is_looked_up_as_the_function_answers():
    choices = (DEPTH, WIDTH, KERNEL_1, KERNEL_2)
    space = SearchSpace("small", choices, lambda options: (3, 8, 8), (layer(1), layer(2)))
    genotypes = np.array(list(product(*map(range, space.n_options))), dtype=np.int64)
    for slot, table in zip(space.slots, space.slot_tables, strict=True):
        found = [table.values[i] for i in table.lookup(genotypes)]
        assert found == [slot(space.options(tuple(g))) for g in genotypes]


def test_options_may_be_read_by_get_and_in():
    table = tabulate(lambda options: options.get("width") if "depth" in options else None,
                     (DEPTH, WIDTH))  # fmt: skip
    assert sorted(table.columns) == [0, 1] and table.values == (8, 16)


def test_a_slot_that_reads_an_unknown_choice_is_told_the_known_ones():
    with pytest.raises(KeyError, match=r"a slot reads 'dept', which is no choice.*depth, width"):
        tabulate(lambda options: options["dept"], (DEPTH, WIDTH))
    space = SearchSpace("typo", (DEPTH,), lambda o: (1,), (layer(1), lambda o: o["dept"]))
    with pytest.raises(KeyError, match="slot 0 reads 'width'"):
        space.slot_tables  # noqa: B018


def test_a_slot_that_reads_too_much_is_refused_before_it_is_run_for_hours():
    choices = tuple(Choice(f"c{i}", tuple(range(10))) for i in range(7))
    with pytest.raises(ValueError, match="split it into several"):
        tabulate(lambda options: sum(options.values()), choices)


@pytest.mark.parametrize("options", [(), (1, 1)])
def test_options_must_be_distinct_and_some(options):
    with pytest.raises(ValueError, match="'width' must be distinct"):
        Choice("width", options)


def test_numbers_must_ascend_and_words_may_stand_in_any_order():
    with pytest.raises(ValueError, match=r"numbers and must ascend.*\(0.5, 1, 3\), got \(3, 0.5"):
        Choice("width", (3, 0.5, 1))
    assert Choice("op", ("none", "conv", "avg")).options == ("none", "conv", "avg")
    assert Choice("gate", (False, True)).options == (False, True)


def test_an_option_is_found_by_its_value_and_a_truth_value_is_no_number():
    assert [WIDTH.index(value) for value in (8, 16, 16.0, 7, "8", None)] == [0, 1, 1] + [None] * 3
    assert [Choice("n", (0, 1)).index(value) for value in (True, 1)] == [None, 1]
    assert [Choice("b", (False, True)).index(value) for value in (True, 1)] == [1, None]


def test_rows_that_repeat_are_kept_where_they_come_first():
    rows = np.array([[1, 2], [0, 0], [1, 2], [2, 1], [0, 0]])
    assert distinct_rows(rows).tolist() == [[1, 2], [0, 0], [2, 1]]
