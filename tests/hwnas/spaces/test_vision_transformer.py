import numpy as np
import pytest
import torch

from hwnas.spaces.attention import SequenceHead, TransformerBlock
from hwnas.spaces.vision_transformer import PatchEmbedding, vit_space


def vit(embed_dim, heads, depth, *, head_dim=64, patch=16, mlp_ratio=4.0, n_classes=1000):
    return (
        PatchEmbedding(patch, embed_dim, class_token=True),
        *[TransformerBlock(heads, head_dim, mlp_ratio)] * depth,
        SequenceHead(n_classes, "last"),
    )


def n_params(blocks, in_shape):
    """Parameters of blocks in a row, without memory for them."""
    total = 0
    with torch.device("meta"), torch.no_grad():
        x = torch.zeros((1, *in_shape))
        for block in blocks:
            module = block.build(tuple(x.shape[1:]))
            total += sum(p.numel() for p in module.parameters())
            x = module(x)
    return total


# Of timm's vit_tiny, vit_small and vit_base_patch16_224; Touvron et al., DeiT, 2021, table 1 has
# 5M, 22M and 86M for the same networks.
@pytest.mark.parametrize(
    ("embed_dim", "heads", "published"),
    [(192, 3, 5_717_416), (384, 6, 22_050_664), (768, 12, 86_567_656)],
)
def test_parameters_are_the_published_ones_of_tiny_small_and_base(embed_dim, heads, published):
    assert n_params(vit(embed_dim, heads, 12), (3, 224, 224)) == published


def test_parameters_are_those_of_vit_lite_but_for_biases_that_its_code_leaves_out():
    # Hassani et al., 2021, table 2: ViT-Lite-6/4 has 3.19M, ViT-Lite-7/4 3.72M; its queries, keys
    # and values have no bias.
    for depth, published in ((6, 3.191e6), (7, 3.717e6)):
        blocks = vit(256, 4, depth, patch=4, mlp_ratio=2.0, n_classes=10)
        assert abs(n_params(blocks, (3, 32, 32)) - 3 * 256 * depth - published) < 500


def test_the_choices_for_large_images_are_those_of_autoformer_tiny():
    # Chen et al., 2021, table 1; here besides: how the class is read.
    space = vit_space((3, 224, 224), 1000)
    options = {choice.name: choice.options for choice in space.choices}
    assert options["embed_dim"] == (192, 216, 240) and options["depth"] == (12, 13, 14)
    assert options["heads_14"] == (3, 4) and options["mlp_ratio_14"] == (3.5, 4.0)
    assert space.size == 2 * 3 * 3 * (2 * 2) ** 14


def test_deit_tiny_is_in_the_space():
    space = vit_space((3, 224, 224), 1000)
    wanted = {"pooling": "class", "embed_dim": 192, "depth": 12}
    genotype = tuple(
        choice.index(wanted.get(choice.name, 3 if choice.name.startswith("heads") else 4.0))
        for choice in space.choices
    )
    assert space.architecture(genotype).blocks == vit(192, 3, 12)


def test_patches_have_the_same_positions_with_and_without_a_class_token():
    torch.manual_seed(0)
    plain = PatchEmbedding(2, 8, class_token=False).build((1, 6, 6))
    tokened = PatchEmbedding(2, 8, class_token=True).build((1, 6, 6))
    assert plain.position.shape == (9, 8) and tokened.position.shape == (10, 8)
    with torch.no_grad():
        plain.position.copy_(tokened.position[:9])
        plain.patches.load_state_dict(tokened.patches.state_dict())
        x = torch.randn(2, 1, 6, 6)
        torch.testing.assert_close(tokened(x)[:, :9], plain(x))
        token = tokened.class_token + tokened.position[9]
        torch.testing.assert_close(tokened(x)[:, 9], token.expand(2, 8))


def test_patches_are_read_row_by_row():
    module = PatchEmbedding(2, 1, class_token=False).build((1, 4, 4))
    with torch.no_grad():
        module.patches.weight.fill_(0.25)
        module.patches.bias.zero_()
        module.position.zero_()
        x = torch.arange(4.0).reshape(1, 1, 2, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
        assert module(x).flatten().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("side", "resolution", "patch"),
    [(8, 8, 2), (9, 8, 2), (16, 16, 2), (28, 28, 4), (32, 32, 4), (65, 64, 8), (224, 224, 16)],
)
def test_patches_grow_with_the_images_which_become_a_multiple_of_them(side, resolution, patch):
    space = vit_space((3, side, side), 10)
    architecture = space.architecture((0,) * len(space.choices))
    assert architecture.input_shape == (3, resolution, resolution)
    assert architecture.blocks[0].patch_size == patch


@pytest.mark.parametrize("shape", [(1, 28, 32), (1, 7, 7), (8, 8), (16,)])
def test_what_is_no_square_image_is_refused(shape):
    with pytest.raises(ValueError, match=r"square images .* at least 8×8, got shape \("):
        vit_space(shape, 10)


def test_layers_beyond_the_depth_and_their_choices_are_inactive():
    space = vit_space((1, 8, 8), 10)
    shallow = [choice.name == "depth" for choice in space.choices].index(True)
    genotypes = space.sample(np.random.default_rng(0), 50)
    genotypes[:, shallow] = 0  # one layer
    active = space.active(genotypes)
    names = [choice.name for choice in space.choices]
    assert active[:, [names.index("heads_1"), names.index("mlp_ratio_1")]].all()
    assert not active[:, [names.index("heads_2"), names.index("mlp_ratio_4")]].any()
    assert len(space.architecture(tuple(genotypes[0])).blocks) == 3  # patches, layer, head
