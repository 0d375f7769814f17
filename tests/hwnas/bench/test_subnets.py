import numpy as np
import pytest

from hwnas.bench.subnets import spread_subnets
from hwnas.blocks import ClassifierHead, ConvBlock
from hwnas.errors import ConfigError
from hwnas.networks import counts
from hwnas.spaces.base import Choice, SearchSpace

# 8 to 64 channels, twice: multiply-accumulates rise with each option.
WIDTHS = (8, 16, 32, 64)
SPACE = SearchSpace(
    "widths",
    tuple(Choice(f"width_{i}", WIDTHS) for i in range(4)),
    lambda options: (1, 4, 4),
    (
        *(lambda options, i=i: ConvBlock(options[f"width_{i}"], 3, 1, "relu") for i in range(4)),
        lambda options: ClassifierHead(8, 3, "relu"),
    ),
)


def macs_of(genotypes):
    return np.array([counts(SPACE.architecture(genotype)).macs for genotype in genotypes])


def test_they_lie_between_the_smallest_and_the_largest_evenly_in_the_logarithm():
    found = spread_subnets(SPACE, 12)
    assert len(set(found)) == 12
    assert found[0] == (0, 0, 0, 0) and found[-1] == (3, 3, 3, 3)
    steps = np.diff(np.log(macs_of(found)))
    assert (steps >= 0).all()
    assert steps.max() < 2.5 * np.log(macs_of(found[-1:]) / macs_of(found[:1]))[0] / 11


def test_the_same_ones_are_chosen_again():
    assert spread_subnets(SPACE, 5) == spread_subnets(SPACE, 5)


def test_as_many_as_there_are_can_be_had_and_no_more():
    assert len(spread_subnets(SPACE, 200)) == 200  # 4^4 are 256, nearly all are drawn
    with pytest.raises(ConfigError, match="subnets must be 2 to 2"):
        spread_subnets(SPACE, 257)
