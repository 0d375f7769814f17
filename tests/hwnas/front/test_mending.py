from dataclasses import replace

import numpy as np
import pytest

from hwnas.front.mending import mended, with_room
from hwnas.front.sittings import LATER_SHARE
from hwnas.front.verify import BASELINE, Candidate
from hwnas.strategies.base import Costs, Problem


@pytest.fixture
def toy(make_toy):
    """Latencies whose interval is 10 % to each side, and a budget on them."""
    return make_toy(2, 2, limit_ms=0.5).problem


def measured(problem, n, factor, *, seed=0, noise=0.0, **changes):
    """Candidates that took `factor` times as long as predicted, give or take."""
    rng = np.random.default_rng(seed)
    genotypes = problem.space.sample(rng, n)
    predicted = problem.predict(genotypes).latency_ms
    ratio = factor * np.exp(noise * rng.standard_normal(n))
    found = Candidate(
        name="t", onnx="candidates/t.onnx", val_accuracy=0.9, test_accuracy=0.9, latency_ms=1.0,
        predicted_latency_ms=1.0, predicted_low_ms=1.0, predicted_high_ms=1.0,
        peak_memory_bytes=None, params=1, macs=1, parity_max_abs_error=0.0, meets_budget=True,
        genotype=(),
    )  # fmt: skip
    return [
        replace(found, genotype=tuple(map(int, row)), latency_ms=float(ms), **changes)
        for row, ms in zip(genotypes, ratio * predicted, strict=True)
    ]


def ratios(before, after, genotypes):
    """Of the mended predictions over the old ones: centre, lower end, upper end."""
    old, new = before.predict(genotypes), after.predict(genotypes)
    return [getattr(new, name) / getattr(old, name) for name in ("latency_ms", "low_ms", "high_ms")]


def test_without_measurements_predictions_stay_and_have_room(toy):
    genotypes = toy.space.sample(np.random.default_rng(9), 50)
    for known in ([], measured(toy, 3, 1.5, kind=BASELINE)):
        centre, low, high = ratios(toy, mended(toy, known, level=0.9), genotypes)
        assert (centre == 1).all() and (low == 1).all() and (high == 1).all()


def test_what_is_expected_to_miss_when_measured_is_not_feasible(toy):
    def predict(genotypes):
        costs = toy.predict(genotypes)
        return replace(costs, high_ms=1.01 * costs.latency_ms)

    sure = replace(toy, predict=predict)
    genotypes = toy.space.sample(np.random.default_rng(9), 2000)
    expected = (1 + LATER_SHARE) * toy.predict(genotypes).latency_ms <= 0.5
    assert (with_room(sure).is_feasible(genotypes) == expected).all()
    assert sure.is_feasible(genotypes).sum() > expected.sum() > 0


def test_predictions_move_to_what_was_measured_the_more_networks_say_so(toy):
    genotypes = toy.space.sample(np.random.default_rng(9), 50)
    shifts = []
    for n in (1, 4, 30):
        centre, _, _ = ratios(toy, mended(toy, measured(toy, n, 1.05), level=0.9), genotypes)
        assert (centre > 1).all() and (centre < 1.051).all()
        shifts.append(np.median(centre))
    assert shifts == sorted(shifts) and shifts[-1] > 1.04


def test_one_measurement_moves_predictions_by_half_as_by_hand(toy):
    (one,) = measured(toy, 1, 1.05)
    centre, _, _ = ratios(toy, mended(toy, [one], level=0.9), np.array([one.genotype]))
    # Half of the variance is common to networks of this latency: 0.5 / (0.5 + 0.5) of the error.
    assert centre[0] == pytest.approx(1.05**0.5)


