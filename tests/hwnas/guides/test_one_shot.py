"""SPOS and Once-for-All: each one's defining property, as its paper states it."""

from dataclasses import replace

import numpy as np
import pytest

from hwnas.evaluators.learned import LearnedAccuracy
from hwnas.guides import breeding
from hwnas.guides.breeding import distinct, evolve
from hwnas.guides.one_shot import ofa, spos, trained_supernet
from hwnas.pareto import non_dominated
from hwnas.supernet import evaluate_subnet
from hwnas.training import Recipe

POINTWISE, SPATIAL, DEAR = range(3)


def with_epochs(lesson, epochs):
    return replace(lesson, recipe=Recipe(epochs=epochs, batch_size=16))


def test_spos_ranks_networks_by_inherited_weights_so_that_the_useful_operation_wins(lesson):
    guide = spos(with_epochs(lesson, 10))
    assert len(set(guide.ranked)) == len(guide.ranked) == 12  # all of the space
    errors = dict(zip(guide.ranked, guide.errors, strict=True))
    useless = [error for genotype, error in errors.items() if genotype[0] == POINTWISE]
    useful = [error for genotype, error in errors.items() if genotype[0] != POINTWISE]
    assert max(useful) < min(useless)


def test_spos_proposes_its_front_first(lesson):
    guide = spos(with_epochs(lesson, 4))
    latency_ms = lesson.problem.predict(np.array(guide.ranked)).latency_ms
    on_front = non_dominated(np.column_stack([guide.errors, latency_ms]))
    n = int(on_front.sum())
    assert on_front[:n].all() and not on_front[n:].any()


def test_paths_over_the_budget_are_not_trained(lesson, make_problem, monkeypatch):
    from hwnas.guides import one_shot

    limited = replace(with_epochs(lesson, 4), problem=make_problem(limit_ms=2.0))
    trained = set()

    def note(supernet, data, recipe, way, **options):
        trained.update(genotype for step in range(50) for genotype in way.subnets(step, 50))

    monkeypatch.setattr(one_shot, "train_supernet", note)
    trained_supernet(limited, "single-path")
    # By hand: pointwise with 4 channels, with or without the last layer; with 8; spatial with 4.
    assert trained == {(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)}


def test_after_shrinking_the_smallest_networks_do_better_than_when_only_the_largest_was_trained(
    lesson,
):
    largest = max(
        map(tuple, lesson.problem.space.all_genotypes().tolist()),
        key=lambda g: lesson.problem.predict(np.array([g])).latency_ms[0],
    )
    # The smallest that can tell the classes apart.
    smallest = (SPATIAL, 0, 0)

    class LargestOnly:
        distils = False

        def subnets(self, step, n_steps):
            return (largest,)

    from hwnas.guides import one_shot

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one_shot, "make_way", lambda *given, **options: LargestOnly())
        without = trained_supernet(with_epochs(lesson, 20), "shrinking")
    shrunk = trained_supernet(with_epochs(lesson, 20), "shrinking")
    accuracy = [
        evaluate_subnet(supernet, smallest, lesson.data).accuracy for supernet in (without, shrunk)
    ]
    assert accuracy[1] > accuracy[0] + 0.1


def test_ofa_learns_from_some_subnets_what_all_others_would_score(lesson, monkeypatch):
    from hwnas.guides import one_shot

    monkeypatch.setattr(one_shot, "n_affordable", lambda lesson: 6)
    guide = ofa(with_epochs(lesson, 4))
    assert len(guide.ranked) == 12  # six were scored


def test_evolution_finds_the_front_of_predicted_objectives(make_toy, monkeypatch):
    monkeypatch.setattr(breeding, "N_GENERATIONS", 6)
    monkeypatch.setattr(breeding, "N_CHILDREN", 64)
    monkeypatch.setattr(breeding, "POPULATION", 48)
    toy = make_toy(n_stages=2, limit_ms=3.0)
    space, rng = toy.problem.space, np.random.default_rng(0)
    first = np.array(distinct(toy.problem, 48, seed=0))

    def errors(genotypes):
        return np.array([toy.error(tuple(row)) for row in genotypes.tolist()])

    found = evolve(toy.problem, errors, first, rng=rng)
    assert toy.problem.is_feasible(found).all()
    assert len(np.unique(found, axis=0)) == len(found) <= breeding.POPULATION
    # As many random networks as evolution looked at are worse, at any latency.
    n = breeding.N_CHILDREN * breeding.N_GENERATIONS
    drawn = space.sample(rng, n)
    drawn = drawn[toy.problem.is_feasible(drawn)]
    for limit_ms in (0.6, 1.0, 2.0):
        best = [
            errors(rows[toy.problem.predict(rows).latency_ms <= limit_ms]).min()
            for rows in (found, drawn)
        ]
        assert best[0] < best[1]


def test_draws_are_distinct_and_end_with_the_space(make_problem):
    problem = make_problem(limit_ms=2.0)
    assert len(distinct(problem, 3, seed=0)) == 3
    assert len(set(distinct(problem, 99, seed=0))) == 4


def test_the_learned_accuracy_is_what_evolution_sees(lesson, monkeypatch):
    from hwnas.guides import one_shot

    seen = []

    def note(self, genotypes):
        seen.append(len(genotypes))
        return predict(self, genotypes)

    predict = LearnedAccuracy.predict
    monkeypatch.setattr(LearnedAccuracy, "predict", note)
    monkeypatch.setattr(one_shot, "n_affordable", lambda lesson: 6)
    ofa(with_epochs(lesson, 1))
    assert len(seen) > breeding.N_GENERATIONS
