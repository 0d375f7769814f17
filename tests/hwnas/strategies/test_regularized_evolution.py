import numpy as np
import pytest

from hwnas.strategies import Nsga2, RegularizedEvolution, Trial


@pytest.fixture
def toy(make_toy):
    return make_toy()


def tell_superb_then_bad(strategy, toy, n_bad):
    """One trial that dominates all that come after it; return its genotype."""
    space = toy.problem.space
    rng = np.random.default_rng(5)
    drawn = space.canonical(space.sample(rng, 1 + n_bad)).tolist()
    for number, genotype in enumerate(map(tuple, drawn)):
        objectives = (0.5 + rng.random() / 3, 5 + rng.random()) if number else (0.01, 0.01)
        strategy.tell(Trial(number, genotype, objectives))
    return np.array(drawn[0])


def distances(strategy, superb, n=20):
    return np.array([(np.array(strategy.ask()) != superb).sum() for _ in range(n)])


def test_the_oldest_dies_however_good_it_is(toy):
    # Tournaments so large that the best living one wins nearly all.
    settings = {"population_size": 10, "sample_size": 30}
    while_it_lives = RegularizedEvolution(toy.problem, seed=0, **settings)
    superb = tell_superb_then_bad(while_it_lives, toy, n_bad=9)
    assert (distances(while_it_lives, superb) <= 6).mean() > 0.8
    after_its_death = RegularizedEvolution(toy.problem, seed=0, **settings)
    superb = tell_superb_then_bad(after_its_death, toy, n_bad=10)
    assert (distances(after_its_death, superb) > 6).all()


def test_elitism_keeps_what_ageing_gives_up(toy):
    elitist = Nsga2(toy.problem, seed=0, population_size=10)
    superb = tell_superb_then_bad(elitist, toy, n_bad=39)
    assert (elitist._generations.genotypes == superb).all(axis=1).any()


def test_failed_trials_are_not_born(toy):
    strategy = RegularizedEvolution(toy.problem, seed=0, population_size=3)
    for number in range(9):
        genotype = strategy.ask()
        strategy.tell(Trial(number, genotype, None, "it fails"))
    assert len(strategy._living) == 0


@pytest.mark.parametrize("sizes", [{"population_size": 0}, {"sample_size": 0}])
def test_a_parent_and_a_tournament_are_needed(toy, sizes):
    with pytest.raises(ValueError, match="a parent and a tournament"):
        RegularizedEvolution(toy.problem, seed=0, **sizes)
