import json

import numpy as np
import pytest
import torch

from hwnas.errors import HwnasError
from hwnas.networks import counts
from hwnas.spaces.regnet import regnet_space, stage_widths

# As the paper's reference code (pycls) configures them:
# initial width, slope, multiplier, depth, channels of a group, squeeze-excite; parameters (of its
# published weights) and MACs.
PUBLISHED = {
    "RegNetX-200MF": ((24, 36.44, 2.49, 13, 8, False), 2_684_792, 200e6),
    "RegNetX-400MF": ((24, 24.48, 2.54, 22, 16, False), 5_157_512, 400e6),
    "RegNetY-200MF": ((24, 36.44, 2.49, 13, 8, True), 3_162_996, 200e6),
    "RegNetY-400MF": ((48, 27.89, 2.09, 16, 8, True), 4_344_144, 400e6),
}
NAMES = ("initial_width", "slope", "multiplier", "depth", "group_width", "squeeze_excite")


def architecture(values):
    space = regnet_space((3, 224, 224), 1000)
    return space.architecture(space.from_json(json.dumps(dict(zip(NAMES, values, strict=True)))))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_have_the_published_counts(name):
    values, params, macs = PUBLISHED[name]
    with torch.device("meta"):
        found = counts(architecture(values))
    assert found.params == params
    assert found.macs == pytest.approx(macs, rel=0.01)


@pytest.mark.parametrize("layer_type", ["x", "y"])
def test_networks_have_the_counts_of_transformers(layer_type):
    transformers = pytest.importorskip("transformers")
    values, *_ = PUBLISHED[f"RegNet{layer_type.upper()}-400MF"]
    config = {
        "x": {"hidden_sizes": [32, 64, 160, 384], "depths": [1, 2, 7, 12], "groups_width": 16},
        "y": {"hidden_sizes": [48, 104, 208, 440], "depths": [1, 3, 6, 6], "groups_width": 8},
    }[layer_type]
    with torch.device("meta"):
        theirs = transformers.RegNetForImageClassification(
            transformers.RegNetConfig(**config, layer_type=layer_type, num_labels=1000)
        )
        found = counts(architecture(values))
    assert found.params == sum(p.numel() for p in theirs.parameters())


# Widths and depths as published, before they are made multiples of the group's width.
@pytest.mark.parametrize(
    ("parameters", "stages"),
    [
        ((24, 36.44, 2.49, 13), ((24, 1), (56, 1), (152, 4), (368, 7))),
        ((48, 27.89, 2.09, 16), ((48, 1), (104, 3), (208, 6), (440, 6))),
        ((56, 35.73, 2.28, 16), ((56, 1), (128, 3), (288, 7), (664, 5))),
    ],
)
def test_widths_are_a_line_that_is_quantised(parameters, stages):
    assert stage_widths(*parameters) == stages


def test_all_widths_are_multiples_of_the_groups_and_each_stage_halves_the_map():
    space = regnet_space((3, 224, 224), 1000)
    for row in space.sample(np.random.default_rng(0), 50).tolist():
        blocks = space.architecture(tuple(row)).blocks[1:-1]
        assert all(block.inner_channels % block.groups == 0 for block in blocks)
        assert sum(block.stride == 2 for block in blocks) == 4
        assert len(blocks) == space.options(tuple(row))["depth"]


def test_a_network_of_six_stages_is_none_of_the_space():
    assert len(stage_widths(24, 36.44, 2.09, 22)) == 6
    with pytest.raises(HwnasError, match="constraint '4 stages', got .* depth=22"):
        architecture((24, 36.44, 2.09, 22, 8, False))
