"""Networks of strangers to predict: configurations of `transformers` with random weights.

They are sized so that one run takes about 1 to 100 ms on one core of a server CPU. Nothing is
downloaded. `transformers` is imported when the first one is made.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from importlib import import_module
from typing import Any

import onnx
import torch
from torch import nn

from hwnas.errors import ConfigError
from hwnas.export import to_onnx
from hwnas.training import seeded
from profilers.errors import ModelError

N_TOKENS, N_WORDS = 64, 1000
MAX_QUOTED = 200
CLIP_SAMPLES = 8000  # half a second of sound at 16 kHz

Made = tuple[nn.Module, torch.Tensor]


class _First(nn.Module):
    """A model that returns several things under names, as one tensor to one tensor."""

    def __init__(self, model: nn.Module, **constants: torch.Tensor) -> None:
        super().__init__()
        self.model, self.constants = model, constants

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.model(x, **self.constants)[0]
        return output


def _images(size: int) -> torch.Tensor:
    return torch.zeros(1, 3, size, size)


def _tokens() -> torch.Tensor:
    return torch.zeros(1, N_TOKENS, dtype=torch.int64)


def _resnet_18(t: Any) -> Made:
    config = t.ResNetConfig(
        embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic"
    )
    return t.ResNetForImageClassification(config), _images(128)


def _resnet_bottleneck(t: Any) -> Made:
    config = t.ResNetConfig(
        embedding_size=32, hidden_sizes=[128, 256, 512, 1024], depths=[2, 3, 3, 2],
        layer_type="bottleneck",
    )  # fmt: skip
    return t.ResNetForImageClassification(config), _images(128)


def _mobilenet_v2(t: Any) -> Made:
    return t.MobileNetV2ForImageClassification(t.MobileNetV2Config(image_size=160)), _images(160)


def _convnext(t: Any) -> Made:
    config = t.ConvNextConfig(hidden_sizes=[48, 96, 192, 384], depths=[2, 2, 6, 2], image_size=128)
    return t.ConvNextForImageClassification(config), _images(128)


def _efficientnet(t: Any) -> Made:
    config = t.EfficientNetConfig(
        image_size=160, width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280,
        dropout_rate=0.2,
    )  # fmt: skip
    return t.EfficientNetForImageClassification(config), _images(160)


def _regnet(t: Any) -> Made:
    config = t.RegNetConfig(
        embedding_size=32, hidden_sizes=[64, 128, 288, 672], depths=[1, 2, 4, 1], groups_width=16,
        layer_type="y",
    )  # fmt: skip
    return t.RegNetForImageClassification(config), _images(160)


def _vit(t: Any) -> Made:
    config = t.ViTConfig(
        hidden_size=192, num_hidden_layers=8, num_attention_heads=3, intermediate_size=768,
        image_size=160, patch_size=16, attn_implementation="eager",
    )  # fmt: skip
    return t.ViTForImageClassification(config), _images(160)


def _deit(t: Any) -> Made:
    config = t.DeiTConfig(
        hidden_size=256, num_hidden_layers=6, num_attention_heads=4, intermediate_size=1024,
        image_size=128, patch_size=16, attn_implementation="eager",
    )  # fmt: skip
    return t.DeiTForImageClassification(config), _images(128)


def _swin(t: Any) -> Made:
    config = t.SwinConfig(
        image_size=112, patch_size=4, embed_dim=48, depths=[2, 2, 4], num_heads=[3, 6, 12],
        window_size=7, attn_implementation="eager",
    )  # fmt: skip
    return t.SwinForImageClassification(config), _images(112)


def _mobilevit(t: Any) -> Made:
    config = t.MobileViTConfig(
        image_size=128, hidden_sizes=[96, 120, 144], neck_hidden_sizes=[16, 32, 64, 96, 128, 160,
        640], attn_implementation="eager",
    )  # fmt: skip
    return t.MobileViTForImageClassification(config), _images(128)


def _segformer(t: Any) -> Made:
    config = t.SegformerConfig(image_size=128, attn_implementation="eager")
    return t.SegformerForSemanticSegmentation(config), _images(128)


def _bert(t: Any) -> Made:
    config = t.BertConfig(
        vocab_size=N_WORDS, hidden_size=256, num_hidden_layers=4, num_attention_heads=4,
        intermediate_size=1024, attn_implementation="eager",
    )  # fmt: skip
    return t.BertModel(config), _tokens()


def _distilbert(t: Any) -> Made:
    config = t.DistilBertConfig(
        vocab_size=N_WORDS, dim=384, n_layers=3, n_heads=6, hidden_dim=1536,
        attn_implementation="eager",
    )  # fmt: skip
    return t.DistilBertModel(config), _tokens()


def _wav2vec2(t: Any) -> Made:
    config = t.Wav2Vec2Config(
        vocab_size=32, hidden_size=192, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=768, conv_dim=(128,) * 7, num_conv_pos_embeddings=32,
        num_conv_pos_embedding_groups=8, attn_implementation="eager",
    )  # fmt: skip
    return t.Wav2Vec2Model(config), torch.zeros(1, CLIP_SAMPLES)


def _gpt2(t: Any) -> Made:
    config = t.GPT2Config(
        vocab_size=N_WORDS, n_positions=128, n_embd=256, n_layer=4, n_head=4, use_cache=False,
        bos_token_id=0, eos_token_id=0, attn_implementation="eager",
    )  # fmt: skip
    # Given a mask, it does not ask of the positions whether several texts are packed into one.
    return _First(t.GPT2Model(config), attention_mask=torch.ones_like(_tokens())), _tokens()


ZOO: dict[str, Callable[[Any], Made]] = {
    "resnet-18": _resnet_18,
    "resnet-bottleneck": _resnet_bottleneck,
    "mobilenet-v2": _mobilenet_v2,
    "convnext": _convnext,
    "efficientnet": _efficientnet,
    "regnet-y": _regnet,
    "vit": _vit,
    "deit": _deit,
    "swin": _swin,
    "mobilevit": _mobilevit,
    "segformer": _segformer,
    "bert": _bert,
    "distilbert": _distilbert,
    "wav2vec2": _wav2vec2,
    "gpt2": _gpt2,
}


def export_zoo_model(name: str) -> onnx.ModelProto:
    """The network of `ZOO` as ONNX, with random weights from a fixed seed.

    Raises:
        ConfigError: `transformers` is not installed.
        ModelError: It cannot be exported; the message says why.
    """
    try:
        transformers = import_module("transformers")
    except ImportError as error:
        raise ConfigError(
            f"{name} is a configuration of transformers, which cannot be imported ({error}); "
            "install it: pip install 'hwnas[bench]'"
        ) from None
    transformers.logging.set_verbosity_error()
    try:
        # The exporter prints the whole graph of a model that it cannot export.
        with contextlib.redirect_stdout(io.StringIO()), seeded(0):
            model, example = ZOO[name](transformers)
            module = model if isinstance(model, _First) else _First(model)
            return to_onnx(module, [example], input_names=["input"], output_names=["output"])
    except Exception as error:  # of a library that promises none in particular
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:MAX_QUOTED]}"
        raise ModelError(f"{name} cannot be made or exported: {reason}") from error
