"""Axes in leaves: what is one, what is split, and what has to stay."""

import torch

from hwnas.around.axes import (
    elastic,
    fixed,
    hold,
    indices,
    joined,
    leaves,
    multiplied,
    resolved,
    size,
    split_product,
    split_sum,
    unify,
)  # fmt: skip


def elastic_names(*axes):
    return [leaf.name for leaf in leaves(axes) if leaf.is_elastic]


def kept(**counts):
    """The first so many of leaves by name, all of the others."""
    counts = {name.replace("__", "."): n for name, n in counts.items()}
    return lambda leaf: torch.arange(counts.get(leaf.name, leaf.n))


def test_what_is_added_has_one_width_and_the_first_name():
    first, second, third = (elastic(8, f"{name}.width") for name in "abc")
    unify(third, second)
    unify(second, first)
    assert elastic_names(first, second, third) == ["a.width"]
    hold(third)
    assert not elastic_names(first)


def test_what_meets_something_fixed_stays():
    axis = elastic(8, "a.width")
    unify(axis, fixed(8))
    assert not elastic_names(axis)


def test_heads_are_what_is_left_when_features_are_split():
    axis = elastic(24, "q.width")
    heads, features = split_product(axis, (4, 6))
    assert elastic_names(axis) == ["q.heads"] and (size(heads), size(features)) == (4, 6)
    # Heads 0 and 1 of four: features 0 to 11.
    assert indices(axis, kept(q__heads=2)).tolist() == list(range(12))
    assert size(axis, {leaves([heads])[0]: 3}) == 18


def test_a_packed_axis_is_split_from_within():
    axis = elastic(24, "qkv.width")
    three, heads, features = split_product(axis, (3, 2, 4))
    hold(three)
    assert elastic_names(axis) == ["qkv.heads"] and elastic_names(features) == []
    (leaf,) = [leaf for leaf in leaves([heads]) if leaf.is_elastic]
    found = indices(axis, lambda one: torch.tensor([1]) if one is leaf else torch.arange(one.n))
    assert found.tolist() == [4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23]


def test_two_ways_of_splitting_the_same_features_meet_in_the_finest():
    first, second = elastic(24, "a.width"), elastic(24, "b.width")
    split_product(first, (4, 6))
    split_product(second, (12, 2))
    unify(first, second)
    assert [leaf.n for leaf in resolved(first)[0]] == [leaf.n for leaf in resolved(second)[0]]
    assert all(4 % leaf.n == 0 for leaf in leaves([first]) if leaf.is_elastic)


def test_axes_that_do_not_lie_alike_are_held():
    first, second = elastic(12, "a.width"), elastic(12, "b.width")
    split_product(first, (4, 3))
    split_product(second, (3, 4))
    unify(first, second)
    assert not elastic_names(first, second)


def test_joined_axes_are_cut_where_they_were_joined():
    parts = [elastic(4, "a.width"), elastic(6, "b.width")]
    axis = joined(parts)
    assert indices(axis, kept(a__width=1, b__width=2)).tolist() == [0, 4, 5]
    first, second = split_sum(axis, (4, 6))
    assert (first, second) == (resolved(parts[0]), resolved(parts[1]))
    assert split_sum(multiplied([axis, fixed(3)]), (12, 18)) is not None
    halves = split_sum(axis, (5, 5))
    assert [size(half) for half in halves] == [5, 5]


def test_an_axis_that_is_cut_in_two_is_cut_wherever_it_is():
    axis = elastic(8, "up.width")
    flat = multiplied([axis, fixed(2)])
    first, second = split_sum(axis, (4, 4))
    unify(first, second)
    assert elastic_names(axis) == ["up.first_width"]
    assert indices(axis, kept(up__first_width=1)).tolist() == [0, 4]
    assert indices(flat, kept(up__first_width=1)).tolist() == [0, 1, 8, 9]


def test_flattened_axes_are_split_again_as_they_were():
    channels, height = elastic(4, "conv.width"), fixed(3)
    flat = multiplied([channels, height])
    back = split_product(flat, (4, 3))
    assert back is not None and elastic_names(back[0]) == ["conv.width"]
    assert split_product(flat, (3, 4)) is None  # neither 4 of 3, nor 3 of 4
