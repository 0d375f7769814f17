"""The loop around training and measuring, both made up: what is tried next, and when it ends."""

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from hwnas.front import hold as front_module
from hwnas.front import journal as journal_module
from hwnas.front.filling import MAX_SLACK, near_budget
from hwnas.front.hold import FILLINGS_AT_ONCE, Workplace, hold_front
from hwnas.front.verify import BASELINE, FRONT, Candidate, Trained, judge
from hwnas.progress import Silent
from hwnas.strategies import Trial

LIMIT_MS = 0.5


class Lab:
    """Trains and measures by formulas, and notes what it was asked for.

    Attributes:
        slower: Measured over predicted latency.
        accuracy: From a genotype to what it reaches.
        left_out: Names of networks whose export differs.
        trained, measured: Names, one list a call.
    """

    def __init__(self, toy, folder):
        self.toy, self.folder = toy, folder
        self.slower = 1.0
        self.accuracy = lambda genotype: 1 - toy.error(genotype)
        self.left_out, self.diverged = set(), set()
        self.trained, self.measured, self.said, self.spent = [], [], [], []

    def train(self, finalists):
        self.trained.append([f.name for f in finalists])
        return [
            Trained(
                f.name,
                same_network(),
                f.architecture,
                f.genotype,
                f.kind,
                f.parent.name if f.parent else "",
            )
            for f in finalists
            if f.name not in self.diverged
        ]

    def verify(self, trained, data, target, problem, *others, open_profiler):
        self.measured.append([item.name for item in trained])
        found = [self.candidate(t, problem) for t in trained if t.name not in self.left_out]
        return judge(found, problem.budgets)

    def candidate(self, item, problem):
        path = self.folder / "candidates" / f"{item.name}.onnx"
        path.parent.mkdir(exist_ok=True)
        graph = onnx.helper.make_graph([], item.name, [], [])
        onnx.save(onnx.helper.make_model(graph), path)
        predicted, accuracy = 0.3, 0.5
        if item.genotype is not None:
            costs = self.toy.problem.predict(np.array([item.genotype]))
            predicted, accuracy = float(costs.latency_ms[0]), self.accuracy(item.genotype)
        ms = self.slower * predicted
        return Candidate(
            name=item.name, onnx=f"candidates/{path.name}", val_accuracy=accuracy,
            test_accuracy=accuracy, latency_ms=ms, predicted_latency_ms=predicted,
            predicted_low_ms=0.9 * predicted, predicted_high_ms=1.1 * predicted,
            peak_memory_bytes=None, params=1, macs=1, parity_max_abs_error=0.0,
            meets_budget=1.05 * ms <= LIMIT_MS, genotype=item.genotype,
            measured_low_ms=0.95 * ms, measured_high_ms=1.05 * ms, slack=1 - ms / LIMIT_MS,
            kind=item.kind, parent=item.parent,
        )  # fmt: skip

    def hold(self, trials, n=4, **changes):
        @contextmanager
        def spending(name):
            self.spent.append(name)
            yield

        said = self.said
        progress = Silent()
        progress.say = said.append
        place = Workplace(
            self.train, None, None, None, None, None, self.folder, 0, progress, spending
        )  # fmt: skip
        problem = changes.get("problem", self.toy.problem)
        plain = {"plain-cnn": SimpleNamespace()}
        held = hold_front(trials, n, problem, place, level=0.9, beside=plain)
        assert {c.name for c in held.candidates} <= {item.name for item in held.trained}
        return held.candidates


def digest_of(architecture):
    return f"{hash(architecture.blocks) % 2**32:08x}"


def same_network():
    torch.manual_seed(0)
    return nn.Linear(1, 1)


@pytest.fixture
def lab(make_toy, tmp_path, monkeypatch):
    found = Lab(make_toy(2, 2, limit_ms=LIMIT_MS), tmp_path)
    monkeypatch.setattr(front_module, "verify", found.verify)
    monkeypatch.setattr(
        front_module, "architecture_digest", lambda a: f"{abs(hash(a.blocks)):016x}"
    )
    return found


