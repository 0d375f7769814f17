import copy

import pytest
import torch
from torch import nn

from hwnas.training import WeightAverage, channels_last, seeded


def test_seeded_draws_the_same_numbers_inside_and_restores_the_state_outside():
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    with seeded(5):
        inside = torch.rand(3)
    assert torch.equal(torch.rand(2), expected)
    with seeded(5):
        assert torch.equal(torch.rand(3), inside)


def test_the_average_is_that_computed_by_hand():
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    average = WeightAverage(network, 0.9)
    steps = [network[0].weight.item()]
    for value in (1.0, 2.0, 3.0):
        with torch.no_grad():
            network[0].weight.fill_(value)
            network[1].running_mean.fill_(10 * value)
            network[1].num_batches_tracked += 1
        average.update()
        steps.append(value)
    mean, running = steps[0], 0.0
    for n, value in enumerate(steps[1:], start=1):
        decay = min(0.9, n / (n + 10))
        mean = decay * mean + (1 - decay) * value
        running = decay * running + (1 - decay) * 10 * value
    average.copy_to_network()
    assert network[0].weight.item() == pytest.approx(mean)
    assert float(network[1].running_mean) == pytest.approx(running)
    assert int(network[1].num_batches_tracked) == 3


def test_weights_lie_channels_last_inside_and_as_before_outside():
    network = nn.Sequential(
        nn.Conv2d(4, 8, 3),
        nn.Conv1d(4, 8, 3),
        nn.Linear(3, 2),
        nn.Conv3d(2, 4, 3),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(8, 4, 1),
    )
    strides = [p.stride() for p in network.parameters()]
    with channels_last(network):
        for layer in (network[0], *network[4:]):
            # Of axes of 1 as well: kernels are chosen by strides.
            expected = copy.deepcopy(layer).to(memory_format=torch.channels_last)
            assert layer.weight.stride() == expected.weight.stride()
    assert [p.stride() for p in network.parameters()] == strides
