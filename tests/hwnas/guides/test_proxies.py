"""Search without training: votes of proxies, and what is made of them."""

from dataclasses import replace

import numpy as np
import pytest

from hwnas.guides import proxies as module
from hwnas.guides.proxies import n_affordable, voted_errors, zero_cost


def test_every_proxy_has_the_same_say_whatever_its_unit():
    # Mean ranks from the best: 1, 2.5, 2.5, 4 of four.
    votes = voted_errors([[9.0, 1e9], [8.0, -3.0], [-1.0, 7.0], [-np.inf, np.nan]])
    assert votes == pytest.approx([0.1 + 0.9 * r / 4 for r in (0.5, 2.0, 2.0, 3.5)])


def test_ties_share_their_ranks():
    assert voted_errors([[1.0], [1.0]]) == pytest.approx([0.55, 0.55])


def test_networks_are_ranked_by_votes_and_latency(lesson, monkeypatch):
    # The proxies praise the second option of the last choice alone.
    def scores(architecture, batches, names, *, seed):
        return dict.fromkeys(names, float(len(architecture.blocks)))

    monkeypatch.setattr(module, "zero_cost_scores", scores)
    guide = zero_cost(lesson)
    assert len(guide.ranked) == 12 and guide.errors == ()  # all of the space; votes are no errors
    # The fastest network without the last layer and the fastest with it are the whole front.
    assert set(guide.ranked[:2]) == {(0, 0, 0), (0, 0, 1)}


def test_of_a_large_space_some_are_scored_and_others_bred(lesson, monkeypatch):
    monkeypatch.setattr(module, "n_affordable", lambda lesson: 6)
    seen = []

    def scores(architecture, batches, names, *, seed):
        seen.append(names)
        return {name: float(len(seen)) for name in names}

    monkeypatch.setattr(module, "zero_cost_scores", scores)
    assert len(zero_cost(lesson).ranked) == 12 and len(seen) == 6
    assert seen[0] == ["synflow", "naswot", "zico"]


def test_epochs_say_how_many_are_scored(lesson):
    def of(epochs):
        return n_affordable(replace(lesson, recipe=replace(lesson.recipe, epochs=epochs)))

    assert [of(0.1), of(30.0), of(9999.0)] == [16, 57, 200]
