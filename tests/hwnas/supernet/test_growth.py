"""Networks that start from the weights of others of their space."""

from functools import partial

import pytest
import torch

from hwnas.blocks import ClassifierHead, ConvBlock, InvertedResidual
from hwnas.networks import Network
from hwnas.spaces.base import Choice, SearchSpace
from hwnas.supernet.growth import grow
from hwnas.training import seeded

SMALL = {"width": 8, "depth": 1, "kernel": 3, "features": 8}


def _bottleneck(i, options):
    if i > options["depth"]:
        return None
    return InvertedResidual(options["width"], options["kernel"], 1, 2, i == 1, "relu")


@pytest.fixture(scope="module")
def image_space():
    """Every block after the first keeps the shape."""
    choices = (
        Choice("width", (8, 16)),
        Choice("depth", (1, 2)),
        Choice("kernel", (3, 5)),
        Choice("features", (8, 12)),
    )
    slots = (
        lambda options: ConvBlock(options["width"], 3, 1, "relu"),
        *(partial(_bottleneck, i) for i in (1, 2)),
        lambda options: ClassifierHead(options["features"], 3, "relu"),
    )
    return SearchSpace("images", choices, lambda options: (1, 6, 6), slots)


def made(space, **options):
    """A network with statistics of its own, and its genotype."""
    genotype = tuple(c.options.index((SMALL | options)[c.name]) for c in space.choices)
    with seeded(len(options)):
        network = Network(space.architecture(genotype))
        with torch.no_grad():
            for values in network.buffers():
                if values.is_floating_point():
                    values.uniform_(0.5, 1.5)
            for values in network.parameters():
                values += 0.1 * torch.randn(values.shape)
    return network.eval(), genotype


def grown(space, parent, parent_genotype, **options):
    child = made(space, **options)[1]
    network = Network(space.architecture(child))
    grow(network, child, parent, parent_genotype, space)
    return network.eval()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"width": 16},
        {"kernel": 5},
        {"depth": 2},
        {"features": 12},
        {"width": 16, "kernel": 5, "depth": 2, "features": 12},
    ],
    ids=lambda options: "-".join(options) or "same",
)
def test_a_larger_network_begins_with_the_function_of_its_parent(image_space, options):
    parent, genotype = made(image_space)
    child = grown(image_space, parent, genotype, **options)
    x = torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(child(x), parent(x), rtol=1e-4, atol=1e-5)


def test_all_of_what_was_grown_can_learn(image_space):
    parent, genotype = made(image_space)
    child = grown(image_space, parent, genotype, width=16, depth=2).train()
    x = torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    for _ in range(2):  # what is read with weights 0 gets gradients as soon as those move
        child.zero_grad()
        child(x).square().sum().backward()
        with torch.no_grad():
            for values in child.parameters():
                values -= 1e-3 * values.grad
    assert all(bool((values.grad != 0).any()) for values in child.parameters())


def test_a_smaller_network_begins_with_a_part_of_its_parent(image_space):
    parent, genotype = made(image_space, width=16)
    child = grown(image_space, parent, genotype)
    mine, theirs = child.state_dict(), parent.state_dict()
    for name, values in mine.items():
        assert torch.equal(values, theirs[name][tuple(slice(n) for n in values.shape)]), name


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_gates_and_embeddings_grow_with_their_function(token_space, make_inputs, cell):
    small, large = (
        {"features": n, "attend": False, "cell": cell, "hidden": m} for n, m in ((4, 3), (8, 6))
    )
    genotypes = [
        tuple(c.options.index(options[c.name]) for c in token_space.choices)
        for options in (small, large)
    ]
    with seeded(0):
        parent, child = (Network(token_space.architecture(g)).eval() for g in genotypes)
    grow(child, genotypes[1], parent, genotypes[0], token_space)
    x = make_inputs(token_space, genotypes[0])
    with torch.no_grad():
        torch.testing.assert_close(child(x), parent(x), rtol=1e-4, atol=1e-6)


def test_where_the_function_cannot_be_kept_it_is_a_start_all_the_same(token_space, make_inputs):
    genotypes = [(0, 1, 0, 0), (1, 0, 1, 1)]  # no attention, another cell
    with seeded(0):
        parent, child = (Network(token_space.architecture(g)).eval() for g in genotypes)
    grow(child, genotypes[1], parent, genotypes[0], token_space)
    known = parent.state_dict()["blocks.0.weight"]
    assert torch.equal(child.state_dict()["blocks.0.weight"][:, :4], known)
    assert torch.isfinite(child(make_inputs(token_space, genotypes[1]))).all()
