import numpy as np
import pytest
import torch

from hwnas.blocks import InvertedResidual
from hwnas.networks import Network, count, counts
from hwnas.spaces.mobilenet import mobile_space


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 224, 224)])
def test_networks_take_the_images_and_give_a_logit_a_class(shape):
    space = mobile_space(shape, 7)
    for row in space.sample(np.random.default_rng(0), 2):
        architecture = space.architecture(tuple(row))
        assert architecture.input_shape[0] == shape[0]
        network = Network(architecture).eval()
        with torch.inference_mode():
            assert network(torch.zeros(2, *architecture.input_shape)).shape == (2, 7)


@pytest.mark.parametrize("size", [8, 9, 16, 17, 28, 32, 64, 65, 224])
def test_resolutions_are_multiples_of_4_around_the_size_of_the_images(size):
    resolution = mobile_space((1, size, size), 10).choices[0]
    assert resolution.name == "resolution"
    assert list(resolution.options) == sorted(set(resolution.options))
    assert all(option % 4 == 0 and option > 0 for option in resolution.options)
    assert any(abs(option - size) <= 2 for option in resolution.options)


def test_the_smallest_and_the_largest_network_of_every_plan_can_be_counted():
    for size in (8, 28, 224):
        space = mobile_space((3, size, size), 10)
        smallest = counts(space.architecture((0,) * len(space.choices)))
        largest = counts(space.architecture(tuple(n - 1 for n in space.n_options)))
        assert smallest.out_shape == largest.out_shape == (10,)
        assert smallest.macs < largest.macs and smallest.params < largest.params


def test_a_bottleneck_has_the_parameters_of_its_layers():
    block = InvertedResidual(24, 5, 2, expand_ratio=4, squeeze_excite=True, activation="relu")
    counted = count(block, (16, 8, 8))
    expand = 16 * 64 + 2 * 64
    depthwise = 64 * 25 + 2 * 64
    gate = (64 * 16 + 16) + (16 * 64 + 64)  # reduced to a quarter
    project = 64 * 24 + 2 * 24
    assert counted.params == expand + depthwise + gate + project
    assert counted.out_shape == (24, 4, 4)


def test_the_first_block_of_a_stage_changes_the_map_and_the_others_keep_it():
    space = mobile_space((1, 8, 8), 10)
    largest = space.architecture(tuple(n - 1 for n in space.n_options))
    blocks = [block for block in largest.blocks if isinstance(block, InvertedResidual)]
    widths = [block.out_channels for block in blocks]
    is_first = [i == 0 or widths[i] != widths[i - 1] for i in range(len(widths))]
    # Three stages; the map is halved by the second and the third.
    assert [b.stride for b, first in zip(blocks, is_first, strict=True) if first] == [1, 2, 2]
    assert {b.stride for b, first in zip(blocks, is_first, strict=True) if not first} == {1}


def test_a_space_for_small_images_has_some_hundreds_of_distinct_pieces():
    space = mobile_space((1, 8, 8), 10)
    pieces = set()
    for row in space.sample(np.random.default_rng(0), 1000):
        architecture = space.architecture(tuple(row))
        shape = architecture.input_shape
        for block in architecture.blocks:
            pieces.add((block, shape))
            shape = count(block, shape).out_shape
    assert space.size > 1e9
    assert 100 < len(pieces) < 3000
