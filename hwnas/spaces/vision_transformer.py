"""The `vit` space: vision transformers, for square images from 8×8 to 224×224 and beyond.

References:
    Dosovitskiy et al., An Image is Worth 16x16 Words, 2020. https://arxiv.org/abs/2010.11929
    Chen et al., AutoFormer, 2021: the choices for large images are those of its tiny supernet,
    without relative positions. https://arxiv.org/abs/2107.00651
    Hassani et al., Escaping the Big Data Paradigm with Compact Transformers, 2021: the largest
    network for medium images is its ViT-Lite-7/4. https://arxiv.org/abs/2104.05704
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hwnas.spaces.attention import EMBEDDING_STD, SequenceHead, TransformerPlan
from hwnas.spaces.base import Choice, SearchSpace, Shape

_SMALL = TransformerPlan(
    embed_dims=(32, 48, 64), depths=(1, 2, 3, 4), heads=(1, 2, 3, 4), head_dim=16,
    mlp_ratios=(1.0, 2.0, 4.0),
)  # fmt: skip
_MEDIUM = TransformerPlan(
    embed_dims=(64, 128, 192, 256), depths=(3, 4, 5, 6, 7), heads=(1, 2, 3, 4), head_dim=64,
    mlp_ratios=(1.0, 1.5, 2.0),
)  # fmt: skip
_LARGE = TransformerPlan(
    embed_dims=(192, 216, 240), depths=(12, 13, 14), heads=(3, 4), head_dim=64,
    mlp_ratios=(3.5, 4.0),
)  # fmt: skip
# (largest side, pixels a side of a patch, plan); the last is for all that are larger
_SIZES = ((16, 2, _SMALL), (64, 4, _MEDIUM), (128, 8, _LARGE))
_LARGE_PATCH = 16
MIN_SIDE = 8


class _Patches(nn.Module):
    """The class token comes last: then patches have the same positions with and without it."""

    def __init__(self, in_shape: Shape, patch_size: int, embed_dim: int, class_token: bool) -> None:
        super().__init__()
        channels, height, width = in_shape
        self.patches = nn.Conv2d(channels, embed_dim, patch_size, stride=patch_size)
        n_patches = (height // patch_size) * (width // patch_size)
        self.position = nn.Parameter(torch.empty(n_patches + class_token, embed_dim))
        nn.init.normal_(self.position, std=EMBEDDING_STD)
        self.class_token: nn.Parameter | None = None
        if class_token:
            self.class_token = nn.Parameter(torch.empty(embed_dim))
            nn.init.normal_(self.class_token, std=EMBEDDING_STD)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        if self.class_token is not None:
            x = torch.cat([x, self.class_token.expand(x.shape[0], 1, -1)], dim=1)
        return x + self.position


@dataclass(frozen=True)
class PatchEmbedding:
    """A linear map of each patch, a class token after them if asked, and learned positions."""

    patch_size: int
    embed_dim: int
    class_token: bool

    def build(self, in_shape: Shape) -> nn.Module:
        """`(c, h, w)` to `(n, embed_dim)`; n: the patches, and the class token."""
        return _Patches(in_shape, self.patch_size, self.embed_dim, self.class_token)


def vit_space(input_shape: Shape, n_classes: int) -> SearchSpace:
    """Vision transformers for images of `input_shape`, `(channels, height, width)`, square.

    The patches' size goes by that of the images, which are resized to a multiple of it. Choices:
    the features of a token, the number of layers, whether the class is read from a token of its
    own or from the mean, and for each layer its heads and the width of its MLP.

    Raises:
        ValueError: The data are no images, not square, or smaller than 8×8.
    """
    if len(input_shape) != 3 or input_shape[1] != input_shape[2] or input_shape[1] < MIN_SIDE:
        raise ValueError(
            f"the vit space needs square images (channels, height, width) of at least "
            f"{MIN_SIDE}×{MIN_SIDE}, got shape {input_shape}"
        )
    channels, side, _ = input_shape
    patch_size, plan = next(
        ((patch, plan) for largest, patch, plan in _SIZES if side <= largest),
        (_LARGE_PATCH, _LARGE),
    )
    resolution = round(side / patch_size) * patch_size
    shape = (channels, resolution, resolution)
    return SearchSpace(
        name="vit",
        choices=(Choice("pooling", ("mean", "class")), *plan.choices()),
        input_shape=partial(_input_shape, shape),
        slots=(
            partial(_stem, patch_size),
            *plan.layers(causal=False),
            partial(_head, n_classes),
        ),
    )


def _input_shape(shape: Shape, options: Mapping[str, Any]) -> Shape:
    return shape


def _stem(patch_size: int, options: Mapping[str, Any]) -> PatchEmbedding:
    return PatchEmbedding(patch_size, options["embed_dim"], options["pooling"] == "class")


def _head(n_classes: int, options: Mapping[str, Any]) -> SequenceHead:
    return SequenceHead(n_classes, "last" if options["pooling"] == "class" else "mean")
