"""Our networks against the reference implementations of the package `transformers`."""

import pytest
import torch
from torch import nn

from hwnas.networks import Network
from hwnas.spaces.attention import SequenceHead, TokenEmbedding, TransformerBlock
from hwnas.spaces.base import Architecture
from hwnas.spaces.vision_transformer import PatchEmbedding

transformers = pytest.importorskip("transformers")


def with_random_weights(module):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.2)
    return module.eval()


def n_params(module):
    return sum(p.numel() for p in module.parameters())


def of_type(module, *names):
    """Modules of a class, in the order in which the reference defines them."""
    return [m for m in module.modules() if type(m).__name__ in names]


def copy_layer(ours, maps, norms):
    """Copy a layer's weights.

    Args:
        ours: The layer.
        maps: Of query, key, value, out, expand and project: `(out, in)` weight and bias.
        norms: Before attention and before the MLP.
    """
    attention = ours.attention
    parts = (attention.query, attention.key, attention.value, attention.out)
    for part, (weight, bias) in zip((*parts, ours.expand, ours.project), maps, strict=True):
        part.weight.copy_(weight)
        part.bias.copy_(bias)
    for norm, other in zip((ours.attention_norm, ours.mlp_norm), norms, strict=True):
        norm.load_state_dict(other.state_dict())


def test_a_vision_transformer_gives_the_logits_of_the_reference():
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        image_size=16, patch_size=4, num_channels=2, num_labels=5, layer_norm_eps=1e-5,
    )  # fmt: skip
    theirs = with_random_weights(transformers.ViTForImageClassification(config))
    blocks = (PatchEmbedding(4, 32, class_token=True), *[TransformerBlock(4, 8, 2.0)] * 2)
    ours = Network(Architecture((2, 16, 16), (*blocks, SequenceHead(5, "last")))).eval()
    assert n_params(ours) == n_params(theirs)

    stem, *layers, head = ours.blocks
    norms = of_type(theirs, "LayerNorm")
    *maps, classes = of_type(theirs, "Linear")
    with torch.no_grad():
        stem.patches.load_state_dict(of_type(theirs, "Conv2d")[0].state_dict())
        by_shape = {tuple(p.shape): p for p in theirs.parameters()}
        stem.class_token.copy_(by_shape[1, 1, 32][0, 0])
        positions = by_shape[1, 17, 32][0]
        stem.position.copy_(positions.roll(-1, 0))  # their class token is the first, ours the last
        for i, layer in enumerate(layers):
            own = [(m.weight, m.bias) for m in maps[6 * i : 6 * i + 6]]
            copy_layer(layer, own, norms[2 * i : 2 * i + 2])
        head.norm.load_state_dict(norms[-1].state_dict())
        head.classes.load_state_dict(classes.state_dict())
        x = torch.randn(3, 2, 16, 16)
        torch.testing.assert_close(ours(x), theirs(x).logits, atol=1e-4, rtol=1e-4)


def test_a_decoder_gives_the_logits_of_gpt2():
    config = transformers.GPT2Config(
        vocab_size=50, n_positions=12, n_embd=32, n_layer=2, n_head=4, n_inner=64,
        activation_function="gelu", tie_word_embeddings=False,
    )  # fmt: skip
    theirs = with_random_weights(transformers.GPT2LMHeadModel(config))
    layers = [TransformerBlock(4, 8, 2.0, causal=True)] * 2
    blocks = (TokenEmbedding(50, 32), *layers, SequenceHead(50, "none"))
    ours = Network(Architecture((12,), blocks, "int64")).eval()
    assert n_params(ours) == n_params(theirs) + 50  # their output has no bias

    stem, *layers, head = ours.blocks
    norms = of_type(theirs, "LayerNorm")
    maps = [(m.weight.T, m.bias) for m in of_type(theirs, "Conv1D")]  # stored as (in, out)
    tokens, positions = of_type(theirs, "Embedding")
    with torch.no_grad():
        stem.tokens.weight.copy_(tokens.weight)
        stem.position.copy_(positions.weight)
        for i, layer in enumerate(layers):
            (packed, packed_bias), *others = maps[4 * i : 4 * i + 4]
            separate = zip(packed.split(32), packed_bias.split(32), strict=True)
            copy_layer(layer, [*separate, *others], norms[2 * i : 2 * i + 2])
        head.norm.load_state_dict(norms[-1].state_dict())
        head.classes.weight.copy_(theirs.lm_head.weight)
        nn.init.zeros_(head.classes.bias)
        ids = torch.randint(0, 50, (3, 12))
        torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-4, rtol=1e-4)
