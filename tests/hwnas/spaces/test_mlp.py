import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from hwnas.networks import Network, counts
from hwnas.spaces.base import Architecture
from hwnas.spaces.mlp import DenseBlock, LinearBlock, ResidualDenseBlock, mlp_space


def test_a_plain_network_of_lenet_300_100s_widths_has_its_parameters():
    # LeCun et al., 1998; Han et al., Learning both Weights and Connections, 2015, table 1: 267K.
    blocks = (DenseBlock(300, "none", "relu"), DenseBlock(100, "none", "relu"), LinearBlock(10))
    counted = counts(Architecture((784,), blocks))
    assert counted.params == 784 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10 == 266_610
    assert counted.macs == 784 * 300 + 300 * 100 + 100 * 10


def residual_network(depth, *, width=16, hidden=32, features=5, n_classes=3):
    blocks = (
        LinearBlock(width),
        *(
            ResidualDenseBlock(hidden, "batch", "relu", is_last=i == depth)
            for i in range(1, depth + 1)
        ),
        LinearBlock(n_classes),
    )
    return Architecture((features,), blocks)


def test_a_residual_network_has_the_parameters_of_the_papers_formula():
    # Gorishniy et al., 2021, section 3.2: Linear; (batch norm, Linear, ReLU, Linear) times depth;
    # batch norm, ReLU, Linear.
    d, h = 16, 32
    block = 2 * d + (d * h + h) + (h * d + d)
    expected = (5 * d + d) + 4 * block + 2 * d + (d * 3 + 3)
    assert counts(residual_network(4)).params == expected


def test_a_residual_network_computes_the_papers_formula():
    torch.manual_seed(0)
    network = Network(residual_network(2)).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):  # as after some training
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    stem, *layers, head = network.blocks
    x = torch.randn(7, 5)
    with torch.no_grad():
        y = stem(x)
        for layer in layers:
            y = y + layer.project(functional.relu(layer.expand(layer.input_norm(y))))
        expected = head(functional.relu(layers[-1].output_norm(y)))
        torch.testing.assert_close(network(x), expected)


def test_the_width_of_a_layer_is_its_own_in_a_plain_network_and_inside_it_in_a_residual_one():
    space = mlp_space((20,), 4)

    def blocks(residual):
        wanted = {"residual": residual, "width": 64, "depth": 2, "norm": "batch",
                  "activation": "gelu", "hidden_1": 128, "hidden_2": 32}  # fmt: skip
        return space.architecture(
            tuple(c.index(wanted.get(c.name, 256)) for c in space.choices)
        ).blocks

    assert blocks(False) == (
        DenseBlock(128, "batch", "gelu"), DenseBlock(32, "batch", "gelu"), LinearBlock(4),
    )  # fmt: skip
    assert blocks(True) == (
        LinearBlock(64),
        ResidualDenseBlock(128, "batch", "gelu", is_last=False),
        ResidualDenseBlock(32, "batch", "gelu", is_last=True),
        LinearBlock(4),
    )


def test_only_residual_networks_have_a_width_besides_those_of_their_layers():
    space = mlp_space((20,), 4)
    genotypes = space.sample(np.random.default_rng(0), 50)
    names = [choice.name for choice in space.choices]
    width, residual = names.index("width"), names.index("residual")
    assert (space.active(genotypes)[:, width] == (genotypes[:, residual] == 1)).all()


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 20)])
def test_what_is_no_table_is_refused(shape):
    with pytest.raises(ValueError, match=r"rows of shape \(features,\), got shape"):
        mlp_space(shape, 2)
