from dataclasses import replace

import pytest
import torch

from hwnas.data import Split
from hwnas.guides import scoring
from hwnas.guides.scoring import SubnetScores, n_affordable, ranked_guide
from hwnas.supernet import Supernet, evaluate_subnet
from hwnas.training import seeded


@pytest.fixture
def supernet(space):
    with seeded(0):
        return Supernet(space).train()


def test_a_score_is_the_error_on_validation(supernet, images):
    scores = SubnetScores(supernet, images)
    found = [scores.score(genotype) for genotype in ((1, 0, 0), (2, 1, 1))]
    assert scores.genotypes == [(1, 0, 0), (2, 1, 1)] and scores.errors == found
    assert found[1] == 1 - evaluate_subnet(supernet, (2, 1, 1), images).accuracy


def test_of_many_examples_a_part_is_scored_that_has_the_classes_in_proportion(
    supernet, images, monkeypatch
):
    seen = []
    evaluate = scoring.evaluate_subnet

    def note(supernet, genotype, data, *, split):
        seen.append(split)
        return evaluate(supernet, genotype, data, split=split)

    monkeypatch.setattr(scoring, "evaluate_subnet", note)
    monkeypatch.setattr(scoring, "MAX_SCORED", 30)
    SubnetScores(supernet, images).score((0, 0, 0))
    assert len(seen[0]) == 30
    assert torch.bincount(seen[0].labels).tolist() == [10, 10, 10]


def test_a_subnet_whose_outputs_are_not_finite_is_wrong_always(supernet, images):
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.fill_(float("nan"))
    assert SubnetScores(supernet, images).score((0, 0, 0)) == 1.0


def test_scoring_costs_what_the_lesson_has_for_it(lesson):
    # 192 training passes an epoch; 192 and 96 forward ones a subnet, each a third: 96.
    assert n_affordable(replace(lesson, recipe=replace(lesson.recipe, epochs=30.0))) == 60
    assert n_affordable(replace(lesson, recipe=replace(lesson.recipe, epochs=1.0))) == 16
    assert n_affordable(replace(lesson, recipe=replace(lesson.recipe, epochs=9999.0))) == 500


def test_networks_are_ranked_by_what_they_add_to_the_front(lesson):
    # Latencies by hand: 1, 2, 4 and 18 ms.
    genotypes = [(2, 1, 0), (0, 0, 0), (1, 0, 0), (1, 1, 0)]
    guide = ranked_guide(lesson, genotypes, [0.1, 0.6, 0.2, 0.3])
    # Up to the reference of 0.66 and 19.8 ms, the dearest adds 1.8 ms · 0.1 to the first, the
    # fastest 1 ms · 0.06; the last is dominated.
    assert guide.ranked == ((1, 0, 0), (2, 1, 0), (0, 0, 0), (1, 1, 0))
    assert guide.errors == (0.2, 0.1, 0.6, 0.3)


def test_a_small_validation_split_is_scored_whole(supernet, images):
    few = replace(images, validation=images.validation.take(torch.arange(5).numpy()))
    assert isinstance(few.validation, Split)
    assert SubnetScores(supernet, few).score((0, 0, 0)) in [i / 5 for i in range(6)]
