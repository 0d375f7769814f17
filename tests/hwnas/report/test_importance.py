import numpy as np
import pytest

from hwnas.report.importance import (
    MIN_TRIALS,
    front_importances,
    importances_of,
    variance_importances,
)
from hwnas.report.read import read_run

N_OPTIONS = {"depth": 4, "kernel": 3, "width": 4, "activation": 2}


def drawn(n, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, list(N_OPTIONS.values()), size=(n, len(N_OPTIONS)))


def test_the_choice_that_decides_is_first_and_the_others_stay_below_chance():
    genotypes = drawn(60)
    found = variance_importances(N_OPTIONS, genotypes.tolist(), 0.1 * genotypes[:, 2])
    assert next(iter(found.shares)) == "width" and found.shares["width"] > 0.9
    assert sum(found.shares.values()) == pytest.approx(1)
    others = [share for name, share in found.shares.items() if name != "width"]
    assert max(others) < found.by_chance < found.shares["width"]
    assert found.n_trials == 60


def test_a_choice_that_tells_the_front_from_the_rest_is_first():
    genotypes = drawn(80)
    objectives = np.column_stack([genotypes[:, 0] + 0.01 * genotypes[:, 1], genotypes[:, 0]])
    found = front_importances(N_OPTIONS, genotypes.tolist(), objectives)
    assert next(iter(found.shares)) == "depth"


def test_trials_that_are_all_alike_have_nothing_to_explain():
    found = variance_importances(N_OPTIONS, drawn(30).tolist(), np.full(30, 0.5))
    assert set(found.shares.values()) == {0.0}


@pytest.mark.parametrize("n", [MIN_TRIALS - 1, MIN_TRIALS])
def test_a_run_has_importances_from_so_many_trials_on(tmp_path, runs, n):
    runs.write(tmp_path, trials=many_trials(runs, n))
    found = importances_of(read_run(tmp_path))
    assert (found is None) == (n < MIN_TRIALS)
    if found is not None:
        # "depth" alone decides both objectives, see `many_trials`.
        for importances in (found.error, found.latency, found.front):
            assert next(iter(importances.shares)) == "depth"


def test_the_same_trials_have_the_same_importances(tmp_path, runs):
    runs.write(tmp_path, trials=many_trials(runs, 24))
    run = read_run(tmp_path)
    assert importances_of(run) == importances_of(run)


def many_trials(runs, n):
    return [
        runs.trial(i, 0.1 * (1 + i % 3), 0.9 - 0.1 * (i % 3)) | {"genotype": f"[{i % 3}, {i % 2}]"}
        for i in range(n)
    ]