def trials_between(lab, low_ms, high_ms, n, *, first=0):
    """`n` trials whose predicted latencies lie there, evaluated by the toy's own truth."""
    space = lab.toy.problem.space
    drawn = np.unique(space.canonical(space.sample(np.random.default_rng(1), 3000)), axis=0)
    ms = lab.toy.problem.predict(drawn).latency_ms
    rows = drawn[(ms >= low_ms) & (ms <= high_ms)][:n].tolist()
    assert len(rows) == n
    return [
        Trial(first + i, tuple(row), lab.toy.objectives(tuple(row))) for i, row in enumerate(rows)
    ]


def on_front(candidates):
    return [c for c in candidates if c.verdict == FRONT]


def test_a_front_that_holds_and_uses_the_budget_is_done_at_once(lab):
    trials = trials_between(lab, 0.2, 0.4, 6) + trials_between(lab, 0.435, 0.45, 4, first=6)
    lab.accuracy = lambda genotype: lab.toy.objectives(genotype)[1]  # larger is better
    found = lab.hold(trials)
    assert len(lab.trained) == len(lab.measured) == 1 and lab.said == []
    assert lab.trained[0][-1] == "plain-cnn" and len(found) == 5
    assert [c.kind for c in found].count(BASELINE) == 1
    slowest = max(on_front(found), key=lambda c: c.latency_ms)
    assert slowest.slack <= MAX_SLACK
    assert set(lab.spent) == {"final_training_seconds", "verify_seconds"}


def test_what_misses_the_budget_is_replaced_by_what_the_mended_predictor_allows(lab):
    lab.slower = 1.2  # so nothing that was predicted above 0.397 holds
    trials = trials_between(lab, 0.41, 0.45, 8) + trials_between(lab, 0.2, 0.3, 8, first=8)
    found = lab.hold(trials, n=6)
    assert sum(c.meets_budget and c.kind != BASELINE for c in found) >= 6
    over = [c for c in found if not c.meets_budget]
    assert over and all(c.verdict.startswith("over budget") for c in over)
    first, second = lab.trained[:2]
    # The near ones that were not tried are known to miss by what was measured of the others.
    assert any(int(name[1:]) < 8 for name in first[:-1])
    assert all(int(name[1:]) >= 8 for name in second) and not set(first) & set(second)
    assert "of 6 networks hold when measured; tried as well:" in lab.said[0]


def test_what_cannot_be_exported_or_trained_is_replaced(lab):
    trials = trials_between(lab, 0.3, 0.45, 12)
    lab.hold(trials, n=3)
    lost, diverged = lab.trained[0][:2]
    lab.trained.clear()
    lab.measured.clear()
    lab.left_out, lab.diverged = {lost}, {diverged}
    (lab.folder / "verified.json").unlink()
    found = lab.hold(trials, n=3)
    assert len([c for c in found if c.kind != BASELINE and c.name.startswith("t")]) >= 3
    assert not {lost, diverged} & {c.name for c in found}


def test_at_most_twice_the_finalists_are_tried_for_the_front_to_hold(lab):
    lab.left_out = {f"t{i:03d}" for i in range(40)}
    lab.hold(trials_between(lab, 0.2, 0.45, 30), n=4)
    tried = [name for names in lab.trained for name in names if name.startswith("t")]
    filled = lab.said[-1].count("nearer to it")
    assert len(set(tried)) == len(tried) and filled
    # Eight to hold, and then at most four near the budget.
    assert 8 <= len(tried) <= 12


def test_the_record_may_have_no_more(lab):
    lab.slower = 3.0
    trials = trials_between(lab, 0.3, 0.4, 3)
    found = lab.hold(trials, n=4)
    assert on_front(found) == []
    assert sorted(lab.trained[0]) == ["plain-cnn", "t000", "t001", "t002"]


def test_unused_latency_is_filled_by_new_networks_near_the_budget(lab):
    lab.accuracy = lambda genotype: lab.toy.objectives(genotype)[1]
    found = lab.hold(trials_between(lab, 0.1, 0.25, 12), n=4)
    new = [c for c in found if c.name.startswith("n")]
    assert len(new) == FILLINGS_AT_ONCE  # one round did
    assert near_budget(lab.toy.problem).is_feasible(np.array([c.genotype for c in new])).all()
    slowest = max(on_front(found), key=lambda c: c.latency_ms)
    assert slowest in new and slowest.slack <= MAX_SLACK
    grown = [c for c in new if c.parent]
    trained = [c for c in found if c not in new and c.genotype]
    best = max(trained, key=lambda c: c.val_accuracy)
    assert grown and {c.parent for c in grown} == {best.name}
    assert all(c.name.endswith(f"-of-{best.name}") for c in grown) and grown != new
    assert "% of the latency budget is unused; tried as well: 3 nearer to it" in lab.said[0]


