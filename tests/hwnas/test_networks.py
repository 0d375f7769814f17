import numpy as np
import pytest
import torch

from hwnas.blocks import ClassifierHead, ConvBlock, InvertedResidual
from hwnas.networks import Network, count, counts
from hwnas.spaces.base import Architecture
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
