"""Which channels matter most, by each of the ways."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from hwnas.around import space_around
from hwnas.around.block import MODELS


def order_of(space, name):
    """Positions, the most important first."""
    block = space.architecture((0,) * len(space.choices)).blocks[0]
    parent = MODELS[block.model]
    return parent.orders[parent.leaves[name]].tolist()


@pytest.fixture
def model():
    """Four channels between two layers, with weights by hand."""
    first, norm, last = nn.Linear(2, 4, bias=False), nn.BatchNorm1d(4), nn.Linear(4, 2)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, 1.0], [2.0, 0.0], [0.0, 4.0], [0.5, 0.5]]))
        last.weight.copy_(torch.tensor([[1.0, 2.0, 1.0, 1.0], [1.0, 2.0, 1.0, 1.0]]))
        norm.weight.copy_(torch.tensor([0.1, 3.0, -4.0, 1.0]))
    return nn.Sequential(first, norm, last)


@pytest.mark.parametrize(
    ("importance", "expected"),
    [
        # |w| of rows 2, 2, 4, 1 over their mean 2.25; of columns 2, 4, 2, 2 over 2.5
        ("l1", [2, 1, 0, 3]),  # .89 + .8, .89 + 1.6, 1.78 + .8, .44 + .8
        # Norms of rows 1.41, 2, 4, .71 over 2.03; of columns 1.41, 2.83, 1.41, 1.41 over 1.77
        ("l2", [2, 1, 0, 3]),  # .70 + .8, .99 + 1.6, 1.97 + .8, .35 + .8
        ("batch_norm", [2, 1, 3, 0]),  # 4, 3, 1, .1
    ],
)
def test_channels_are_ordered_by_their_weights(model, importance, expected):
    space = space_around(model, torch.zeros(2, 2), importance=importance)
    assert order_of(space, "0.width") == expected


def test_taylor_orders_by_what_a_channel_is_worth_to_the_loss(model):
    x, labels = torch.randn(16, 2), torch.randint(0, 2, (16,))
    with torch.no_grad():
        model[2].weight.copy_(torch.tensor([[0.0, 1.0, 0.1, 3.0], [0.0, -1.0, -0.1, -3.0]]))
    model.eval()
    loss = functional.cross_entropy(model(x), labels)
    weights = [model[0].weight, model[1].weight, model[1].bias, model[2].weight]
    first, scale, shift, last = torch.autograd.grad(loss, weights)
    worth = [
        (model[0].weight * first).abs().sum(1),
        (model[1].weight * scale).abs(),
        (model[1].bias * shift).abs(),
        (model[2].weight * last).abs().sum(0),
    ]
    total = sum(one / one.mean() for one in worth if one.mean() > 0)
    space = space_around(model, x, importance="taylor", batches=[(x, labels)])
    assert order_of(space, "0.width") == total.argsort(descending=True).tolist()
    assert all(p.grad is None for p in model.parameters())


def test_without_a_batch_norm_behind_it_a_channel_goes_by_its_weights():
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    x = torch.zeros(2, 2)
    orders = [
        order_of(space_around(model, x, importance=kind), "0.width")
        for kind in ("l2", "batch_norm")
    ]
    assert orders[0] == orders[1]
