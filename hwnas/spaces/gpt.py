"""The `gpt` space: decoders that see a token and those before it.

References:
    Radford et al., Language Models are Unsupervised Multitask Learners (GPT-2), 2019: pre-norm
    layers, learned positions, a last norm; its small model is the largest network for large
    vocabularies.
    Javaheripi et al., LiteTransformerSearch, 2022: heads and MLP of every layer of a decoder are
    searched. https://arxiv.org/abs/2203.02094
"""

from __future__ import annotations

from hwnas.spaces.attention import SequenceHead
from hwnas.spaces.base import SearchSpace, Shape
from hwnas.spaces.text_transformer import token_space


def gpt_space(
    input_shape: Shape, n_classes: int, vocabulary: int, *, language_model: bool = False
) -> SearchSpace:
    """Causal transformers for token ids of `input_shape`, `(length,)`.

    Choices: the features of a token, the number of layers, and for each layer its heads and the
    width of its MLP. The output's weights are its own, not those of the embedding.

    Args:
        input_shape: Of one sequence.
        n_classes: Logits, read at the last position, which has seen the whole sequence.
        vocabulary: Ids are in `[0, vocabulary)`.
        language_model: Give `(length, vocabulary)` logits of each next token instead of
            `n_classes`.

    Raises:
        ValueError: The data are no sequences of token ids, or there are fewer than two tokens.
    """
    head = SequenceHead(vocabulary, "none") if language_model else SequenceHead(n_classes, "last")
    return token_space("gpt", input_shape, vocabulary, head, causal=True)
