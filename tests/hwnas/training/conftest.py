"""Small data that are learnt in a few steps, and a network for them."""

import pytest
import torch
from torch import nn

from hwnas.data import DataSet, Split
from hwnas.training import seeded


class Forbidden:
    """Stands for a split that must not be read."""

    def __getattr__(self, name):
        raise AssertionError(f"the split was read: .{name}")


def with_forbidden_test(name, split, n_classes):
    data = DataSet(name, split, split, split, tuple(map(str, range(n_classes))))
    object.__setattr__(data, "test", Forbidden())
    return data


@pytest.fixture
def make_data():
    """Make stripes across or along, a class each, with noise."""

    def make(n=50, *, classes=2, side=8):
        noise = torch.rand((n, 1, side, side), generator=torch.Generator().manual_seed(0)) * 0.2
        stripes = (torch.arange(side) % 4 < 2).float()
        labels = torch.arange(n) % classes
        along = (labels == 0).view(-1, 1, 1, 1)
        images = noise + torch.where(along, stripes.view(1, 1, 1, -1), stripes.view(1, 1, -1, 1))
        return with_forbidden_test(
            "stripes", Split((images * 200).to(torch.uint8), labels), classes
        )

    return make


@pytest.fixture
def make_other():
    """Make data of another kind: the class is the sign of a slope or mean, or which ids it has."""

    def make(kind, n=64):
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(n) % 2
        sign = 2.0 * labels - 1
        if kind == "signal":
            slope = torch.linspace(-1, 1, 32) * sign[:, None]
            inputs = (slope + torch.rand((n, 32), generator=generator))[:, None]
        elif kind == "table":
            inputs = torch.randn((n, 5), generator=generator) + 2 * sign[:, None]
        else:
            inputs = torch.randint(1, 6, (n, 12), generator=generator) + 5 * labels[:, None]
        return with_forbidden_test(kind, Split(inputs, labels), 2)

    return make


@pytest.fixture
def make_network():
    """Make a small network for the stripes."""

    def make(n_classes=2, *, dropout=0.0):
        with seeded(0):
            return nn.Sequential(
                nn.Conv2d(1, 8, 3, padding=1),
                nn.BatchNorm2d(8),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(2),
                nn.Flatten(),
                nn.Dropout(dropout),
                nn.Linear(32, n_classes),
            )

    return make
