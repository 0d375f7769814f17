"""Constraints: what they mean, and that all that a space draws, varies or lists meets them."""

from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.spaces.base import Choice, Constraint, SearchSpace, SpaceError

WIDTHS = (8, 16, 24, 32)


@dataclass(frozen=True)
class Layer:
    values: tuple[object, ...]

    def build(self, in_shape):
        raise NotImplementedError


def layer(*names, depth=None, at=0):
    """A slot that reads some choices, from some depth on."""

    def slot(options):
        if depth is not None and options[depth] < at:
            return None
        return Layer(tuple(options[name] for name in names))

    return slot


def make_space(choices, slots, *constraints, name="toy"):
    return SearchSpace(
        name, tuple(choices), lambda options: (1, 8, 8), tuple(slots), constraints=constraints
    )


def widening_space(n_layers=4):
    """Up to `n_layers` layers that never get narrower, with a limit to the sum of their widths."""

    def widths(options):
        return [options[f"width_{i}"] for i in range(1, options["depth"] + 1)]

    return make_space(
        [
            Choice("depth", tuple(range(1, n_layers + 1))),
            *(Choice(f"width_{i}", WIDTHS) for i in range(1, n_layers + 1)),
            *(Choice(f"kernel_{i}", (3, 5, 7)) for i in range(1, n_layers + 1)),
        ],
        [layer(f"width_{i}", f"kernel_{i}", depth="depth", at=i) for i in range(1, n_layers + 1)],
        Constraint("never narrower", lambda o: all(a <= b for a, b in pairwise(widths(o)))),
        Constraint("at most 72 wide in all", lambda o: sum(widths(o)) <= 72),
        # It reads the second kernel without asking whether there is a second layer.
        Constraint("first two kernels differ", lambda o: o["kernel_1"] != o["kernel_2"]),
    )


def meets_all(space, genotype):
    """The constraints of `widening_space`, by hand."""
    options = {c.name: c.options[i] for c, i in zip(space.choices, genotype, strict=True)}
    widths = [options[f"width_{i}"] for i in range(1, options["depth"] + 1)]
    return (
        widths == sorted(widths)
        and sum(widths) <= 72
        and (options["depth"] == 1 or options["kernel_1"] != options["kernel_2"])
    )


def product_of(space):
    return np.array(list(product(*map(range, space.n_options))), dtype=np.int64)


def test_a_constraint_applies_where_all_that_it_reads_is_active():
    space = widening_space(n_layers=3)
    genotypes = product_of(space)
    expected = [meets_all(space, row) for row in genotypes.tolist()]
    assert space.is_valid(genotypes).tolist() == expected
    assert 0 < sum(expected) < len(expected)
    # Equivalent genotypes are valid together.
    assert space.is_valid(space.canonical(genotypes)).tolist() == expected


def test_a_violated_constraint_is_named_with_what_it_read():
    space = widening_space()
    with pytest.raises(
        SpaceError, match=r"'toy' must meet the constraint 'never narrower', "
        r"got depth=2, width_1=16, width_2=8$"
    ):  # fmt: skip
        space.check((1, 1, 0, 0, 0, 0, 1, 0, 0))
    with pytest.raises(SpaceError, match=r"'first two kernels differ', got kernel_1=3, kernel_2=3"):
        space.architecture((1, 0, 0, 0, 0, 0, 0, 0, 0))
    assert space.check((0, 3, 0, 0, 0, 0, 0, 0, 0))  # one layer: nothing to compare


def test_the_list_of_a_space_leaves_out_what_is_not_valid():
    space = widening_space(n_layers=3)
    genotypes = product_of(space)
    valid = [row for row in genotypes.tolist() if meets_all(space, row)]
    expected = np.unique(space.canonical(np.array(valid)), axis=0)
    assert space.all_genotypes().tolist() == expected.tolist()
    assert space.n_architectures == len(expected)


def test_draws_are_valid_and_uniform():
    space = make_space(
        [Choice("a", (1, 2, 3)), Choice("b", (1, 2, 3))],
        [layer("a"), layer("b")],
        Constraint("ascends", lambda o: o["a"] <= o["b"]),
    )
    drawn = space.sample(np.random.default_rng(0), 6000)
    assert space.is_valid(drawn).all()
    _, counts = np.unique(drawn, axis=0, return_counts=True)
    # Six pairs; 4.5 standard deviations of a count are 130.
    assert len(counts) == 6 and abs(counts - 1000).max() < 130


