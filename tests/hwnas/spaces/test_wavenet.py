import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from hwnas.networks import Network, count, counts
from hwnas.spaces.base import Architecture
from hwnas.spaces.wavenet import CausalStem, GatedBlock, WaveNetHead, wavenet_space


def stack(dilations, *, skip_channels=6):
    last = len(dilations) - 1
    return tuple(
        GatedBlock(skip_channels, dilation, 1.0, is_first=i == 0, is_last=i == last)
        for i, dilation in enumerate(dilations)
    )


class Reference(nn.Module):
    """The paper's figure 4 with two streams, no packing: what the layers must compute together."""

    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, x):
        skips = 0
        for layer in self.layers:
            d = layer.dilation
            before = torch.cat([torch.zeros_like(x[..., :d]), x[..., :-d]], dim=2)[
                ..., : x.shape[2]
            ]
            taps = (before, x)
            filtered, gate = (
                sum(
                    torch.einsum("oi,nit->not", conv.weight[..., k], tap)
                    for k, tap in enumerate(taps)
                )
                + conv.bias[:, None]
                for conv in (layer.filter, layer.gate)
            )
            z = torch.tanh(filtered) * torch.sigmoid(gate)
            skips = skips + layer.skip(z)
            if not layer.is_last:
                x = x + layer.residual(z)
        return functional.relu(skips)


def test_layers_in_a_row_compute_the_papers_two_streams():
    torch.manual_seed(0)
    network = Network(Architecture((4, 20), stack((1, 2, 4, 1)))).eval()
    x = torch.randn(2, 4, 20)
    with torch.no_grad():
        torch.testing.assert_close(network(x), Reference(network.blocks)(x))


@pytest.mark.parametrize("cycle", [3, 10])
def test_a_cycle_of_dilations_has_seen_two_to_its_length_steps(cycle):
    # van den Oord et al., 2016, section 2.1: 1, 2, 4, …, 512 has a receptive field of 1024.
    field = 2**cycle
    torch.manual_seed(0)
    blocks = stack([2**i for i in range(cycle)])
    network = Network(Architecture((2, field + 8), blocks)).double().eval()
    x = torch.randn(1, 2, field + 8, dtype=torch.float64, requires_grad=True)
    network(x)[0, :, -1].sum().backward()
    has_seen = (x.grad[0].abs().sum(dim=0) > 0).tolist()
    assert has_seen == [False] * 8 + [True] * field


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("length", [12, 13])
def test_no_frame_of_the_stem_has_seen_a_later_step_and_none_is_lost(stride, length):
    torch.manual_seed(0)
    module = CausalStem(5, stride).build((2, length))
    x = torch.randn(1, 2, length, requires_grad=True)
    y = module(x)
    n_frames = -(-length // stride)
    assert y.shape == (1, 5, n_frames)
    for frame in range(n_frames):
        (gradient,) = torch.autograd.grad(y[0, :, frame].sum(), x, retain_graph=True)
        seen = np.flatnonzero(gradient[0].abs().sum(dim=0).numpy())
        # Frames end with the signal: the last at its last step, the one before a stride earlier.
        assert seen[-1] == length - 1 - (n_frames - 1 - frame) * stride
        assert len(seen) <= 2 * stride


@pytest.mark.parametrize("seed", range(4))
def test_activations_before_the_head_do_not_depend_on_later_steps(seed):
    space = wavenet_space((1, 48), 4)
    row = space.sample(np.random.default_rng(seed), 1)[0]
    architecture = space.architecture(tuple(row))
    stride = space.options(tuple(row))["stride"]
    torch.manual_seed(seed)
    features = Network(Architecture((1, 48), architecture.blocks[:-1])).eval()
    x = torch.randn(2, 1, 48)
    with torch.no_grad():
        y = features(x)
        for frame in (0, 5, 48 // stride - 2):
            changed = x.clone()
            changed[..., (frame + 1) * stride :] += 1
            others = features(changed)
            torch.testing.assert_close(others[..., : frame + 1], y[..., : frame + 1])
            assert not torch.isclose(others[..., frame + 1], y[..., frame + 1]).all()


def test_counts_of_a_layer_are_those_of_its_four_convolutions():
    # 16 channels and 24 skips come in, 32 channels are inside.
    counted = count(GatedBlock(24, 4, 2.0, is_first=False, is_last=False), (16 + 24, 50))
    filter_and_gate = 2 * (16 * 32 * 2 + 32)
    residual = 32 * 16 + 16
    skip = 32 * 24 + 24
    assert counted.params == filter_and_gate + residual + skip
    assert counted.macs == 50 * (2 * 16 * 32 * 2 + 32 * 16 + 32 * 24)
    assert counted.out_shape == (16 + 24, 50)


def test_counts_of_a_stack_of_thirty_layers_are_those_of_its_convolutions():
    # The paper repeats 1, 2, 4, …, 512; 30 layers of 64 channels and 256 skips as in Deep Voice
    # (Arik et al., 2017), of one second at 16 kHz.
    blocks = stack([2**i for i in range(10)] * 3, skip_channels=256)
    counted = counts(Architecture((64, 160), (*blocks, WaveNetHead(10))))
    layer = 2 * (64 * 64 * 2 + 64) + (64 * 64 + 64) + (64 * 256 + 256)
    unused_residual = 64 * 64 + 64
    head = (256 * 256 + 256) + (256 * 10 + 10)
    assert counted.params == 30 * layer - unused_residual + head
    assert counted.out_shape == (10,)


def test_the_largest_network_for_audio_repeats_ten_dilations_three_times():
    space = wavenet_space((1, 16_000), 10)
    blocks = space.architecture(tuple(n - 1 for n in space.n_options)).blocks
    dilations = [block.dilation for block in blocks if isinstance(block, GatedBlock)]
    assert dilations == [2**i for i in range(10)] * 3


@pytest.mark.parametrize("length", [4, 30, 512, 16_000])
def test_no_dilation_reaches_beyond_the_signal(length):
    space = wavenet_space((1, length), 10)
    for row in space.sample(np.random.default_rng(0), 50):
        for block in space.architecture(tuple(row)).blocks:
            assert not isinstance(block, GatedBlock) or block.dilation < length


def test_each_stack_starts_at_dilation_1_and_the_last_layer_ends_the_network():
    space = wavenet_space((1, 64), 10)
    names = [choice.name for choice in space.choices]
    genotype = [0] * len(names)
    genotype[names.index("stacks")] = 1  # two
    genotype[names.index("layers")] = 1  # of three layers
    _, *layers, _ = space.architecture(tuple(genotype)).blocks
    assert [layer.dilation for layer in layers] == [1, 2, 4, 1, 2, 4]
    assert [layer.is_first for layer in layers] == [True] + [False] * 5
    assert [layer.is_last for layer in layers] == [False] * 5 + [True]


@pytest.mark.parametrize("shape", [(1, 8, 8), (16,), (1, 3)])
def test_what_is_no_signal_is_refused(shape):
    with pytest.raises(
        ValueError, match=r"signals \(channels, length\) of at least 4 .* got shape"
    ):
        wavenet_space(shape, 2)
