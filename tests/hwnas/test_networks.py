from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from hwnas.baselines import Dense, MeanEmbedding
from hwnas.blocks import ClassifierHead, ConvBlock, InvertedResidual
from hwnas.networks import Network, begin_as_identity, count, counts
from hwnas.spaces.base import Architecture
from hwnas.spaces.catalog import make_space
from hwnas.spaces.mobilenet import mobile_space


def test_macs_of_a_conv_block_are_outputs_times_inputs_times_the_window():
    counted = count(ConvBlock(16, 3, 2, "relu"), (3, 32, 32))
    assert counted.out_shape == (16, 16, 16)
    assert counted.macs == 16 * 16 * 16 * 3 * 3 * 3
    assert counted.params == 16 * 3 * 3 * 3 + 2 * 16


def test_macs_of_a_bottleneck_are_those_of_its_four_parts():
    block = InvertedResidual(24, 5, 2, expand_ratio=4, squeeze_excite=True, activation="relu")
    expand = 64 * 16 * 8 * 8
    depthwise = 64 * 25 * 4 * 4
    gate = 64 * 16 + 16 * 64
    project = 24 * 64 * 4 * 4
    assert count(block, (16, 8, 8)).macs == expand + depthwise + gate + project


def test_macs_of_a_head_are_those_of_its_convolution_and_its_linear_layer():
    counted = count(ClassifierHead(32, 10, "relu"), (16, 4, 4))
    assert counted.macs == 32 * 16 * 16 + 32 * 10
    assert counted.params == 32 * 16 + 2 * 32 + 32 * 10 + 10
    assert counted.out_shape == (10,)


@pytest.mark.parametrize("size", [8, 28])
def test_counts_of_a_network_are_those_of_its_module(size):
    space = mobile_space((1, size, size), 10)
    for row in space.sample(np.random.default_rng(3), 3):
        architecture = space.architecture(tuple(row))
        counted = counts(architecture)
        network = Network(architecture)
        assert counted.params == sum(p.numel() for p in network.parameters())
        assert counted.out_shape == (10,)
        assert len(network.blocks) == len(architecture.blocks)


