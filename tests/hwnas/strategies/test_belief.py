import numpy as np
import pytest

from hwnas.bench.tables import TableSpace
from hwnas.spaces.base import Choice
from hwnas.strategies import Problem
from hwnas.strategies.base import Costs
from hwnas.strategies.belief import SCALES, Belief, Scale, learn_target
from hwnas.strategies.description import SMALLEST, Description, log

OPERATIONS = ("none", "skip", "conv1", "conv3")
NAMES = ("op_0to1", "op_0to2", "op_1to2")
PRICE = np.array([0.0, 0.2, 1.0, 3.0])  # of each operation


@pytest.fixture
def cells():
    """All cells of three nodes: their genotypes, and a problem that predicts nothing of them."""
    everything = np.array(list(np.ndindex(4, 4, 4)))
    choices = tuple(Choice(name, OPERATIONS) for name in NAMES)
    space = TableSpace("cells", choices, lambda options: (1, 1, 1), (), everything)

    def predict(genotypes):
        nothing, ones = np.full(len(genotypes), np.nan), np.ones(len(genotypes))
        counts = np.zeros(len(genotypes), dtype=np.int64)
        return Costs(nothing, nothing, ones, ones, counts, counts)

    return everything, Problem(space, predict)


def belief_of(cells, latency_of, n_trials=24):
    """What is believed after some trials whose errors are random."""
    everything, problem = cells
    costs = problem.predict(everything)
    description = Description(problem, everything, costs)
    rng = np.random.default_rng(0)
    told = rng.permutation(64)[:n_trials]
    objectives = np.column_stack([rng.uniform(0.1, 0.5, 64), latency_of(everything)])[told]
    trained = everything[told], problem.predict(everything[told])
    targets = tuple(
        learn_target(description, trained, (everything, costs), objectives, column, SCALES[column])
        for column in (0, 1)
    )
    return Belief(description, targets, objectives, objectives, None, np.ones(64, dtype=bool)), told


def as_written(genotypes):
    return 5 + PRICE[genotypes].sum(axis=1)


def as_used(genotypes):
    """An edge to a node that nothing leaves, or from one that nothing reaches, costs nothing."""
    first, around, second = PRICE[genotypes].T
    is_through = (genotypes[:, 0] > 0) & (genotypes[:, 2] > 0)
    return 5 + around + np.where(is_through, first + second, 0.0)


@pytest.mark.parametrize(("latency_of", "view"), [(as_written, "written"), (as_used, "used")])
def test_latency_is_read_from_cells_as_the_runtime_computes_them(cells, latency_of, view):
    belief, told = belief_of(cells, latency_of)
    assert belief.targets[1].view == view
    truth = latency_of(cells[0])
    unseen = np.setdiff1d(np.arange(64), told)
    off = belief.targets[1].predict(belief.learnt).middle[unseen] - truth[unseen]
    assert np.abs(off).mean() < 0.1 * truth.std()


@pytest.mark.parametrize("is_log", [True, False])
def test_latency_is_learnt_on_the_scale_on_which_it_adds_up(cells, is_log):
    def latency_of(genotypes):
        total = PRICE[genotypes].sum(axis=1)
        return np.exp(total) if is_log else 5 + total

    belief, _ = belief_of(cells, latency_of)
    assert belief.targets[1].scale == Scale(0.0 if is_log else None)


def test_errors_are_learnt_above_what_no_network_falls_below():
    objective = np.array([0.3, 0.2, 0.6])
    scale = Scale(0.5)  # so the floor is 0.1
    values = scale.values(objective)
    assert values == pytest.approx(np.log([0.2, 0.1, 0.5]))
    prediction = scale.prediction(values, np.full(3, 0.1), objective)
    assert prediction.middle == pytest.approx(objective)
    assert (prediction.hopeful > 0.1).all()
    # One that comes below the others later moves the floor, and is still above it.
    assert np.isfinite(scale.values(np.append(objective, 0.05))).all()


def test_the_volume_goes_as_far_as_the_slowest_network_is_predicted(cells):
    belief, _ = belief_of(cells, as_written)
    assert belief.reference[0] == 1.0
    assert belief.reference[1] == pytest.approx(14, rel=0.05)  # 5 + 3 * 3


def test_running_trials_are_believed_to_give_what_is_predicted(cells):
    belief, told = belief_of(cells, as_written)
    everything, problem = cells
    running = everything[np.setdiff1d(np.arange(64), told)[:3]]
    costs = problem.predict(running)
    after = belief.believing(running, costs)
    predicted = np.array([prediction.middle for prediction in belief.predict_at(running, costs)])
    believed = after.objectives[-3:].T
    assert believed == pytest.approx(predicted)
    for first, second in zip(
        belief.predict_at(running, costs), after.predict_at(running, costs), strict=True
    ):
        assert (second.deviation < first.deviation).all()


def test_quantities_in_a_tiny_unit_are_told_apart():
    ms = np.array([2e-9, 4e-9, 8e-9])
    np.testing.assert_allclose(np.diff(log(ms)), np.log(2))
    np.testing.assert_allclose(log(np.array([0.0, 1.0])), [np.log(SMALLEST), 0.0])
    values = Scale(0.0).values(ms)
    assert len(set(values.tolist())) == 3
