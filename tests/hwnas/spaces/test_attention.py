import math

import pytest
import torch

from hwnas.networks import count
from hwnas.spaces.attention import SelfAttention, SequenceHead, TokenEmbedding, TransformerBlock
from hwnas.supernet.shared_weights import layouts, take


def random_weights(module):
    """All parameters normal, biases and scales too, so that none is forgotten unseen."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.3)
    return module.eval()


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_that_of_torch_where_heads_fill_the_features(causal):
    ours = random_weights(SelfAttention((7, 24), 4, 6, causal=causal))
    theirs = torch.nn.MultiheadAttention(24, 4, batch_first=True).eval()
    packed = [ours.query, ours.key, ours.value]
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([part.weight for part in packed]))
        theirs.in_proj_bias.copy_(torch.cat([part.bias for part in packed]))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
        x = torch.randn(2, 7, 24)
        mask = torch.triu(torch.ones(7, 7, dtype=torch.bool), 1) if causal else None
        expected, _ = theirs(x, x, x, attn_mask=mask, need_weights=False)
        torch.testing.assert_close(ours(x), expected, atol=1e-5, rtol=1e-5)


def test_parts_of_an_attention_are_one_of_fewer_and_narrower_heads_and_fewer_features():
    large = random_weights(SelfAttention((5, 24), 4, 8, causal=False))
    features, heads, head_dim = 16, 3, 4
    small = SelfAttention((5, features), heads, head_dim, causal=False).eval()
    wholes = {name: layout for name, _, layout in layouts(large)}
    with torch.no_grad():
        for name, _, part in layouts(small):
            shared = large.get_parameter(name)
            small.get_parameter(name).copy_(take(shared, wholes[name], part))
        x = torch.randn(2, 5, features)
        # By hand, head by head, from the large one's weights.
        expected = large.out.bias[:features].expand(2, 5, features).clone()
        for h in range(heads):
            rows = slice(8 * h, 8 * h + head_dim)  # of the h-th of four heads of eight
            q, k, v = (
                x @ part.weight[rows, :features].T + part.bias[rows]
                for part in (large.query, large.key, large.value)
            )
            attended = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(head_dim), dim=-1) @ v
            expected += attended @ large.out.weight[:features, rows].T
        torch.testing.assert_close(small(x), expected, atol=1e-5, rtol=1e-5)


def test_a_causal_layer_ignores_what_comes_later_and_another_does_not():
    torch.manual_seed(0)
    x = torch.randn(1, 6, 16)
    changed = x.clone()
    changed[:, 4:] = torch.randn(1, 2, 16)
    for causal in (True, False):
        layer = random_weights(TransformerBlock(2, 8, 2.0, causal).build((6, 16)))
        with torch.no_grad():
            is_same = torch.isclose(layer(x), layer(changed), atol=1e-6).all(dim=2)[0]
        assert is_same.tolist() == ([True] * 4 + [False] * 2 if causal else [False] * 6)


def test_a_layer_has_the_parameters_of_its_parts_whatever_its_heads_add_up_to():
    counted = count(TransformerBlock(heads=3, head_dim=8, mlp_ratio=2.5), (10, 16))
    query_key_value = 3 * (16 * 24 + 24)
    out = 24 * 16 + 16
    mlp = (16 * 40 + 40) + (40 * 16 + 16)
    norms = 2 * (16 + 16)
    assert counted.params == query_key_value + out + mlp + norms
    assert counted.out_shape == (10, 16)


def test_macs_of_a_layer_are_those_of_its_maps_and_of_its_pairs_of_tokens():
    counted = count(TransformerBlock(heads=3, head_dim=8, mlp_ratio=2.5), (10, 16))
    maps = 10 * (4 * 16 * 24 + 2 * 16 * 40)
    scores_and_sums = 2 * 3 * 10 * 10 * 8
    assert counted.macs == maps + scores_and_sums


def test_an_embedding_adds_a_vector_for_the_token_and_one_for_its_position():
    embedding = TokenEmbedding(vocabulary=11, features=4).build((3,))
    y = embedding(torch.tensor([[5, 5, 10]]))
    torch.testing.assert_close(y[0, 2], embedding.tokens.weight[10] + embedding.position[2])
    torch.testing.assert_close(y[0, 1] - y[0, 0], embedding.position[1] - embedding.position[0])


def test_a_head_reads_the_mean_the_last_item_or_each():
    x = torch.randn(2, 5, 8)
    heads = {
        pooling: random_weights(SequenceHead(3, pooling).build((5, 8)))
        for pooling in ("mean", "last", "none")
    }
    with torch.no_grad():
        each = heads["none"](x)
        assert each.shape == (2, 5, 3)
        # The same weights; linear layers and means change places.
        torch.testing.assert_close(heads["last"](x), each[:, -1])
        torch.testing.assert_close(heads["mean"](x), each.mean(dim=1))
