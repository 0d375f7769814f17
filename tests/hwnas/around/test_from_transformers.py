"""Spaces around models of `transformers`, built from their configurations."""

import numpy as np
import pytest
import torch

from hwnas.around import space_around
from hwnas.export import check_parity, network_to_onnx, save_onnx
from hwnas.networks import Network, counts

pytest.importorskip("transformers")
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)  # fmt: skip


def resnet18(widths=(64, 128, 256, 512)):
    config = ResNetConfig(
        embedding_size=widths[0], hidden_sizes=list(widths), depths=[2, 2, 2, 2],
        layer_type="basic", num_labels=10,
    )  # fmt: skip
    return ResNetForImageClassification(config)


def mobilenet_v2(multiplier=1.0):
    config = MobileNetV2Config(depth_multiplier=multiplier, image_size=32, num_labels=10)
    return MobileNetV2ForImageClassification(config)


def vit():
    config = ViTConfig(
        hidden_size=48, num_hidden_layers=4, num_attention_heads=3, intermediate_size=96,
        image_size=32, patch_size=8, num_labels=10,
    )  # fmt: skip
    return ViTForImageClassification(config)


def bert():
    config = BertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=16,
    )  # fmt: skip
    return BertForSequenceClassification(config)


def holds(model, x, tmp_path, *, n_variants):
    """The model itself to the last bit, and variants that are exported as they run."""
    torch.manual_seed(0)
    model.eval()
    space = space_around(model, x)
    whole = Network(space.architecture(tuple(n - 1 for n in space.n_options))).eval()
    with torch.no_grad():
        assert torch.equal(whole(x), model(x).logits)
    for row in space.sample(np.random.default_rng(0), n_variants).tolist():
        architecture = space.architecture(tuple(row))
        network = Network(architecture)
        assert counts(architecture).params == sum(p.numel() for p in network.parameters())
        proto = network_to_onnx(network, x.shape[1:], input_type=space.input_type)
        save_onnx(proto, tmp_path / "variant.onnx", metadata={})
        assert check_parity(tmp_path / "variant.onnx", network, x) <= 1e-4
    return {choice.name: choice.options for choice in space.choices}


def test_resnet_18(tmp_path):
    choices = holds(resnet18((16, 32, 48, 64)), torch.randn(2, 3, 32, 32), tmp_path, n_variants=1)
    stem, stage = "resnet.embedder.embedder.convolution", "resnet.encoder.stages"
    assert choices[f"{stem}.width"] == (8, 16) and choices[f"{stem}.kernel_size"] == (3, 5, 7)
    # Both blocks of the first stage keep shapes; of the others the second.
    assert choices[f"{stage}.0.layers.0.depth"] == (1, 2)
    assert [choices[f"{stage}.{i}.layers.1.depth"] for i in (1, 2, 3)] == [(0, 1)] * 3


def test_mobilenet_v2(tmp_path):
    choices = holds(mobilenet_v2(0.35), torch.randn(2, 3, 32, 32), tmp_path, n_variants=0)
    # Stages of 1 to 4 blocks, the first of which changes shapes.
    depths = [options for name, options in choices.items() if name.endswith(".depth")]
    assert depths == [(0, 1), (1, 2), (1, 2, 3), (1, 2), (1, 2)]
    assert not any("conv_3x3" in name for name in choices)  # depthwise: as wide as what it reads


def test_a_vision_transformer(tmp_path):
    choices = holds(vit(), torch.randn(2, 3, 32, 32), tmp_path, n_variants=1)
    assert choices["vit.layers.0.attention.q_proj.heads"] == (1, 2, 3)
    assert choices["vit.layers.3.mlp.fc1.width"] == (24, 48, 72, 96)
    assert choices["vit.layers.0.depth"] == (2, 3, 4)


def test_bert(tmp_path):
    choices = holds(bert(), torch.randint(0, 60, (2, 12)), tmp_path, n_variants=1)
    assert any(name.endswith(".heads") and o == (1, 2, 3, 4) for name, o in choices.items())


@pytest.mark.slow
@pytest.mark.parametrize("make", [resnet18, mobilenet_v2])
def test_at_the_sizes_of_the_papers(make, tmp_path):
    holds(make(), torch.randn(2, 3, 64, 64), tmp_path, n_variants=4)
