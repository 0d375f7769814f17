"""Each way's defining property, as its paper states it."""

from collections import Counter

import numpy as np
import pytest

from hwnas.budget import Budget
from hwnas.errors import ConfigError, InfeasibleBudgetError
from hwnas.networks import counts
from hwnas.spaces.base import Choice, SearchSpace
from hwnas.strategies.base import Costs, Problem
from hwnas.supernet import WAYS, Fair, Shrinking, make_way
from hwnas.supernet.sampling import Sampler
from hwnas.supernet.ways import shrinking_phases


def problem_of(space, limit=None):
    """MACs and params as they are, latency 1 ms a million MACs."""

    def predict(genotypes):
        found = [counts(space.architecture(tuple(row))) for row in genotypes.tolist()]
        macs = np.array([each.macs for each in found])
        params = np.array([each.params for each in found])
        ms = macs / 1e6
        return Costs(ms, ms, ms, np.ones(len(ms)), params, macs)

    return Problem(space, predict, () if limit is None else (Budget("macs", limit),))


def macs(space, genotype):
    return counts(space.architecture(genotype)).macs


@pytest.mark.parametrize("name", WAYS)
def test_a_step_is_the_same_again_and_another_seed_gives_another(name, image_space):
    def all_steps(seed):
        way = make_way(name, image_space, seed=seed)
        return [way.subnets(step, 12) for step in range(12)]

    assert all_steps(0) == all_steps(0) != all_steps(1)


@pytest.mark.parametrize("name", WAYS)
def test_every_subnet_meets_the_budget(name, image_space):
    limit = 20_000
    way = make_way(name, image_space, seed=0, problem=problem_of(image_space, limit))
    subnets = {genotype for step in range(20) for genotype in way.subnets(step, 20)}
    assert max(macs(image_space, genotype) for genotype in subnets) <= limit
    assert len(subnets) > 3


def test_an_impossible_budget_is_an_error(image_space):
    way = make_way("single-path", image_space, seed=0, problem=problem_of(image_space, 1))
    with pytest.raises(InfeasibleBudgetError, match="macs"):
        way.subnets(0, 1)


def test_a_single_path_is_drawn_uniformly(image_space):
    way = make_way("single-path", image_space, seed=0)
    drawn = np.array([way.subnets(step, 1) for step in range(3000)])[:, 0]
    for column, n in enumerate(image_space.n_options):
        shares = np.bincount(drawn[:, column], minlength=n) / len(drawn)
        assert shares == pytest.approx(np.full(n, 1 / n), abs=0.04)  # 4 standard deviations


def test_fair_steps_train_every_option_of_choices_of_equal_length_exactly_once():
    space = SearchSpace(
        "equal", tuple(Choice(f"c{i}", (1, 2, 3)) for i in range(4)), lambda o: (1,), ()
    )
    way = Fair(Sampler(space, seed=0))
    for step in range(20):
        subnets = np.array(way.subnets(step, 20))
        assert subnets.shape == (3, 4)
        assert (np.sort(subnets, axis=0) == np.arange(3)[:, None]).all()


def test_fair_training_of_choices_of_any_length_is_even_at_any_time():
    space = SearchSpace(
        "mixed", tuple(Choice(f"c{n}", tuple(range(n))) for n in (2, 3, 4)), lambda o: (1,), ()
    )
    way = Fair(Sampler(space, seed=0))
    trained = np.array([genotype for step in range(9) for genotype in way.subnets(step, 9)])
    assert len(trained) == 9 * 4  # three common multiples of 2, 3 and 4
    for column, n in enumerate((2, 3, 4)):
        for upto in range(1, len(trained) + 1):
            counted = np.bincount(trained[:upto, column], minlength=n)
            assert np.ptp(counted) <= 1
        assert np.ptp(counted) == 0
    # Which options meet is random: not always the same ones.
    assert len({tuple(row) for row in trained.tolist()}) > 12


def test_a_sandwich_has_the_largest_first_then_the_smallest_then_random_subnets(image_space):
    way = make_way("sandwich", image_space, seed=0)
    assert way.distils
    everything = [macs(image_space, tuple(row)) for row in image_space.all_genotypes().tolist()]
    drawn = set()
    for step in range(5):
        largest, smallest, *others = way.subnets(step, 5)
        assert macs(image_space, largest) == max(everything)
        assert macs(image_space, smallest) == min(everything)
        assert len(others) == 2
        drawn.update(others)
    assert len(drawn) > 5


@pytest.mark.parametrize("limit", [15_000, 40_000])
def test_the_largest_under_a_budget_is_near_the_best_of_all(image_space, limit):
    sampler = Sampler(image_space, seed=0, problem=problem_of(image_space, limit))
    everything = [macs(image_space, tuple(row)) for row in image_space.all_genotypes().tolist()]
    best = max(value for value in everything if value <= limit)
    assert 0.8 * best <= macs(image_space, sampler.extreme(largest=True)) <= best
    assert macs(image_space, sampler.extreme(largest=False)) == min(everything)


def test_shrinking_frees_kernels_then_depths_then_widths(image_space):
    n_steps = 400
    way = make_way("shrinking", image_space, seed=0)
    largest = way.subnets(0, n_steps)[0]
    names = [choice.name for choice in image_space.choices]
    elastic = []
    for phase in range(4):
        steps = range(phase * 100, (phase + 1) * 100)
        subnets = [way.subnets(step, n_steps) for step in steps]
        assert all(each[0] == largest for each in subnets)
        others = Counter(genotype for each in subnets for genotype in each[1:])
        elastic.append(
            {
                name
                for column, name in enumerate(names)
                if any(genotype[column] != largest[column] for genotype in others)
            }
        )
    always = {"resolution", "squeeze_excite"}
    kernels, depths = {"kernel_1", "kernel_2"}, {"depth"}
    assert elastic == [set(), always | kernels, always | kernels | depths, set(names)]


def test_phases_can_be_given(image_space):
    sampler = Sampler(image_space, seed=0)
    way = Shrinking(sampler, phases=[["width"]], n_random=3)
    assert len(way.subnets(0, 2)) == 1
    assert len(way.subnets(1, 2)) == 4
    with pytest.raises(ConfigError, match="unknown choice 'widht'; did you mean 'width'"):
        Shrinking(sampler, phases=[["widht"]])


def test_words_of_the_paths_of_layers_say_nothing_of_what_a_choice_is():
    names = "features.3.kernel_size", "layers.0.width", "blocks.depth", "features.2.op"
    space = SearchSpace("a", tuple(Choice(name, (1, 2)) for name in names), lambda o: (1,), ())
    assert shrinking_phases(space) == tuple((name,) for name in (names[0], names[2], names[1]))


def test_a_space_without_words_for_sizes_has_no_phases():
    space = SearchSpace("ops", (Choice("op_1", ("a", "b")),), lambda o: (1,), ())
    assert shrinking_phases(space) == ()


def test_the_nearest_name_of_a_way_is_told(image_space):
    with pytest.raises(ConfigError, match="did you mean 'sandwich'"):
        make_way("sandwhich", image_space, seed=0)
