import numpy as np
import pytest

from hwnas.spaces.variation import crossover, mutate, repair


def test_mutation_draws_about_two_genes_and_stays_within_the_options():
    n_options = (1, 2, 3, 7)
    parents = np.random.default_rng(0).integers(0, n_options, size=(2000, 4))
    children = mutate(parents, n_options, np.random.default_rng(1))
    assert ((children >= 0) & (children < n_options)).all()
    assert (children[:, 0] == 0).all()
    n_changed = (children != parents).sum(axis=1)
    # Two genes are picked on average, some picks change nothing: a single option, or the same one.
    assert 0.6 < n_changed.mean() < 2
    # Half of the moves go to a neighbour, and so do 2 of 7 of the others.
    steps = np.abs(children[:, 3] - parents[:, 3])
    assert (steps[steps > 0] == 1).mean() == pytest.approx(0.5 + 0.5 * 2 / 7, abs=0.1)


def test_crossover_takes_genes_from_either_parent():
    first, second = np.zeros((100, 8), np.int64), np.ones((100, 8), np.int64)
    children = crossover(first, second, np.random.default_rng(0))
    assert set(np.unique(children)) == {0, 1}
    assert 0.4 < children.mean() < 0.6
    assert (crossover(first, first, np.random.default_rng(0)) == first).all()


def ascends(genotypes):
    """Column 0 must be below column 1, and column 1 below column 2."""
    return genotypes[:, :-2] >= genotypes[:, 1:-1]


PAIRS = np.array([(low, high) for high in range(9) for low in range(high)])
ASCENDS = [((0, 1), PAIRS), ((1, 2), PAIRS)]  # what the two constraints allow


def test_repair_changes_what_is_in_conflict_and_leaves_the_rest():
    n_options = (9, 9, 9, 9)
    genotypes = np.random.default_rng(0).integers(0, n_options, size=(300, 4))
    was_valid = ~ascends(genotypes).any(axis=1)
    mended, is_valid = repair(genotypes, n_options, ascends, ASCENDS, np.random.default_rng(1))
    assert is_valid.all() and not ascends(mended).any()
    assert was_valid.any() and (mended[was_valid] == genotypes[was_valid]).all()
    assert (mended[~was_valid] != genotypes[~was_valid]).sum(axis=1).mean() < 2.5


def test_what_is_beyond_repair_is_said():
    def impossible(genotypes):
        return genotypes[:, :1] >= 0

    mended, is_valid = repair(
        np.zeros((5, 2), np.int64),
        (3, 3),
        impossible,
        [((0,), np.empty((0, 1), np.int64))],
        np.random.default_rng(0),
    )
    assert mended.shape == (5, 2) and not is_valid.any()


def test_nothing_is_drawn_where_nothing_is_to_be_mended():
    rng = np.random.default_rng(0)
    genotypes = np.array([[0, 1, 2, 0]] * 3)
    mended, is_valid = repair(genotypes, (9, 9, 9, 9), ascends, ASCENDS, rng)
    assert is_valid.all() and (mended == genotypes).all()
    assert rng.random() == np.random.default_rng(0).random()