def test_where_measurements_agree_intervals_become_narrower_and_where_not_wider(toy):
    genotypes = toy.space.sample(np.random.default_rng(9), 50)
    _, _, agreeing = ratios(toy, mended(toy, measured(toy, 20, 1.0), level=0.9), genotypes)
    assert (agreeing < 0.99).all()
    noisy = measured(toy, 20, 1.0, noise=0.3)
    _, low, high = ratios(toy, mended(toy, noisy, level=0.9), genotypes)
    assert np.median(high) > 1.1 and np.median(low) < 0.9


def test_intervals_cover_new_networks_of_the_same_kind(toy):
    after = mended(toy, measured(toy, 24, 1.08, noise=0.02), level=0.9)
    others = measured(toy, 400, 1.08, seed=1, noise=0.02)
    costs = after.predict(np.array([c.genotype for c in others]))
    ms = np.array([c.latency_ms for c in others])
    assert ((ms >= costs.low_ms) & (ms <= costs.high_ms)).mean() > 0.9
    before = toy.predict(np.array([c.genotype for c in others]))
    assert (costs.high_ms / costs.low_ms < before.high_ms / before.low_ms).all()


def test_one_measurement_on_a_disturbed_machine_does_not_move_all_predictions(toy):
    found = measured(toy, 12, 1.0)
    found[5] = replace(found[5], latency_ms=3 * found[5].latency_ms)
    genotypes = toy.space.sample(np.random.default_rng(9), 50)
    centre, _, _ = ratios(toy, mended(toy, found, level=0.9), genotypes)
    assert (centre < 1.06).all()
    # But all of them are: a predictor that is as far off is believed to be.
    centre, _, _ = ratios(toy, mended(toy, measured(toy, 12, 3.0), level=0.9), genotypes)
    assert np.median(centre) > 2


def test_errors_of_much_larger_networks_say_little(toy):
    genotypes = toy.space.sample(np.random.default_rng(3), 400)
    ms = toy.predict(genotypes).latency_ms
    small, large = genotypes[ms.argmin()], genotypes[ms.argmax()]
    one = replace(
        measured(toy, 1, 1.0)[0],
        genotype=tuple(map(int, small)),
        latency_ms=1.2 * float(ms.min()),
    )
    centre, _, _ = ratios(toy, mended(toy, [one], level=0.9), np.array([small, large]))
    assert centre[0] > 1.05 and centre[1] < 1.01


def test_the_upper_end_has_room_for_the_measured_interval(toy):
    plain = measured(toy, 5, 1.0)
    wide = [replace(c, measured_high_ms=1.06 * c.latency_ms) for c in plain]
    genotypes = np.array([plain[0].genotype])
    without, room = (mended(toy, found, level=0.9).predict(genotypes) for found in (plain, wide))
    assert room.high_ms[0] == pytest.approx(1.06 * without.high_ms[0])
    assert room.latency_ms[0] == without.latency_ms[0]


def test_other_metrics_are_mended_where_there_is_a_budget_on_them(toy):
    def predict(genotypes):
        costs = toy.predict(genotypes)
        memory = np.where((genotypes == unknown).all(axis=1), np.nan, 1e4 * costs.latency_ms)
        return replace(costs, peak_memory_bytes=memory, high_peak_memory_bytes=1.2 * memory)

    found = [replace(c, peak_memory_bytes=round(11e3 * c.latency_ms)) for c in measured(toy, 9, 1)]
    unknown = found.pop().genotype
    one_more = replace(found[0], genotype=unknown)
    genotypes = np.array([c.genotype for c in found])
    latency = toy.budgets[0]
    memory = replace(latency, metric="peak_memory_bytes", limit=1e4)
    both = Problem(toy.space, predict, (latency, memory))
    after: Costs = mended(both, [*found, one_more], level=0.9).predict(genotypes)
    assert (after.peak_memory_bytes > 1.05 * predict(genotypes).peak_memory_bytes).all()
    assert (after.high_peak_memory_bytes > after.peak_memory_bytes).all()
    only = mended(Problem(toy.space, predict, (latency,)), found, level=0.9).predict(genotypes)
    assert (only.peak_memory_bytes == predict(genotypes).peak_memory_bytes).all()