def test_draws_of_a_space_without_constraints_are_as_they_ever_were():
    space = make_space([Choice("a", (1, 2, 3)), Choice("b", (1, 2))], [layer("a", "b")])
    drawn = space.sample(np.random.default_rng(3), 50)
    expected = np.random.default_rng(3).integers(0, (3, 2), size=(50, 2))
    assert drawn.tolist() == expected.tolist()


def test_draws_are_found_where_hardly_any_are_valid():
    # 1 in 8^11 genotypes has equal choices: redrawing would not find one.
    names = [f"c{i}" for i in range(12)]
    space = make_space(
        [Choice(name, tuple(range(8))) for name in names],
        [layer(name) for name in names],
        *(Constraint(f"{a} is {b}", lambda o, a=a, b=b: o[a] == o[b]) for a, b in pairwise(names)),
    )
    drawn = space.sample(np.random.default_rng(0), 100)
    assert drawn.shape == (100, 12) and (drawn == drawn[:, :1]).all()
    assert len(np.unique(drawn[:, 0])) > 1


def test_the_only_network_of_a_small_space_is_found():
    # A needle that no single change leads to.
    names = [f"c{i}" for i in range(5)]
    space = make_space(
        [Choice(name, tuple(range(8))) for name in names],
        [layer(name) for name in names],
        Constraint("the needle", lambda o: [o[name] for name in names] == [5, 1, 7, 2, 0]),
    )
    drawn = space.sample(np.random.default_rng(0), 3)
    assert drawn.tolist() == [[5, 1, 7, 2, 0]] * 3
    children = space.mutate(drawn, np.random.default_rng(1))
    assert children.tolist() == drawn.tolist()  # it has no other to turn into
    assert len(space.neighbours(tuple(drawn[0]))) == 0


@pytest.mark.parametrize("n_choices", [3, 12])
def test_a_space_without_a_valid_genotype_says_so_and_which_constraint_to_loosen(n_choices):
    space = make_space(
        [Choice(f"c{i}", tuple(range(8))) for i in range(n_choices)],
        [layer(f"c{i}") for i in range(n_choices)],
        Constraint("even", lambda o: o["c0"] % 2 == 0),
        Constraint("c1 is 9", lambda o: o["c1"] == 9),
    )
    with pytest.raises(
        SpaceError,
        match=r"'toy' has no valid genotype, or hardly any: none of .* meets its constraints "
        r"\(even, c1 is 9\). Loosen 'c1 is 9', which 100 % violate",
    ):
        space.sample(np.random.default_rng(0), 10)


def test_a_constraint_that_reads_no_choice_is_told_by_name():
    space = make_space([Choice("a", (1, 2))], [layer("a")], Constraint("typo", lambda o: o["aa"]))
    with pytest.raises(KeyError, match="constraint 'typo' reads 'aa', which is no choice"):
        space.sample(np.random.default_rng(0), 1)


@pytest.mark.parametrize("n_layers", [2, 4, 6])
def test_a_thousand_children_are_valid(n_layers):
    space = widening_space(n_layers)
    rng = np.random.default_rng(n_layers)
    parents = space.sample(rng, 1000)
    for _ in range(3):
        children = space.mutate(parents, rng)
        assert space.is_valid(children).all() and children.shape == parents.shape
        assert ((children >= 0) & (children < space.n_options)).all()
        assert (children != parents).any(axis=1).mean() > 0.6
        crossed = space.crossover(parents, children[::-1], rng)
        assert space.is_valid(crossed).all()
        parents = space.canonical(crossed)


def test_mutation_changes_few_choices_more_than_it_must():
    space = widening_space()
    rng = np.random.default_rng(0)
    parents = space.sample(rng, 1000)
    n_changed = (space.mutate(parents, rng) != parents).sum(axis=1)
    assert 0.6 < n_changed.mean() < 3.5


def test_mutation_reaches_every_network_of_a_constrained_space():
    space = widening_space(n_layers=2)
    rng = np.random.default_rng(0)
    everything = {tuple(row) for row in space.all_genotypes().tolist()}
    reached = space.all_genotypes()[:1]
    for _ in range(40):
        children = space.mutate(np.repeat(reached, 8, axis=0), rng)
        reached = np.unique(space.canonical(np.concatenate([reached, children])), axis=0)
    assert {tuple(row) for row in reached.tolist()} == everything


