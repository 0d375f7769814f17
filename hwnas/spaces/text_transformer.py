"""The `text_transformer` space: encoders that classify texts of token ids.

References:
    Turc et al., Well-Read Students Learn Better, 2019: the sizes for large vocabularies are those
    of its 24 miniatures of BERT. https://arxiv.org/abs/1908.08962
    Hou et al., DynaBERT, 2020: fewer heads and a narrower MLP in any layer.
    https://arxiv.org/abs/2004.04037
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from hwnas.spaces.attention import SequenceHead, TokenEmbedding, TransformerPlan
from hwnas.spaces.base import SearchSpace, Shape

_SMALL = TransformerPlan(
    embed_dims=(32, 64, 128), depths=(1, 2, 3, 4), heads=(1, 2, 4), head_dim=16,
    mlp_ratios=(1.0, 2.0, 4.0),
)  # fmt: skip
_LARGE = TransformerPlan(
    embed_dims=(128, 256, 512, 768), depths=(2, 4, 6, 8, 10, 12), heads=(2, 4, 8, 12), head_dim=64,
    mlp_ratios=(1.0, 2.0, 4.0),
)  # fmt: skip
SMALL_UP_TO = 8192  # tokens; a small vocabulary comes with little text


def text_transformer_space(input_shape: Shape, n_classes: int, vocabulary: int) -> SearchSpace:
    """Pre-norm transformer encoders for token ids of `input_shape`, `(length,)`.

    Choices: the features of a token, the number of layers, and for each layer its heads and the
    width of its MLP. Classes are read from the mean over all positions; padding is a token like
    any other.

    Args:
        input_shape: Of one text.
        n_classes: Logits.
        vocabulary: Ids are in `[0, vocabulary)`.

    Raises:
        ValueError: The data are no sequences of token ids, or there are fewer than two tokens.
    """
    head = SequenceHead(n_classes, "mean")
    return token_space("text_transformer", input_shape, vocabulary, head, causal=False)


def token_space(
    name: str, input_shape: Shape, vocabulary: int, head: SequenceHead, *, causal: bool
) -> SearchSpace:
    """Embedding, layers and `head`, sized by the vocabulary.

    Raises:
        ValueError: The data are no sequences of token ids, or there are fewer than two tokens.
    """
    if len(input_shape) != 1 or input_shape[0] < 1 or vocabulary < 2:
        raise ValueError(
            f"the {name} space needs token ids of shape (length,) and a vocabulary of at least 2, "
            f"got shape {input_shape} and vocabulary {vocabulary}"
        )
    plan = _SMALL if vocabulary <= SMALL_UP_TO else _LARGE
    return SearchSpace(
        name=name,
        choices=tuple(plan.choices()),
        input_shape=partial(_input_shape, input_shape),
        slots=(
            partial(_embedding, vocabulary),
            *plan.layers(causal=causal),
            partial(_head, head),
        ),
        input_type="int64",
    )


def _input_shape(shape: Shape, options: Mapping[str, Any]) -> Shape:
    return shape


def _embedding(vocabulary: int, options: Mapping[str, Any]) -> TokenEmbedding:
    return TokenEmbedding(vocabulary, options["embed_dim"])


def _head(head: SequenceHead, options: Mapping[str, Any]) -> SequenceHead:
    return head
