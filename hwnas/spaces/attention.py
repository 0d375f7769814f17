"""Transformers of every kind: embedding of tokens, layers of attention and MLP, and the head.

Spaces of transformers differ in what stands before the layers and in their `TransformerPlan`.

References:
    Vaswani et al., Attention Is All You Need, 2017. https://arxiv.org/abs/1706.03762
    Xiong et al., On Layer Normalization in the Transformer Architecture, 2020: normalising before
    attention and MLP, not after, trains without a long warm-up. https://arxiv.org/abs/2002.04745
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from hwnas.spaces.base import Choice, Shape, Slot

Pooling = Literal["mean", "last", "none"]
EMBEDDING_STD = 0.02  # of the first weights of embeddings, as in BERT, GPT-2 and ViT


class HeadLinear(nn.Linear):
    """A linear layer to heads (axis 0 of its weight) or from heads (axis 1), one after another."""

    def __init__(self, in_features: int, out_features: int, *, heads: int, axis: int) -> None:
        super().__init__(in_features, out_features)
        self.packed_axes = {"weight": {axis: heads}} | ({"bias": {0: heads}} if axis == 0 else {})


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence to itself; `causal`: of each token to none after it.

    Fewer heads, narrower heads and fewer features than in another attention are all parts of its
    weights; `heads * head_dim` need not be the number of features.
    """

    def __init__(self, in_shape: Shape, heads: int, head_dim: int, *, causal: bool) -> None:
        super().__init__()
        length, features = in_shape
        width = heads * head_dim
        self.causal = causal
        # Known sizes, not those of the input: exported, they are constants.
        self.split, self.joined = (-1, length, heads, head_dim), (-1, length, width)
        self.query = HeadLinear(features, width, heads=heads, axis=0)
        self.key = HeadLinear(features, width, heads=heads, axis=0)
        self.value = HeadLinear(features, width, heads=heads, axis=0)
        self.out = HeadLinear(width, features, heads=heads, axis=1)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, length, features)` to the same shape."""
        query, key, value = (
            part(x).view(self.split).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        attended = functional.scaled_dot_product_attention(
            query, key, value, is_causal=self.causal, scale=1 / math.sqrt(self.split[-1])
        )
        y: Tensor = self.out(attended.transpose(1, 2).reshape(self.joined))
        return y


class TransformerLayer(nn.Module):
    """Attention, then an MLP with GELU; each on normalised input and added to it."""

    def __init__(
        self, in_shape: Shape, heads: int, head_dim: int, hidden: int, *, causal: bool
    ) -> None:
        super().__init__()
        features = in_shape[1]
        self.attention_norm = nn.LayerNorm(features)
        self.attention = SelfAttention(in_shape, heads, head_dim, causal=causal)
        self.mlp_norm = nn.LayerNorm(features)
        self.expand = nn.Linear(features, hidden)
        self.activation = nn.GELU()
        self.project = nn.Linear(hidden, features)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, length, features)` to the same shape."""
        x = x + self.attention(self.attention_norm(x))
        y: Tensor = x + self.project(self.activation(self.expand(self.mlp_norm(x))))
        return y


@dataclass(frozen=True)
class TransformerBlock:
    """One pre-norm layer: attention of `heads` × `head_dim`, MLP of `mlp_ratio` × the features."""

    heads: int
    head_dim: int
    mlp_ratio: float
    causal: bool = False

    def build(self, in_shape: Shape) -> nn.Module:
        """`(length, features)` to the same shape."""
        hidden = round(in_shape[1] * self.mlp_ratio)
        return TransformerLayer(in_shape, self.heads, self.head_dim, hidden, causal=self.causal)


class _Embedding(nn.Module):
    def __init__(self, vocabulary: int, length: int, features: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, features)
        self.position = nn.Parameter(torch.empty(length, features))
        nn.init.normal_(self.tokens.weight, std=EMBEDDING_STD)
        nn.init.normal_(self.position, std=EMBEDDING_STD)

    def forward(self, ids: Tensor) -> Tensor:
        y: Tensor = self.tokens(ids) + self.position
        return y


@dataclass(frozen=True)
class TokenEmbedding:
    """A learned vector for each token id below `vocabulary`, plus one for each position."""

    vocabulary: int
    features: int

    def build(self, in_shape: Shape) -> nn.Module:
        """Token ids `(length,)`, int64, to `(length, features)`."""
        return _Embedding(self.vocabulary, in_shape[0], self.features)


class _Head(nn.Module):
    def __init__(self, features: int, n_outputs: int, pooling: Pooling) -> None:
        super().__init__()
        self.pooling = pooling
        self.norm = nn.LayerNorm(features)
        self.classes = nn.Linear(features, n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x[:, -1] if self.pooling == "last" else x)
        y: Tensor = self.classes(x.mean(dim=1) if self.pooling == "mean" else x)
        return y


@dataclass(frozen=True)
class SequenceHead:
    """Layer norm, then a linear layer on the mean over the sequence, its last item, or each."""

    n_outputs: int
    pooling: Pooling

    def build(self, in_shape: Shape) -> nn.Module:
        """`(length, features)` to `(n_outputs,)`; to `(length, n_outputs)` without pooling."""
        return _Head(in_shape[1], self.n_outputs, self.pooling)


@dataclass(frozen=True)
class TransformerPlan:
    """The options of a space of transformers; heads are `head_dim` wide in all of them."""

    embed_dims: tuple[int, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    head_dim: int
    mlp_ratios: tuple[float, ...]

    def choices(self) -> list[Choice]:
        """Features of a token, number of layers, and for each layer its heads and its MLP."""
        choices = [Choice("embed_dim", self.embed_dims), Choice("depth", self.depths)]
        for i in range(1, max(self.depths) + 1):
            choices += [Choice(f"heads_{i}", self.heads), Choice(f"mlp_ratio_{i}", self.mlp_ratios)]
        return choices

    def layers(self, *, causal: bool) -> list[Slot]:
        """One slot a layer."""
        n_layers = max(self.depths)
        return [partial(_layer, self.head_dim, causal, i) for i in range(1, n_layers + 1)]


def _layer(
    head_dim: int, causal: bool, i: int, options: Mapping[str, Any]
) -> TransformerBlock | None:
    if i > options["depth"]:
        return None
    return TransformerBlock(options[f"heads_{i}"], head_dim, options[f"mlp_ratio_{i}"], causal)
