"""Small spaces of every kind of weights, and images that only a spatial filter tells apart."""

from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import nn

from hwnas.blocks import ClassifierHead, ConvBlock, InvertedResidual
from hwnas.data import DataSet, Split
from hwnas.spaces.base import Choice, SearchSpace


def _bottleneck(i, options):
    if i > options["depth"]:
        return None
    return InvertedResidual(
        out_channels=options["width"],
        kernel_size=options[f"kernel_{i}"],
        stride=1,
        expand_ratio=options[f"expand_{i}"],
        squeeze_excite=options["squeeze_excite"],
        activation="relu",
    )


@pytest.fixture(scope="session")
def image_space():
    """2·2·3·2·(2·2)^2 genotypes: resolution, width, depth, and kernel and expansion of 2 blocks."""
    choices = [
        Choice("resolution", (4, 6)),
        Choice("width", (8, 16)),
        Choice("depth", (0, 1, 2)),
        Choice("squeeze_excite", (False, True)),
    ]
    for i in (1, 2):
        choices += [Choice(f"kernel_{i}", (3, 5)), Choice(f"expand_{i}", (1, 2))]
    return SearchSpace(
        "images",
        tuple(choices),
        lambda options: (1, options["resolution"], options["resolution"]),
        (
            lambda options: ConvBlock(8, 3, 1, "relu"),
            *(partial(_bottleneck, i) for i in (1, 2)),
            lambda options: ClassifierHead(16, 3, "relu"),
        ),
    )


@dataclass(frozen=True)
class Embedding:
    features: int

    def build(self, in_shape):
        return nn.Embedding(11, self.features)


class _Attending(nn.Module):
    def __init__(self, features, heads, length):
        super().__init__()
        self.norm = nn.LayerNorm(features)
        self.attention = nn.MultiheadAttention(features, heads, dropout=0.1, batch_first=True)
        self.register_buffer("position", torch.linspace(-1, 1, length)[:, None])

    def forward(self, x):
        x = self.norm(x + self.position)
        return x + self.attention(x, x, x, need_weights=False)[0]


@dataclass(frozen=True)
class Attention:
    head_dim: int

    def build(self, in_shape):
        return _Attending(in_shape[1], in_shape[1] // self.head_dim, in_shape[0])


class _Last(nn.Module):
    def __init__(self, cell, features, hidden):
        super().__init__()
        self.cell = {"gru": nn.GRU, "lstm": nn.LSTM}[cell](features, hidden, batch_first=True)

    def forward(self, x):
        return self.cell(x)[0]


@dataclass(frozen=True)
class Recurrent:
    cell: str
    hidden: int

    def build(self, in_shape):
        return _Last(self.cell, in_shape[1], self.hidden)


class _Classes(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.classes = nn.Linear(features, 3)

    def forward(self, x):
        return self.classes(x.mean(dim=1))


@dataclass(frozen=True)
class Classes:
    def build(self, in_shape):
        return _Classes(in_shape[1])


@pytest.fixture(scope="session")
def token_space():
    """Token ids to an embedding, attention or none, an LSTM or a GRU, classes."""
    return SearchSpace(
        "tokens",
        (
            Choice("features", (4, 8)),
            Choice("attend", (False, True)),
            Choice("cell", ("gru", "lstm")),
            Choice("hidden", (3, 6)),
        ),
        lambda options: (5,),
        (
            lambda options: Embedding(options["features"]),
            lambda options: Attention(2) if options["attend"] else None,
            lambda options: Recurrent(options["cell"], options["hidden"]),
            lambda options: Classes(),
        ),
        input_type="int64",
    )


@pytest.fixture(scope="session", params=["images", "tokens"])
def space(request, image_space, token_space):
    return {"images": image_space, "tokens": token_space}[request.param]


@pytest.fixture(scope="session")
def make_inputs():
    """A batch of 8 for a genotype of a space."""

    def make(space, genotype, seed=0):
        generator = torch.Generator().manual_seed(seed)
        shape = space.input_shape(space.options(genotype))
        if space.input_type == "int64":
            return torch.randint(0, 11, (8, *shape), generator=generator)
        return torch.randn(8, *shape, generator=generator)

    return make


@pytest.fixture(scope="session")
def make_images():
    """Images of 1×6×6 in 3 classes: stripes across, stripes down, plain; with noise."""

    def make(n_train, noise):
        generator = torch.Generator().manual_seed(0)

        def split(n):
            labels = torch.arange(n) % 3
            stripes = (torch.arange(6) % 2 * 2 - 1).float()
            patterns = torch.stack(
                [stripes[:, None].expand(6, 6), stripes[None].expand(6, 6), torch.zeros(6, 6)]
            )
            disturbed = noise * torch.randn(n, 1, 6, 6, generator=generator)
            return Split(patterns[labels][:, None] + disturbed, labels)

        classes = ("across", "down", "plain")
        return DataSet("stripes", split(n_train), split(48), split(48), classes)

    return make


@pytest.fixture(scope="session")
def images(make_images):
    """96 to train on, easy."""
    return make_images(96, 0.5)


@dataclass(frozen=True)
class Made:
    module: type
    argument: int

    def build(self, in_shape):
        return self.module(self.argument)


@pytest.fixture(scope="session")
def make_block():
    """From a module's class to a function from its one argument to a block."""
    return lambda module: partial(Made, module)