def test_a_crossed_child_has_the_options_of_its_parents_where_that_is_valid():
    space = make_space([Choice(f"c{i}", (1, 2, 3, 4)) for i in range(6)], [layer("c0", "c5")])
    rng = np.random.default_rng(0)
    first, second = space.sample(rng, 500), space.sample(rng, 500)
    children = space.crossover(first, second, rng)
    assert ((children == first) | (children == second)).all()
    differs = first != second
    assert 0.45 < (children == second)[differs].mean() < 0.55


@st.composite
def spaces(draw):
    """Random spaces: slots that read a choice only if another says so, random constraints."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    choices = [Choice(f"c{i}", tuple(range(n))) for i, n in enumerate(sizes)]
    names = st.sampled_from([choice.name for choice in choices])
    slots = draw(
        st.lists(
            st.builds(
                lambda gate, read, at: layer(gate, read, depth=gate, at=at),
                names, names, st.integers(0, 2),
            ),
            min_size=1, max_size=4,
        )
    )  # fmt: skip
    pairs = draw(
        st.lists(
            st.tuples(names, names, st.sets(st.tuples(st.integers(0, 3), st.integers(0, 3)))),
            max_size=3,
        )
    )
    constraints = [
        # `and`: the second choice is read only if the first one may be forbidden at all.
        Constraint(
            f"{i}",
            lambda o, a=a, b=b, bad=bad: (
                not (any(o[a] == x for x, _ in bad) and (o[a], o[b]) in bad)
            ),
        )
        for i, (a, b, bad) in enumerate(pairs)
    ]
    return make_space(choices, slots, *constraints)


class Reads(dict):
    """Options that remember what was read of them."""

    def __init__(self, options):
        super().__init__(options)
        self.names = set()

    def __getitem__(self, name):
        self.names.add(name)
        return super().__getitem__(name)


def described(space, genotype):
    """The blocks of a genotype, the choices that they read, and whether it is valid: one by one."""
    options = Reads({c.name: c.options[i] for c, i in zip(space.choices, genotype, strict=True)})
    blocks = tuple(slot(options) for slot in space.slots)
    active, is_valid = set(options.names), True
    for constraint in space.constraints:
        options.names.clear()
        holds = constraint.holds(options)
        is_valid &= holds or not options.names <= active
    return blocks, active, is_valid


@settings(max_examples=150, deadline=None)
@given(spaces(), st.integers(0, 2**32 - 1))
def test_arrays_say_what_looking_at_each_genotype_says(space, seed):
    genotypes = product_of(space)
    rng = np.random.default_rng(seed)
    told = [described(space, row) for row in genotypes.tolist()]
    valid = space.is_valid(genotypes)
    assert valid.tolist() == [is_valid for *_, is_valid in told]
    names = [choice.name for choice in space.choices]
    assert space.active(genotypes).tolist() == [
        [n in active for n in names] for _, active, _ in told
    ]
    listed = {tuple(row) for row in space.all_genotypes().tolist()}
    assert listed == {tuple(row) for row in space.canonical(genotypes[valid]).tolist()}
    assert space.n_architectures == len(
        {tuple(b for b in blocks if b is not None) for blocks, _, is_valid in told if is_valid}
    )
    if not listed:
        with pytest.raises(SpaceError, match="no valid genotype"):
            space.sample(rng, 5)
        return
    drawn = space.sample(rng, 60)
    first, second = drawn[:30], drawn[30:]
    for rows in (drawn, space.mutate(drawn, rng), space.crossover(first, second, rng)):
        assert {tuple(row) for row in space.canonical(rows).tolist()} <= listed
    own = tuple(space.canonical(drawn[:1])[0].tolist())
    around = [tuple(row) for row in space.neighbours(own).tolist()]
    changed = {
        tuple(space.canonical(np.array([[*own[:i], option, *own[i + 1 :]]]))[0].tolist())
        for i, n in enumerate(space.n_options)
        for option in range(n)
    }
    assert len(around) == len(set(around))
    assert set(around) == (changed & listed) - {own}
    assert space.from_json(space.to_json(own)) == own
