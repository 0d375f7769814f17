import json

import pytest
import torch

from hwnas.blocks import InvertedResidual
from hwnas.networks import counts
from hwnas.spaces.once_for_all import ofa_mobilenet_v3_space

# (kernel size, expansion) of each block of MobileNetV3-Large (its Table 1), stage by stage, but 3
# for the expansions 2.5, 2.3 and 2.3 of three blocks, which OFA does not have.
LARGE = (
    ((3, 4), (3, 3)),
    ((5, 3), (5, 3), (5, 3)),
    ((3, 6), (3, 3), (3, 3), (3, 3)),
    ((3, 6), (3, 6)),
    ((5, 6), (5, 6), (5, 6)),
)


def genotype_of(space, blocks, **options):
    for s, stage in enumerate(blocks, 1):
        options[f"depth_{s}"] = len(stage)
        for b, (kernel_size, expand_ratio) in enumerate(stage, 1):
            options[f"kernel_{s}_{b}"] = kernel_size
            options[f"expand_{s}_{b}"] = expand_ratio
    return space.from_json(json.dumps(options))


def test_mobilenet_v3_large_has_the_published_counts():
    space = ofa_mobilenet_v3_space((3, 224, 224), 1000)
    genotype = genotype_of(space, LARGE, resolution=224, width=1.0)
    with torch.device("meta"):
        found = counts(space.architecture(genotype))
    # Each of the channels that expansion 3 of 80 has more than the published 200, 184 and 184 costs
    # 80 + 9 + 80 weights and two batch norms' scale and shift; the map has 14×14 pixels.
    more = 3 * 240 - (200 + 184 + 184)
    # 5,483,032: torchvision's and timm's mobilenet_v3_large; the paper says 5.4M.
    assert found.params == 5_483_032 + more * (80 + 9 + 80 + 4)
    # The paper says 219M, torchvision 217M.
    assert found.macs - more * (80 + 9 + 80) * 14**2 == pytest.approx(217e6, rel=0.01)


def test_large_images_have_the_published_choices():
    space = ofa_mobilenet_v3_space((3, 224, 224), 1000)
    options = {choice.name: choice.options for choice in space.choices}
    assert options["resolution"] == (128, 160, 192, 224) and options["width"] == (1.0, 1.2)
    for s in range(1, 6):
        assert options[f"depth_{s}"] == (2, 3, 4)
        for b in range(1, 5):
            assert options[f"kernel_{s}_{b}"] == (3, 5, 7)
            assert options[f"expand_{s}_{b}"] == (3, 4, 6)
    assert len(options) == 2 + 5 * (1 + 2 * 4)


def test_a_width_multiplies_all_channels_and_rounds_them():
    space = ofa_mobilenet_v3_space((3, 224, 224), 1000)
    wide = space.architecture(genotype_of(space, LARGE, resolution=128, width=1.2))
    widths = [b.out_channels for b in wide.blocks if isinstance(b, InvertedResidual)]
    # 1.2 · (16, 24, 40, 80, 112, 160) = 19.2, 28.8, 48, 96, 134.4, 192, to multiples of 8.
    assert sorted(set(widths)) == [24, 32, 48, 96, 136, 192]
    assert wide.blocks[-1].features == 1152 and wide.blocks[-1].hidden == 1536
    assert wide.input_shape == (3, 128, 128)


def test_small_images_are_halved_less_often():
    space = ofa_mobilenet_v3_space((1, 28, 28), 10)
    blocks = space.architecture(tuple(n - 1 for n in space.n_options)).blocks
    assert sum(getattr(block, "stride", 1) == 2 for block in blocks) == 2
    assert space.choices[0].options == (16, 20, 24, 28)