def test_filling_ends_where_it_brings_no_accuracy(lab):
    lab.accuracy = lambda genotype: 1 / lab.toy.objectives(genotype)[1] / 100  # smaller is better
    found = lab.hold(trials_between(lab, 0.1, 0.25, 14), n=14)
    assert sum(c.name.startswith("n") for c in found) == 7  # half of the finalists asked for


def test_the_last_filling_is_one_network_however_many_promise_much(lab):
    lab.accuracy = lambda genotype: 1 / lab.toy.objectives(genotype)[1] / 100
    fast = trials_between(lab, 0.1, 0.25, 14)
    # As if the search had thought too much of their latency: found near the budget, but so late.
    near = [
        Trial(14 + i, t.genotype, (0.0, t.objectives[1]))
        for i, t in enumerate(trials_between(lab, 0.435, 0.45, 12))
    ]
    front = lab.hold([*fast, *near], n=14)
    assert sum(map(len, lab.trained[1:])) <= 7
    assert len(front) == len({c.name for c in front})


def test_a_perfect_front_is_not_filled(lab):
    lab.accuracy = lambda genotype: 1.0
    lab.hold(trials_between(lab, 0.1, 0.25, 12), n=4)
    assert len(lab.trained) == 1


def test_without_a_latency_budget_nothing_is_filled(lab):
    lab.hold(trials_between(lab, 0.1, 0.25, 12), problem=replace(lab.toy.problem, budgets=()))
    assert len(lab.trained) == 1


def test_the_same_call_again_measures_nothing_and_decides_the_same(lab):
    lab.slower = 1.2
    trials = trials_between(lab, 0.1, 0.25, 8) + trials_between(lab, 0.41, 0.45, 8, first=8)
    first = lab.hold(trials, n=6)
    trained, measured = lab.trained[:], lab.measured[:]
    assert len(measured) > 2
    assert lab.hold(trials, n=6) == first
    assert lab.trained == 2 * trained and lab.measured == measured


def test_with_more_trials_what_was_measured_of_others_stays(lab, monkeypatch):
    known = {}

    def load(path, architecture):
        return same_network() if path.stem in known else None

    monkeypatch.setattr(journal_module, "load_weights", load)
    trials = trials_between(lab, 0.2, 0.45, 12)
    before = lab.hold(trials[:6], n=4)
    known |= {c.name: c for c in before if c.genotype}
    measured = len(lab.measured)
    # Better ones in all parts, so that the search thinks nothing of those from before.
    better = [replace(t, objectives=(t.objectives[0] / 100, *t.objectives[1:])) for t in trials[6:]]
    now = lab.hold([*trials[:6], *better], n=4)
    assert len(lab.measured) > measured
    assert {c.name for c in before} < {c.name for c in now}
    chosen_again = {name for names in lab.trained[len(lab.trained) // 2 :] for name in names}
    assert set(known) - chosen_again
    names = [name for names in lab.measured for name in names]
    assert len(names) == len(set(names))
    assert lab.hold([*trials[:6], *better], n=4) == now  # and the order is the same


def test_after_an_interruption_only_what_was_not_written_down_is_measured(lab, monkeypatch):
    trials = trials_between(lab, 0.1, 0.25, 12)
    whole = lab.verify

    def stop(trained, *others, **options):
        if len(lab.measured) == 1:
            raise KeyboardInterrupt
        return whole(trained, *others, **options)

    monkeypatch.setattr(front_module, "verify", stop)
    with pytest.raises(KeyboardInterrupt):
        lab.hold(trials, n=4)
    monkeypatch.setattr(front_module, "verify", whole)
    lab.hold(trials, n=4)
    names = [name for names in lab.measured for name in names]
    assert len(names) == len(set(names))


def test_of_equally_accurate_networks_the_slowest_grows(lab):
    lab.accuracy = lambda genotype: 0.9
    found = lab.hold(trials_between(lab, 0.1, 0.25, 12), n=4)
    trained = [c for c in found if c.genotype and not c.name.startswith("n")]
    grown = [c for c in found if c.parent]
    slowest = max(trained, key=lambda c: c.latency_ms)
    assert grown and grown[0].parent == slowest.name
