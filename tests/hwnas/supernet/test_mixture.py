from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from hwnas.blocks import ClassifierHead
from hwnas.budget import Budget
from hwnas.errors import ConfigError
from hwnas.spaces.base import Choice, Constraint, SearchSpace
from hwnas.strategies.base import Costs, Problem
from hwnas.supernet import (
    ArchitectureWeights,
    GradientSearch,
    Mixture,
    Supernet,
    derive,
    search_by_gradient,
)
from hwnas.supernet import mixture as module
from hwnas.supernet.expected_latency import expected_latency, option_latencies
from hwnas.supernet.mixture import RELAXATIONS
from hwnas.supernet.sampling import Sampler
from hwnas.training import Recipe, seeded


@dataclass(frozen=True)
class Op:
    """What tells stripes apart needs two pixels; the `dear` operation computes the same."""

    kind: str
    channels: int

    def build(self, in_shape):
        size = 1 if self.kind == "pointwise" else 3
        conv = nn.Conv2d(in_shape[0], self.channels, size, padding=size // 2, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(self.channels), nn.ReLU())


LATENCY_MS = {"pointwise": 1.0, "spatial": 2.0, "dear": 9.0}


@pytest.fixture(scope="module")
def space():
    return SearchSpace(
        "ops",
        (
            Choice("op", ("pointwise", "spatial", "dear")),
            Choice("width", (4, 8)),
            Choice("tail", (False, True)),
        ),
        lambda options: (1, 6, 6),
        (
            lambda options: Op(options["op"], 8),
            lambda options: Op("pointwise", options["width"]),
            lambda options: Op("pointwise", options["width"]) if options["tail"] else None,
            lambda options: ClassifierHead(8, 3, "relu"),
        ),
    )


@pytest.fixture(scope="module")
def problem(space):
    def predict(genotypes):
        ms = []
        for row in genotypes.tolist():
            options = space.options(tuple(row))
            ms.append(LATENCY_MS[options["op"]] * options["width"] / 4 + options["tail"])
        ms = np.array(ms)
        count = np.ones(len(ms), np.int64)
        return Costs(ms, ms, ms, np.ones(len(ms)), count, count)

    return Problem(space, predict)


@pytest.fixture
def supernet(space):
    with seeded(0):
        return Supernet(space)


def chances(weights, column):
    return weights.probabilities()[column].detach().numpy()


SHORT = Recipe(epochs=12, batch_size=16)  # 144 steps of a half of 384 images


@pytest.fixture(scope="module")
def noisy_images(make_images):
    """Noise above the signal: what does not help does harm."""
    return make_images(384, 1.5)


@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_a_useful_operation_is_told_from_a_useless_one(relaxation, supernet, noisy_images):
    settings = GradientSearch(relaxation, learning_rate=0.1)
    weights = search_by_gradient(supernet, noisy_images, SHORT, settings, seed=0)
    assert chances(weights, 0)[0] < 0.15  # at first 0.33
    assert chances(weights, 1)[1] > 0.7  # width 8, which cannot be mixed but drawn


@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_with_a_latency_term_the_cheaper_of_two_useful_operations_wins(
    relaxation, supernet, noisy_images, problem
):
    settings = GradientSearch(relaxation, learning_rate=0.1, latency_weight=0.1)
    weights = search_by_gradient(supernet, noisy_images, SHORT, settings, seed=0, problem=problem)
    useless, useful, dear = chances(weights, 0)
    assert useful > 0.6 and dear < 0.1, (useless, useful, dear)


def test_a_large_latency_weight_takes_the_small_width_and_leaves_layers_out(
    supernet, noisy_images, problem
):
    settings = GradientSearch("two-path", learning_rate=0.1, latency_weight=0.4)
    weights = search_by_gradient(supernet, noisy_images, SHORT, settings, seed=0, problem=problem)
    assert chances(weights, 1)[0] > 0.8
    assert chances(weights, 2)[0] > 0.8


def test_a_search_is_the_same_again_with_its_seed(space, images):
    def run(seed):
        with seeded(0):
            supernet = Supernet(space)
        weights = search_by_gradient(
            supernet, images, Recipe(epochs=3, batch_size=16), GradientSearch(), seed=seed
        )
        return torch.cat(list(weights.probabilities()))

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))


def test_a_mixture_computes_in_the_recipes_precision(supernet, images):
    weights = search_by_gradient(
        supernet, images, replace(SHORT, epochs=1, precision="bf16"), GradientSearch(), seed=0
    )
    assert all(bool(p.isfinite().all()) for p in weights.probabilities())


