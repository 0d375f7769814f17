import numpy as np
import pytest

from hwnas.strategies import Trial
from hwnas.strategies.q_learning import DQN
from hwnas.strategies.q_network import QNetwork


def mean_reward(strategy, toy, epsilon):
    """Of the policy with a share of random decisions, over all targets."""
    rng = np.random.default_rng(0)
    rewards = []
    for position in np.linspace(0, 1, 11):
        drawn = strategy.sample(position, epsilon, 20, rng)
        results = np.array([toy.objectives(tuple(row)) for row in drawn])
        rewards.append(strategy._targets.reward(*results.T, np.full(20, position)).mean())
    return np.mean(rewards)


def searched(toy, n_trials, **options):
    strategy = DQN(toy.problem, seed=0, **options)
    for number in range(n_trials):
        genotype = strategy.ask()
        strategy.tell(Trial(number, genotype, toy.objectives(genotype)))
    return strategy


@pytest.mark.parametrize("limit_ms", [None, 1.0])
def test_the_greedy_policy_is_worth_more_than_the_random_one(make_toy, limit_ms):
    toy = make_toy(limit_ms=limit_ms)
    strategy = searched(toy, 60)
    assert mean_reward(strategy, toy, 0.0) > 1.1 * mean_reward(strategy, toy, 1.0)


def test_the_best_network_of_a_separable_problem_is_found(separable):
    strategy = searched(separable, 60)
    rng = np.random.default_rng(0)
    greedy = strategy.sample(0.5, 0.0, 1, rng)[0]
    assert tuple(greedy) == separable.best


def test_a_choice_is_worth_what_the_best_later_ones_make_of_it(separable):
    # The first option 2 pays only together with the last one; alone it is worse than any.
    def error(genotype):
        if genotype[0] == 2:
            return 0.1 if genotype[-1] == 2 else 0.9
        return 0.5

    strategy = DQN(separable.problem, seed=0)
    rng = np.random.default_rng(0)
    for number in range(120):
        genotype = tuple(rng.integers(3, size=6).tolist())
        strategy.tell(Trial(number, genotype, (error(genotype), 1.0)))
    greedy = strategy.sample(0.5, 0.0, 1, rng)[0]
    assert (greedy[0], greedy[-1]) == (2, 2)


def test_faster_targets_lead_to_faster_networks(make_toy):
    toy = make_toy()
    strategy = searched(toy, 80)
    rng = np.random.default_rng(0)
    ends = np.concatenate([strategy.sample(position, 0.0, 1, rng) for position in (0.0, 1.0)])
    fast_ms, slow_ms = toy.problem.predict(ends).latency_ms
    assert fast_ms < 0.8 * slow_ms


def test_random_decisions_grow_fewer_once_the_network_learns(separable):
    strategy = DQN(separable.problem, seed=0, n_random=4, n_decay=10, min_epsilon=0.1)
    assert strategy.epsilon(8) == 1.0  # nothing was learnt yet
    for number in range(4):
        genotype = strategy.ask()
        strategy.tell(Trial(number, genotype, separable.objectives(genotype)))
    assert [strategy.epsilon(n) for n in (4, 9, 14, 99)] == pytest.approx([1.0, 0.55, 0.1, 0.1])


def test_failed_trials_are_learnt_as_worth_nothing(separable):
    strategy = DQN(separable.problem, seed=0)
    rng = np.random.default_rng(0)
    for number in range(60):
        genotype = tuple(rng.integers(3, size=6).tolist())
        is_failed = genotype[2] == 1
        objectives = None if is_failed else (0.5, 1.0)
        strategy.tell(Trial(number, genotype, objectives, "it fails" if is_failed else None))
    assert (strategy.sample(0.5, 0.0, 5, rng)[:, 2] != 1).all()


@pytest.mark.parametrize("sizes", [{"n_random": 1}, {"n_decay": 0}, {"min_epsilon": 1.5}])
def test_schedules_that_make_no_sense_are_refused(separable, sizes):
    with pytest.raises(ValueError, match="n_random must be"):
        DQN(separable.problem, seed=0, **sizes)


def test_the_network_learns_the_values_of_actions():
    rng = np.random.default_rng(0)
    network = QNetwork(2, 3, rng)
    corners = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    assert (network.values(corners) == 0).all()
    truth = np.array([[0, 1, 2], [1, 0, 2], [1, 0, -2], [0, 1, 0]])  # exclusive or, and its like
    for _ in range(400):
        rows, actions = rng.integers(4, size=16), rng.integers(3, size=16)
        network.learn(corners[rows], actions, truth[rows, actions].astype(float))
    assert network.values(corners) == pytest.approx(truth, abs=0.1)


def test_the_slow_network_stays_as_it_was_copied():
    rng = np.random.default_rng(0)
    network, slow = QNetwork(1, 1, rng), QNetwork(1, 1, rng)
    state, action = np.array([[1.0]]), np.array([0])
    for _ in range(50):
        network.learn(state, action, np.array([1.0]))
    slow.copy_weights(network)
    copied = slow.values(state)
    assert copied == network.values(state) > 0.5
    network.learn(state, action, np.array([-5.0]))
    assert slow.values(state) == copied != network.values(state)
