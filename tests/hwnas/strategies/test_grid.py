import itertools

import numpy as np
import pytest

from hwnas.strategies import Grid, RandomSearch


def proposed(strategy, n):
    return np.array([strategy.ask() for _ in range(n)])


def worst_share(genotypes, n_options, width):
    """Largest difference between the share of a combination of options and an equal one."""
    worst = 0.0
    for columns in itertools.combinations(range(len(n_options)), width):
        cells = np.ravel_multi_index(genotypes[:, columns].T, [n_options[c] for c in columns])
        n_cells = int(np.prod([n_options[c] for c in columns]))
        shares = np.bincount(cells, minlength=n_cells) / len(genotypes)
        worst = max(worst, float(np.abs(shares - 1 / n_cells).max()))
    return worst


@pytest.mark.parametrize("seed", [0, 1])
def test_every_prefix_spreads_over_the_options_and_their_pairs(make_toy, seed):
    toy = make_toy(n_stages=2, n_layers=1)  # every choice is read; 1 to 3 options
    n_options = toy.problem.space.n_options
    grid, random = (proposed(make(toy.problem, seed=seed), 128) for make in (Grid, RandomSearch))
    for n in (16, 32, 64, 128):
        # A Sobol sequence puts n / 3 points into every third, give or take one; a few of them are
        # networks that came before.
        assert worst_share(grid[:n], n_options, 1) <= 3 / n
        assert worst_share(grid[:n], n_options, 1) < 0.5 * worst_share(random[:n], n_options, 1)
    assert worst_share(grid, n_options, 2) < 0.6 * worst_share(random, n_options, 2)


def test_what_the_sequence_does_not_meet_comes_in_the_end(make_toy, monkeypatch):
    monkeypatch.setattr("hwnas.strategies.grid.MAX_POINTS", 256)
    toy = make_toy(n_stages=2, n_layers=1)
    size = toy.problem.space.size
    assert size > 256
    grid = Grid(toy.problem, seed=0)
    assert len(set(map(tuple, proposed(grid, size).tolist()))) == size
