import numpy as np
import pytest

from hwnas.guides import Lesson
from hwnas.guides.policy import WARMUP_SHARE, SharedPolicy, enas
from hwnas.supernet import Supernet
from hwnas.training import Recipe

POINTWISE, SPATIAL, DEAR = range(3)


@pytest.fixture(scope="module")
def guide(images, make_problem):
    return enas(Lesson(make_problem(), images, Recipe(epochs=40, batch_size=16), seed=0))


def test_the_policy_moves_toward_the_better_option_while_weights_are_shared(guide):
    slowest = guide.policies[-1]
    assert slowest[0][POINTWISE] < 0.2  # at first 0.33
    errors = dict(zip(guide.ranked, guide.errors, strict=True))
    assert min(errors, key=errors.get)[0] != POINTWISE


def test_policies_for_faster_targets_draw_faster_networks(guide, make_problem):
    problem = make_problem()
    everything = problem.space.all_genotypes()
    latency_ms = problem.predict(everything).latency_ms
    expected = [
        np.prod([np.array(row)[everything[:, i]] for i, row in enumerate(policy)], axis=0)
        @ latency_ms
        for policy in guide.policies
    ]
    assert expected[0] < 0.8 * expected[-1]


def test_the_policy_is_not_rewarded_before_weights_are_warm(lesson):
    supernet = Supernet(lesson.problem.space).train()
    policy = SharedPolicy(lesson, supernet)
    uniform = policy.policies()
    policy.subnets(0, 50)
    policy.learn(WARMUP_SHARE)
    assert policy.policies() == uniform
    for share in (0.5, 1.0):
        policy.learn(share)
    assert policy.policies() != uniform
