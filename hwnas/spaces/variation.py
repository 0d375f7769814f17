"""New genotypes from known ones, many at once; and how those that break a constraint are mended.

References:
    Deb & Agrawal, Simulated binary crossover, 1995 (parents mixed gene by gene, here uniformly).
    Minton et al., Minimizing conflicts, Artificial Intelligence 58, 1992 (repair: change what is in
    conflict to what leaves the fewest conflicts).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from hwnas.spaces.choices import BoolArray, GenotypeArray

__all__ = ["Allowed", "crossover", "mutate", "repair"]

# Of one constraint: the choices that it reads, `(k,)`, and what they may be together, `(m, k)`.
Allowed = tuple[tuple[int, ...], GenotypeArray]
MAX_STEPS = 64  # changes of one genotype, until it counts as beyond repair
N_TRIED = 8  # ways to change it that are compared
ANY_CHOICE_RATE = 0.25  # share of the changes that go to any choice, in conflict or not
CHUNK = 4096  # genotypes that are mended together


def mutate(
    genotypes: GenotypeArray, n_options: tuple[int, ...], rng: np.random.Generator
) -> GenotypeArray:
    """Draw about two genes of every row anew, and at least one; `(n, g)` to `(n, g)`.

    Half of them go to a neighbour in the order of the options, which means something (small to
    large); the other half to any option, the present one among them, which leaves local optima.
    """
    n, n_genes = genotypes.shape
    if n_genes == 0:
        return genotypes
    sizes = np.array(n_options)
    is_changed = rng.random((n, n_genes)) < 1 / n_genes
    is_changed[np.arange(n), rng.integers(n_genes, size=n)] = True
    step = np.where(rng.random((n, n_genes)) < 0.5, -1, 1)
    # A step over the end turns round; where there is one option only, the clip keeps it.
    moved = genotypes + step
    moved = np.where((moved < 0) | (moved >= sizes), genotypes - step, moved).clip(0, sizes - 1)
    anywhere = rng.integers(0, sizes, size=(n, n_genes))
    changed = np.where(rng.random((n, n_genes)) < 0.5, moved, anywhere)
    return np.where(is_changed, changed, genotypes)


def crossover(
    first: GenotypeArray, second: GenotypeArray, rng: np.random.Generator
) -> GenotypeArray:
    """Take every gene of a row from one of its two parents, `(n, g)` twice to `(n, g)`."""
    return np.where(rng.random(first.shape) < 0.5, second, first)


def repair(
    genotypes: GenotypeArray,
    n_options: tuple[int, ...],
    violations: Callable[[GenotypeArray], BoolArray],
    allowed: Sequence[Allowed],
    rng: np.random.Generator,
) -> tuple[GenotypeArray, BoolArray]:
    """Change choices of the rows that violate a constraint until they violate none.

    Args:
        genotypes: `(n, g)`.
        n_options: Of each choice, `(g,)`.
        violations: From `(m, g)` to which constraints each row violates, `(m, n_constraints)`.
        allowed: What each constraint allows.
        rng: Where randomness comes from; untouched if nothing is to be mended.

    Returns:
        `(n, g)`, and which rows violate nothing now, `(n,)`.
    """
    mended = genotypes.copy()
    left = np.flatnonzero(violations(mended).any(axis=1))
    is_valid = np.ones(len(mended), dtype=bool)
    is_valid[left] = False
    for start in range(0, len(left), CHUNK):
        rows = left[start : start + CHUNK]
        for _ in range(MAX_STEPS):
            mended[rows] = _step(mended[rows], n_options, violations, allowed, rng)
            is_left = violations(mended[rows]).any(axis=1)
            is_valid[rows] = np.logical_not(is_left)
            rows = rows[is_left]
            if not len(rows):
                break
    return mended, is_valid


def _step(
    rows: GenotypeArray,
    n_options: tuple[int, ...],
    violations: Callable[[GenotypeArray], BoolArray],
    allowed: Sequence[Allowed],
    rng: np.random.Generator,
) -> GenotypeArray:
    """Each row with one conflict less, the best of a few ways; some with any one choice changed."""
    n, n_genes = rows.shape
    tried = np.repeat(rows[:, None], N_TRIED, axis=1)  # (n, N_TRIED, g)
    violated = violations(rows)
    chosen = (violated * rng.random(violated.shape)).argmax(axis=1)
    # Other choices may help, too: a smaller depth removes the layers that are in conflict.
    is_any: BoolArray = np.asarray(rng.random(n) < ANY_CHOICE_RATE)
    for constraint, (columns, combinations) in enumerate(allowed):
        if not len(combinations):
            is_any[chosen == constraint] = True
            continue
        conflicted = np.flatnonzero(np.where(is_any, -1, chosen) == constraint)
        picks = rng.integers(len(combinations), size=(len(conflicted), N_TRIED))
        places = np.ix_(conflicted, np.arange(N_TRIED), np.array(columns, dtype=np.int64))
        tried[places] = combinations[picks]
    others = np.flatnonzero(is_any)
    column = rng.integers(n_genes, size=len(others))[:, None]
    options = rng.integers(0, np.array(n_options)[column], size=(len(others), N_TRIED))
    tried[others[:, None], np.arange(N_TRIED), column] = options
    n_violated = violations(tried.reshape(-1, n_genes)).sum(axis=1).reshape(n, N_TRIED)
    n_changed = (tried != rows[:, None]).sum(axis=2)
    best = np.lexsort((rng.random((n, N_TRIED)), n_changed, n_violated), axis=1)[:, 0]
    return tried[np.arange(n), best]
