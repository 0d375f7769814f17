import pytest
import torch

from hwnas.networks import Network
from hwnas.spaces.text_transformer import text_transformer_space

BERT_VOCABULARY, BERT_LENGTH = 30_522, 512


def genotype_of(space, *, embed_dim, depth, heads, mlp_ratio):
    wanted = {"embed_dim": embed_dim, "depth": depth, "heads": heads, "mlp_ratio": mlp_ratio}
    names = [choice.name for choice in space.choices]
    options = (wanted.get(name, wanted.get(name.rsplit("_", 1)[0])) for name in names)
    return tuple(c.index(option) for c, option in zip(space.choices, options, strict=True))


def n_params(blocks):
    """Parameters of blocks in a row, without memory for them."""
    total = 0
    with torch.device("meta"), torch.no_grad():
        x = torch.zeros((1, BERT_LENGTH), dtype=torch.int64)
        for block in blocks:
            module = block.build(tuple(x.shape[1:]))
            total += sum(p.numel() for p in module.parameters())
            x = module(x)
    return total


# Turc et al., 2019, table 1: millions of parameters of BERT-Tiny, -Mini, -Small, -Medium and -Base.
@pytest.mark.parametrize(
    ("depth", "features", "millions"),
    [(2, 128, 4.4), (4, 256, 11.3), (4, 512, 29.1), (8, 512, 41.7), (12, 768, 110.1)],
)
def test_the_miniatures_of_bert_are_in_the_space_with_their_parameters(depth, features, millions):
    space = text_transformer_space((BERT_LENGTH,), 2, BERT_VOCABULARY)
    genotype = genotype_of(
        space, embed_dim=features, depth=depth, heads=features // 64, mlp_ratio=4.0
    )
    architecture = space.architecture(genotype)
    head = 2 * features + 2
    # They have two segments and a pooler besides, which a classifier of the mean does not need.
    segments_and_pooler = 2 * features + features * features + features
    total = n_params(architecture.blocks) - head + segments_and_pooler
    assert abs(total / 1e6 - millions) < 0.02 * millions


def test_parameters_are_exactly_those_of_the_reference_implementation():
    transformers = pytest.importorskip("transformers")
    space = text_transformer_space((BERT_LENGTH,), 2, BERT_VOCABULARY)
    genotype = genotype_of(space, embed_dim=128, depth=2, heads=2, mlp_ratio=4.0)
    config = transformers.BertConfig(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512
    )
    with torch.device("meta"):
        reference = transformers.BertModel(config, add_pooling_layer=False)
    theirs = sum(p.numel() for p in reference.parameters()) - 2 * 128  # without segments
    assert n_params(space.architecture(genotype).blocks) - (2 * 128 + 2) == theirs


def test_the_class_is_read_from_all_positions():
    space = text_transformer_space((6,), 3, 20)
    network = Network(space.architecture((0,) * len(space.choices))).eval()
    ids = torch.full((1, 6), 4)
    with torch.no_grad():
        logits = network(ids)
        for position in range(6):
            changed = ids.clone()
            changed[0, position] = 9
            assert not torch.allclose(network(changed), logits, atol=1e-6)


def test_a_small_vocabulary_gets_small_networks():
    small, large = (text_transformer_space((64,), 2, n) for n in (4096, 30_522))
    assert max(small.choices[0].options) <= min(large.choices[0].options)
    assert small.input_type == large.input_type == "int64"


@pytest.mark.parametrize(("shape", "vocabulary"), [((3, 8, 8), 100), ((2, 16), 100), ((16,), 1)])
def test_what_is_no_text_is_refused(shape, vocabulary):
    with pytest.raises(ValueError, match=r"text_transformer space needs token ids .* got shape"):
        text_transformer_space(shape, 2, vocabulary)
