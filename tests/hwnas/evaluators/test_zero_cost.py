"""Zero-cost proxies: by hand where that can be done, and what their papers say of them."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional

from hwnas.errors import ConfigError
from hwnas.evaluators.zero_cost import PROXIES, _weights, zero_cost_scores
from hwnas.networks import Network
from hwnas.spaces.base import Architecture
from hwnas.spaces.catalog import make_space
from hwnas.training import seeded


@dataclass(frozen=True)
class Linear:
    features: int

    def build(self, in_shape):
        return nn.Linear(in_shape[0], self.features)


@dataclass(frozen=True)
class Hidden:
    features: int

    def build(self, in_shape):
        layers = nn.Linear(in_shape[0], self.features), nn.BatchNorm1d(self.features), nn.ReLU()
        return nn.Sequential(*layers)


@dataclass(frozen=True)
class Embed:
    def build(self, in_shape):
        return nn.Sequential(nn.Embedding(7, 4), nn.Flatten())


LINE = Architecture((3,), (Linear(2),))


def deep(*widths):
    return Architecture((6,), (*(Hidden(width) for width in widths), Linear(4)))


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn((16, 6), generator=generator), torch.arange(16) % 4),
        (torch.randn((16, 6), generator=generator), torch.arange(16) % 4),
    ]


@pytest.fixture
def line():
    """A line's network, a batch, and the gradient of its weight."""
    with seeded(0):
        network = Network(LINE)
    batch = torch.tensor([[1.0, 2.0, -1.0], [0.5, 0.0, 3.0]]), torch.tensor([0, 1])
    weight = network.blocks[0].weight
    loss = functional.cross_entropy(network(batch[0]), batch[1])
    (gradient,) = torch.autograd.grad(loss, weight)
    return weight.detach(), gradient, batch


def test_of_one_layer_they_are_what_one_computes_by_hand(line):
    weight, gradient, batch = line
    found = zero_cost_scores(LINE, [batch], ["params", "grad_norm", "snip", "synflow"], seed=0)
    assert found["params"] == 8
    assert found["grad_norm"] == pytest.approx(float(gradient.norm()), rel=1e-5)
    assert found["snip"] == pytest.approx(float((gradient * weight).abs().sum()), rel=1e-5)
    # Of a line on ones, each weight's gradient is 1; the bias is no weight.
    assert found["synflow"] == pytest.approx(math.log(float(weight.abs().sum())), rel=1e-5)


def test_zico_is_the_inverse_variation_of_gradients_over_batches(line):
    weight, _, (inputs, labels) = line
    gradients = []
    for x, y in ((inputs, labels), (2 * inputs, labels)):
        w = weight.clone().requires_grad_()
        logits = functional.linear(x, w, torch.zeros(2))
        gradients.append(torch.autograd.grad(functional.cross_entropy(logits, y), w)[0])
    stacked = torch.stack(gradients)
    ratio = (stacked.abs().mean(0) / stacked.std(0, unbiased=False)).sum()
    batches = [(inputs, labels), (2 * inputs, labels)]
    found = zero_cost_scores(LINE, batches, ["zico"], seed=0)["zico"]
    assert found == pytest.approx(math.log(float(ratio)), rel=1e-3)


def test_naswot_is_lowest_where_all_examples_look_alike(batches):
    inputs, labels = batches[0]
    scores = [
        zero_cost_scores(deep(32, 32), [(x, labels)], ["naswot"], seed=0)["naswot"]
        for x in (inputs, inputs[:1].expand_as(inputs))
    ]
    assert scores[0] > scores[1]


@pytest.mark.parametrize("name", sorted(PROXIES))
def test_a_wider_and_deeper_network_scores_higher(name, batches):
    small, large = (
        zero_cost_scores(architecture, batches, [name], seed=0)[name]
        for architecture in (deep(8), deep(64, 64, 64))
    )
    assert large > small


def test_the_same_seed_gives_the_same_scores_and_leaves_torchs_state_alone(batches):
    before = torch.get_rng_state()
    first = zero_cost_scores(deep(16), batches, seed=3)
    assert zero_cost_scores(deep(16), batches, seed=3) == first
    assert zero_cost_scores(deep(16), batches, seed=4) != first
    assert first.keys() == PROXIES.keys()
    assert torch.equal(torch.get_rng_state(), before)