def test_a_latency_term_needs_latencies(supernet, images):
    with pytest.raises(ValueError, match="needs a problem"):
        search_by_gradient(supernet, images, SHORT, GradientSearch(latency_weight=1.0), seed=0)


def fixed_mixture(supernet, space, relaxation, **logits):
    weights = ArchitectureWeights(space)
    names = [choice.name for choice in space.choices]
    with torch.no_grad():
        for name, values in logits.items():
            weights.logits[names.index(name)].copy_(torch.tensor(values))
    return Mixture(supernet, weights, relaxation)


def test_only_choices_that_keep_shapes_are_mixed(supernet, space):
    mixture = Mixture(supernet, ArchitectureWeights(space), "softmax")
    assert (mixture.mixed, mixture.drawn) == ((0, 2), (1,))


def test_softmax_sums_the_outputs_of_all_options_by_their_probabilities(supernet, space):
    mixture = fixed_mixture(supernet, space, "softmax", op=[0.0, 1.0, -1.0], tail=[0.5, -0.5])
    draw = mixture.draw(np.random.default_rng(0))
    x = torch.randn(4, 1, 6, 6)
    op, _, tail = (p.detach() for p in mixture.weights.probabilities())
    width = draw.genotype[1]
    y = sum(
        op[i] * supernet.run_block(0, Op(kind, 8), x)
        for i, kind in enumerate(("pointwise", "spatial", "dear"))
    )
    block = Op("pointwise", (4, 8)[width])
    y = supernet.run_block(1, block, y)
    y = tail[0] * y + tail[1] * supernet.run_block(2, block, y)
    y = supernet.run_block(3, ClassifierHead(8, 3, "relu"), y)
    torch.testing.assert_close(mixture.forward(x, draw), y)


def test_gumbel_weights_are_distributions_that_harden_as_it_cools(supernet, space):
    mixture = fixed_mixture(supernet, space, "gumbel", op=[0.0, 2.0, 0.0])
    rng = np.random.default_rng(0)

    def weights(temperature):
        return torch.stack(
            [mixture.draw(rng, temperature=temperature).weights[0] for _ in range(2000)]
        ).detach()

    hot, cold = weights(5.0), weights(0.05)
    torch.testing.assert_close(hot.sum(dim=1), torch.ones(2000))
    assert hot.max(dim=1).values.mean() < 0.6
    assert cold.max(dim=1).values.mean() > 0.97
    # Cold draws are categorical draws from the softmax (Gumbel-max).
    expected = torch.tensor([0.0, 2.0, 0.0]).softmax(dim=0)
    torch.testing.assert_close(cold.mean(dim=0), expected, atol=0.04, rtol=0)


def test_two_paths_run_one_and_their_gates_have_the_gradient_of_both(supernet, space):
    mixture = fixed_mixture(supernet, space, "two-path", op=[0.3, -0.2, 0.1])
    x = torch.randn(4, 1, 6, 6)
    first, second = (0, 1, 0), (1, 1, 0)
    y = mixture.forward(x, module.Draw(first, rival=second))
    torch.testing.assert_close(y, supernet(x, first))  # the active path alone
    y.square().sum().backward()
    gradient = mixture.weights.logits[0].grad

    outputs = [supernet.run_block(0, Op(kind, 8), x).detach() for kind in ("pointwise", "spatial")]
    gates = torch.tensor([1.0, 0.0], requires_grad=True)
    z = gates[0] * outputs[0] + gates[1] * outputs[1]
    for slot in (1, 3):
        block = space.slots[slot](space.options(first))
        z = supernet.run_block(slot, block, z)
    z.square().sum().backward()
    soft = torch.tensor([0.3, -0.2]).softmax(dim=0)
    # Of a softmax of the two: p_i (g_i - sum_j p_j g_j); the third option is not touched.
    expected = soft * (gates.grad - (soft * gates.grad).sum())
    torch.testing.assert_close(gradient, torch.cat([expected, torch.zeros(1)]))


def test_weights_of_the_networks_get_no_gradient_from_the_rival_path(supernet, space):
    mixture = fixed_mixture(supernet, space, "two-path")
    # Both kernels are parts of one tensor; its centre is what the pointwise operation runs on.
    mixture.forward(
        torch.randn(4, 1, 6, 6), module.Draw((0, 1, 0), rival=(1, 1, 0))
    ).sum().backward()
    gradient = supernet.get_parameter("0/0/weight:Conv2d").grad
    assert gradient[..., 1, 1].any()
    gradient[..., 1, 1] = 0
    assert not gradient.any()


