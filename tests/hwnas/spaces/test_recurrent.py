import numpy as np
import pytest
import torch
from torch import nn

from hwnas.networks import count
from hwnas.spaces.recurrent import ConvFrames, RecurrentBlock, recurrent_space


def n_params(block, in_shape):
    """Without memory for them."""
    with torch.device("meta"):
        return sum(p.numel() for p in block.build(in_shape).parameters())


# Zaremba et al., Recurrent Neural Network Regularization, 2014: two layers of 650 and of 1500 cells
# over a vocabulary of 10,000; Zoph & Le, 2017, table 2, gives them 20M and 66M parameters.
@pytest.mark.parametrize(("hidden", "millions"), [(650, 20), (1500, 66)])
def test_layers_have_the_parameters_of_a_published_language_model(hidden, millions):
    layers = 2 * n_params(RecurrentBlock("lstm", hidden, bidirectional=False), (35, hidden))
    embedding, output = 10_000 * hidden, 10_000 * hidden + 10_000
    assert round((layers + embedding + output) / 1e6) == millions


@pytest.mark.parametrize(("cell", "n_gates"), [("gru", 3), ("lstm", 4)])
def test_counts_are_those_of_the_gates_of_each_direction(cell, n_gates):
    counted = count(RecurrentBlock(cell, 7, bidirectional=True), (10, 5))
    assert counted.params == 2 * n_gates * (7 * 5 + 7 * 7 + 2 * 7)
    assert counted.macs == 10 * 2 * n_gates * (7 * 5 + 7 * 7)
    assert counted.out_shape == (10, 7)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_two_directions_are_the_sum_of_one_and_one_backwards(cell):
    torch.manual_seed(0)
    module = RecurrentBlock(cell, 6, bidirectional=True).build((9, 4)).eval()
    weights = module.cells[cell].state_dict()
    kind = {"gru": nn.GRU, "lstm": nn.LSTM}[cell]
    forwards, backwards = kind(4, 6, batch_first=True), kind(4, 6, batch_first=True)
    forwards.load_state_dict({name: weights[name] for name in forwards.state_dict()})
    backwards.load_state_dict({n: weights[f"{n}_reverse"] for n in backwards.state_dict()})
    x = torch.randn(2, 9, 4)
    with torch.no_grad():
        expected = forwards(x)[0] + backwards(x.flip(1))[0].flip(1)
        torch.testing.assert_close(module(x), expected)


def test_weights_of_the_two_cells_never_share_a_name():
    names = [
        {name for name, _ in RecurrentBlock(cell, 4, False).build((5, 3)).named_parameters()}
        for cell in ("gru", "lstm")
    ]
    assert names[0].isdisjoint(names[1])


@pytest.mark.parametrize(("stride", "n_frames"), [(1, 21), (2, 11), (4, 6), (20, 2)])
def test_frames_cover_the_signal_to_its_end(stride, n_frames):
    module = ConvFrames(3, stride).build((2, 21)).eval()
    x = torch.randn(1, 2, 21, requires_grad=True)
    y = module.filter(x)
    assert module(x).shape == (1, n_frames, 3)
    y.sum().backward()
    assert (x.grad != 0).all()


def test_the_last_frame_is_read_only_where_it_has_seen_the_whole_signal():
    space = recurrent_space((1, 64), 10)
    names = [choice.name for choice in space.choices]
    pooling, both = names.index("pooling"), names.index("bidirectional")
    genotypes = space.sample(np.random.default_rng(0), 200)
    assert (space.active(genotypes)[:, pooling] == (genotypes[:, both] == 0)).all()
    for row in genotypes[:20]:
        head = space.architecture(tuple(row)).blocks[-1]
        assert head.pooling == ("mean" if row[both] else ("last", "mean")[row[pooling]])


@pytest.mark.parametrize("shape", [(1, 8, 8), (16,), (3, 1)])
def test_what_is_no_signal_is_refused(shape):
    with pytest.raises(
        ValueError, match=r"signals \(channels, length\) of at least 2 .* got shape"
    ):
        recurrent_space(shape, 2)