def test_what_inputs_do_not_allow_is_left_out_or_refused(batches):
    tokens = [(torch.zeros((4, 3), dtype=torch.int64), torch.zeros(4, dtype=torch.int64))]
    architecture = Architecture((3,), (Embed(), Hidden(8), Linear(2)), "int64")
    found = zero_cost_scores(architecture, tokens, seed=0)
    assert found.keys() == PROXIES.keys() - {"synflow", "zen", "zico"}
    with pytest.raises(ConfigError, match="'zen' needs inputs that are numbers, not token ids"):
        zero_cost_scores(architecture, tokens, ["zen"], seed=0)
    with pytest.raises(ConfigError, match="'zico' needs two batches or more, got 1"):
        zero_cost_scores(deep(8), batches[:1], ["zico"], seed=0)
    with pytest.raises(ConfigError, match="unknown zero-cost proxy 'synflo'; did you mean"):
        zero_cost_scores(deep(8), batches, ["synflo"], seed=0)


@pytest.mark.parametrize("name", ["vit", "gpt", "text_transformer", "wavenet", "recurrent"])
def test_naswot_sees_the_activations_of_every_space(name):
    shape = {"vit": (1, 8, 8), "wavenet": (1, 64), "recurrent": (1, 64)}.get(name, (16,))
    is_tokens = len(shape) == 1
    space = make_space(name, shape, 2, vocabulary=50 if is_tokens else None)
    architecture = space.architecture((0,) * len(space.choices))
    with seeded(0):
        inputs = torch.randint(0, 50, (8, *shape)) if is_tokens else torch.randn((8, *shape))
    batch = inputs, torch.arange(8) % 2
    assert math.isfinite(zero_cost_scores(architecture, [batch], ["naswot"], seed=0)["naswot"])


@dataclass(frozen=True)
class Written:
    """A layer as people write them, and the same of modules."""

    is_of_modules: bool
    dropout: float = 0.0

    def build(self, in_shape):
        act = nn.ReLU() if self.is_of_modules else lambda x: functional.relu(input=x)
        return WrittenModule(in_shape[0], act, self.dropout)


class WrittenModule(nn.Module):
    def __init__(self, n, act, dropout):
        super().__init__()
        self.dense, self.act, self.dropout = nn.Linear(n, 32), act, nn.Dropout(dropout)
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        scale = torch.tanh(self.scale)  # of no example
        return self.dropout(self.act(self.dense(x)) * scale)


def test_naswot_sees_activations_that_a_forward_calls(batches):
    called, of_modules = (
        zero_cost_scores(Architecture((6,), (Written(b), Linear(4))), batches, ["naswot"], seed=0)
        for b in (False, True)
    )
    assert called == of_modules and math.isfinite(called["naswot"])


@pytest.mark.parametrize("name", sorted(PROXIES))
def test_dropout_is_not_in_the_score(name, batches):
    without, beside = (
        zero_cost_scores(Architecture((6,), (Written(True, p), Linear(4))), batches, [name], seed=0)
        for p in (0.0, 0.5)
    )
    assert beside == without


def test_recurrent_weights_count():
    space = make_space("recurrent", (1, 64), 2)
    small = (0,) * len(space.choices)
    cell = [choice.name for choice in space.choices].index("cell")
    other = tuple(1 if i == cell else 0 for i in range(len(small)))
    with seeded(0):
        batch = torch.randn(8, 1, 64), torch.arange(8) % 2
    one, two = (
        zero_cost_scores(space.architecture(g), [batch], ["synflow"], seed=0)["synflow"]
        for g in (small, other)
    )
    with seeded(0):
        network = Network(space.architecture(small))
    n_recurrent = sum(isinstance(module, nn.RNNBase) for module in network.modules())
    n_others = sum(isinstance(m, nn.Conv1d | nn.Linear) for m in network.modules())
    assert len(_weights(network)) == n_others + 2 * n_recurrent  # of inputs and of states
    assert one != two