def test_counting_leaves_the_random_state_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    count.cache_clear()
    count(InvertedResidual(16, 3, 1, 2, True, "relu"), (8, 6, 6))
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_depend_on_the_seed_and_not_on_what_was_counted_before():
    architecture = Architecture((1, 8, 8), (ConvBlock(8, 3, 1, "relu"),
                                            ClassifierHead(16, 10, "relu")))  # fmt: skip
    states = []
    for _ in range(2):  # the first meets an empty cache of counts, the second a full one
        if not states:
            count.cache_clear()
        torch.manual_seed(0)
        states.append(Network(architecture).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_initial_logits_are_of_moderate_size():
    torch.manual_seed(0)
    space = mobile_space((1, 8, 8), 10)
    network = Network(space.architecture(tuple(n - 1 for n in space.n_options)))
    logits = network(torch.randn(32, 1, 24, 24))
    assert logits.isfinite().all() and 1e-3 < logits.std() < 100


def test_a_block_that_does_not_fit_its_input_is_named():
    with pytest.raises(ValueError, match=r"ConvBlock\(.*does not fit an input of shape \(8,\)"):
        count(ConvBlock(8, 3, 1, "relu"), (8,))


@dataclass(frozen=True)
class Layers:
    """A block that one function makes."""

    name: str

    def build(self, in_shape):
        return LAYERS[self.name](in_shape)


class Sequences(nn.Module):
    """A recurrent layer, its outputs only."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0]


class Attention(nn.Module):
    def __init__(self, width, layer):
        super().__init__()
        self.width, self.layer = width, layer
        self.packed = nn.Linear(width, 3 * width)

    def forward(self, x):
        query, key, value = self.packed(x).split(self.width, dim=2)
        if self.layer is not None:
            return self.layer(query, key, value, need_weights=False)[0]
        return functional.scaled_dot_product_attention(query, key, value)


LAYERS = {
    "lstm": lambda shape: Sequences(nn.LSTM(shape[1], 12, num_layers=2, batch_first=True)),
    "lstm both": lambda shape: Sequences(
        nn.LSTM(shape[1], 12, batch_first=True, bidirectional=True)
    ),
    "lstm projected": lambda shape: Sequences(nn.LSTM(shape[1], 12, proj_size=4, batch_first=True)),
    "gru": lambda shape: Sequences(nn.GRU(shape[1], 12, batch_first=True)),
    "rnn": lambda shape: Sequences(nn.RNN(shape[1], 12, batch_first=True)),
    "attention": lambda shape: Attention(shape[1], None),
    "heads": lambda shape: Attention(
        shape[1], nn.MultiheadAttention(shape[1], 2, batch_first=True)
    ),
    "encoder": lambda shape: nn.TransformerEncoderLayer(shape[1], 2, 32, batch_first=True),
    "conv 1d": lambda shape: nn.Conv1d(shape[0], 6, 3, dilation=4, padding=4),
    "embedding": lambda shape: nn.Embedding(50, 8),
    "linear": lambda shape: nn.Linear(shape[0], 5),
}

# Of 10 steps of 8 features. Each step: input and state times four gates (an LSTM), three, or one.
LSTM_1, LSTM_2 = 4 * 12 * (8 + 12), 4 * 12 * (12 + 12)
ATTENTION = 10 * 8 * 24 + 2 * 10 * 10 * 8  # q, k and v; then scores and their products with v


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize(
    ("name", "macs"),
    [
        ("lstm", 10 * (LSTM_1 + LSTM_2)),
        ("lstm both", 2 * 10 * LSTM_1),
        ("lstm projected", 10 * (4 * 12 * (8 + 4) + 12 * 4)),
        ("gru", 10 * 3 * 12 * (8 + 12)),
        ("rnn", 10 * 12 * (8 + 12)),
        ("attention", ATTENTION),
        ("heads", ATTENTION + 10 * 8 * (24 + 8)),  # its own projections, in and out
        ("encoder", ATTENTION + 10 * 8 * 8 + 2 * 10 * 8 * 32),
    ],
)
def test_macs_of_sequence_layers_are_those_of_their_formulas(name, macs):
    assert count(Layers(name), (10, 8)).macs == macs


def test_macs_of_layers_on_signals_tokens_and_tables_are_counted():
    dilated = count(Layers("conv 1d"), (2, 40))
    assert (dilated.out_shape, dilated.macs) == ((6, 40), 40 * 6 * 2 * 3)
    embedded = count(Layers("embedding"), (10,), "int64")
    assert (embedded.out_shape, embedded.macs, embedded.params) == ((10, 8), 0, 50 * 8)
    assert count(Layers("linear"), (7,)).macs == 35


def test_the_same_block_of_another_input_type_is_another_count():
    with pytest.raises(ValueError, match="does not fit an input of shape"):
        count(Layers("embedding"), (10,))  # an embedding of real numbers
    assert count(Layers("embedding"), (10,), "int64").params == 400


@pytest.mark.parametrize("name", ["lstm", "gru", "encoder"])
def test_a_network_of_token_ids_is_built_counted_and_run(name):
    architecture = Architecture((10,), (Layers("embedding"), Layers(name)), "int64")
    network = Network(architecture).eval()
    counted = counts(architecture)
    assert counted.params == sum(p.numel() for p in network.parameters())
    outputs = network(torch.randint(0, 50, (3, 10)))
    assert tuple(outputs.shape[1:]) == counted.out_shape


def test_counting_leaves_the_fast_path_of_attention_as_it_was():
    for is_enabled in (True, False):
        torch.backends.mha.set_fastpath_enabled(is_enabled)
        count.cache_clear()
        count(Layers("encoder"), (10, 8))
        assert torch.backends.mha.get_fastpath_enabled() == is_enabled
    torch.backends.mha.set_fastpath_enabled(True)


def test_layers_that_initialise_themselves_are_left_as_they_are():
    torch.manual_seed(0)
    network = Network(Architecture((10,), (Layers("embedding"), Layers("encoder")), "int64"))
    embedding, encoder = network.blocks
    assert embedding.weight.std().item() == pytest.approx(1, rel=0.1)  # torch's default
    assert encoder.norm1.weight.eq(1).all()
    bound = 1 / np.sqrt(encoder.linear1.in_features)
    assert 0.9 * bound < encoder.linear1.weight.abs().max() <= bound
    assert encoder.linear1.bias.eq(0).all()


def test_residual_blocks_begin_as_identities_and_others_as_they_were():
    blocks = (
        ConvBlock(8, 3, 1, "relu"),
        InvertedResidual(8, 3, 1, 3, True, "relu"),
        InvertedResidual(16, 3, 2, 3, True, "relu"),
        InvertedResidual(16, 3, 1, 3, True, "relu"),
        ClassifierHead(16, 3, "relu"),
    )
    torch.manual_seed(0)
    network = Network(Architecture((1, 8, 8), blocks))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    begin_as_identity(network, [True, True, True, False, True])
    assert network.training
    changed = {n for n, v in network.state_dict().items() if not torch.equal(v, before[n])}
    assert changed == {"blocks.1.project.norm.weight"}
    begin_as_identity(network)
    network.eval()
    for i, shape in ((1, (2, 8, 8, 8)), (3, (2, 16, 4, 4))):
        x = torch.randn(shape)
        assert torch.equal(network.blocks[i](x), x)
    x = torch.randn(2, 8, 8, 8)
    assert network.blocks[2](x).abs().max() > 0


class Branch(nn.Module):
    """`x + branch(x)`."""

    def __init__(self, *layers):
        super().__init__()
        self.branch = nn.Sequential(*layers)

    def forward(self, x):
        return x + self.branch(x)


@dataclass(frozen=True)
class Branches:
    kind: str

    def build(self, in_shape):
        n = in_shape[0]
        layers = {
            "pre-norm": (nn.BatchNorm1d(n), nn.Linear(n, n), nn.ReLU(), nn.Linear(n, n)),
            "bent": (nn.Linear(n, n), nn.ReLU()),  # from 0 a ReLU would never learn
            "plain": (nn.Linear(n, n),),
        }
        return Branch(*layers[self.kind])


@pytest.mark.parametrize(("kind", "is_silent"), [("pre-norm", True), ("bent", False)])
def test_blocks_that_begin_as_identities_can_learn(kind, is_silent):
    torch.manual_seed(0)
    network = Network(Architecture((6,), (Branches("plain"), Branches(kind), Branches("plain"))))
    begin_as_identity(network)
    x = torch.randn(16, 6)
    network.eval()
    assert torch.equal(network(x), x) == is_silent
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    for _ in range(4):
        optimizer.zero_grad()
        network(x).square().sum().backward()
        optimizer.step()
    assert all(bool((p.grad != 0).any()) for p in network.parameters())


@pytest.mark.parametrize("name", ["resnet", "regnet", "fbnet"])
def test_residual_blocks_of_ready_made_spaces_begin_as_identities(name):
    space = make_space(name, (1, 32, 32), 10)
    network = Network(space.architecture(tuple(n - 1 for n in space.n_options)))
    n_zero = sum(bool(p.eq(0).all()) for n, p in network.named_parameters() if n.endswith("weight"))
    assert n_zero == 0
    begin_as_identity(network)
    zeros = [bool(p.eq(0).all()) for n, p in network.named_parameters() if n.endswith("weight")]
    assert sum(zeros) >= 3


@pytest.mark.parametrize(
    "architecture",
    [
        make_space("vit", (1, 8, 8), 10).architecture((0,) * 11),
        Architecture((9,), (MeanEmbedding(50, 8), Dense(3, False)), "int64"),
    ],
)
def test_what_is_no_residual_branch_begins_as_it_is(architecture):
    network = Network(architecture)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    begin_as_identity(network)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_blocks_that_keep_their_weights_do_not_begin_as_identities():
    network = Network(Architecture((8, 8, 8), (InvertedResidual(8, 3, 1, 3, False, "relu"),)))
    network.blocks[0].keeps_weights = True
    begin_as_identity(network)
    assert network.blocks[0].project.norm.weight.eq(1).all()