def test_too_many_blocks_at_once_are_refused(supernet, space, monkeypatch):
    monkeypatch.setattr(module, "MAX_MIXED", 2)
    mixture = Mixture(supernet, ArchitectureWeights(space), "softmax")
    with pytest.raises(ConfigError, match="slot 0 .* 3 blocks at once.*use relaxation 'two-path'"):
        mixture.forward(torch.randn(4, 1, 6, 6), mixture.draw(np.random.default_rng(0)))
    with pytest.raises(ConfigError, match="must be one of softmax"):
        Mixture(supernet, ArchitectureWeights(space), "darts")


def test_expected_latency_and_its_gradient_are_those_of_all_networks(space, problem):
    weights = ArchitectureWeights(space)
    with torch.no_grad():
        for logits in weights.logits:
            logits.copy_(torch.linspace(-0.5, 0.7, len(logits)))
    everything = space.all_genotypes()
    ms = torch.from_numpy(problem.predict(everything).latency_ms)
    probability = torch.stack(
        [p[everything[:, column]] for column, p in enumerate(weights.probabilities())]
    ).prod(dim=0)
    exact = (probability * ms).sum()
    exact_gradients = torch.autograd.grad(exact, list(weights.parameters()))

    bases = weights.sample(np.random.default_rng(0), 4000)
    given = option_latencies(bases, space, lambda g: problem.predict(g).latency_ms)
    latency = expected_latency(weights, given)
    gradients = torch.autograd.grad(latency, list(weights.parameters()))
    assert latency.item() == pytest.approx(exact.item(), rel=0.03)
    for found, expected in zip(gradients, exact_gradients, strict=True):
        torch.testing.assert_close(found, expected.to(found), rtol=0.05, atol=0.02)


def test_latencies_of_options_are_means_over_the_bases(space, problem):
    def predict(genotypes):
        return problem.predict(genotypes).latency_ms

    bases = np.array([[0, 0, 0], [2, 1, 1]])
    op, width, tail = option_latencies(bases, space, predict)
    assert op.tolist() == [(1 + 3) / 2, (2 + 5) / 2, (9 + 19) / 2]
    assert width.tolist() == [(1 + 10) / 2, (2 + 19) / 2]
    assert tail.tolist() == [(1 + 18) / 2, (2 + 19) / 2]

    rule = Constraint("narrow", lambda options: options["op"] != "dear" or options["width"] == 8)
    ruled = SearchSpace("ruled", space.choices, space.input_shape, space.slots, constraints=(rule,))
    op, width, _ = option_latencies(bases, ruled, predict)
    assert op.tolist() == [(1 + 3) / 2, (2 + 5) / 2, (1 + 19) / 2]  # the first cannot be dear
    assert width.tolist() == [(1 + 19) / 2, (2 + 19) / 2]  # the second cannot be narrow


def test_the_derived_network_is_the_likeliest_that_meets_the_budget(space, problem):
    weights = ArchitectureWeights(space)
    with torch.no_grad():
        weights.logits[0].copy_(torch.tensor([0.0, 1.0, 2.0]))
    rng = np.random.default_rng(0)
    assert derive(weights, Sampler(space, seed=0), rng)[0] == 2
    tight = Problem(space, problem.predict, (Budget("latency_ms", 5.0),))
    found = derive(weights, Sampler(space, seed=0, problem=tight), rng)
    assert found[0] == 1 and problem.predict(np.array([found])).latency_ms[0] <= 5


def test_draws_are_valid_and_follow_the_probabilities(space):
    weights = ArchitectureWeights(space)
    with torch.no_grad():
        weights.logits[0].copy_(torch.tensor([0.0, 1.0, -1.0]))
    drawn = weights.sample(np.random.default_rng(0), 4000)
    shares = np.bincount(drawn[:, 0], minlength=3) / 4000
    assert shares == pytest.approx(chances(weights, 0), abs=0.03)
    rule = Constraint("narrow", lambda options: options["op"] != "dear" or options["width"] == 4)
    ruled = SearchSpace("ruled", space.choices, space.input_shape, space.slots, constraints=(rule,))
    drawn = ArchitectureWeights(ruled).sample(np.random.default_rng(0), 500)
    assert len(drawn) == 500 and ruled.is_valid(drawn).all()
