"""Networks of many kinds, drawn at random: what profilers and predictors are tried on.

None of them is in a search space. A profiler or a predictor that holds on families which it was not
made with holds on a user's network too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from hwnas.export import network_to_onnx
from hwnas.training import seeded
from profilers.onnx_models import OnnxModel, make_model

N_CLASSES = 10
CHANNELS_STEP = 8

Drawn = tuple[nn.Module, tuple[int, ...]]


class _Sum(nn.Module):
    """A block's output plus its input, projected where the shapes differ."""

    def __init__(self, block: nn.Module, shortcut: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.block, self.shortcut, self.activation = block, shortcut, activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor = self.activation(self.block(x) + self.shortcut(x))
        return total


class _Concat(nn.Module):
    """The outputs of several branches on the same input, side by side."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class _Encoder(nn.Module):
    """A transformer encoder over patches of an image or over tokens, mean-pooled."""

    def __init__(self, width: int, heads: int, depth: int, ratio: int, tokens: int) -> None:
        super().__init__()
        self.embed = nn.Linear(width, width)
        self.position = nn.Parameter(torch.randn(tokens, width) * 0.02)
        self.layers = nn.ModuleList([_EncoderLayer(width, heads, ratio) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, N_CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x) + self.position
        for layer in self.layers:
            x = layer(x)
        logits: torch.Tensor = self.head(self.norm(x).mean(dim=1))
        return logits


class _EncoderLayer(nn.Module):
    def __init__(self, width: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.Linear(width, ratio * width), nn.GELU(), nn.Linear(ratio * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm_1(x)).reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5).softmax(dim=-1)
        x = x + self.project((weights @ v).transpose(1, 2).reshape(batch, tokens, width))
        total: torch.Tensor = x + self.feed(self.norm_2(x))
        return total


class _Recurrent(nn.Module):
    def __init__(self, kind: str, width: int, hidden: int, depth: int) -> None:
        super().__init__()
        self.rnn = {"gru": nn.GRU, "lstm": nn.LSTM}[kind](width, hidden, depth, batch_first=True)
        self.head = nn.Linear(hidden, N_CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.rnn(x)[0][:, -1])
        return logits


def _conv(
    c_in: int, c_out: int, kernel: int = 3, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU(),
    )


def _head(channels: int) -> Sequence[nn.Module]:
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, N_CLASSES)


def _widths(rng: np.random.Generator, n: int, low: int, high: int) -> list[int]:
    """`n` widths that never fall, log-uniform between the bounds, multiples of the step."""
    drawn = np.exp(np.sort(rng.uniform(np.log(low), np.log(high), n)))
    return [max(CHANNELS_STEP, round(width / CHANNELS_STEP) * CHANNELS_STEP) for width in drawn]


def _size(rng: np.random.Generator) -> int:
    return int(rng.choice([32, 48, 64, 96, 128, 160, 224]))


def _plain(rng: np.random.Generator) -> Drawn:
    size, channels = _size(rng), 3
    layers: list[nn.Module] = []
    for width in _widths(rng, int(rng.integers(2, 5)), 16, 160):
        for _ in range(int(rng.integers(1, 3))):
            layers.append(_conv(channels, width, int(rng.choice([3, 3, 5]))))
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, *_head(channels)), (3, size, size)


def _residual(rng: np.random.Generator) -> Drawn:
    size, bottleneck = _size(rng), bool(rng.integers(2))
    widths = _widths(rng, int(rng.integers(2, 5)), 16, 192)
    layers: list[nn.Module] = [_conv(3, widths[0], 3, 2)]
    channels = widths[0]
    for stage, width in enumerate(widths):
        for i in range(int(rng.integers(1, 4))):
            stride = 2 if stage and not i else 1
            inner = max(CHANNELS_STEP, width // 4) if bottleneck else width
            block = nn.Sequential(
                *([_conv(channels, inner, 1)] if bottleneck else []),
                _conv(inner if bottleneck else channels, inner, 3, stride),
                nn.Conv2d(inner, width, 1 if bottleneck else 3, padding=0 if bottleneck else 1),
            )
            same = stride == 1 and channels == width
            shortcut = nn.Identity() if same else nn.Conv2d(channels, width, 1, stride)
            layers.append(_Sum(block, shortcut, nn.ReLU()))
            channels = width
    return nn.Sequential(*layers, *_head(channels)), (3, size, size)


def _bottleneck(rng: np.random.Generator) -> Drawn:
    size, channels = _size(rng), 16
    layers: list[nn.Module] = [_conv(3, channels, 3, 2)]
    for stage, width in enumerate(_widths(rng, int(rng.integers(2, 5)), 16, 128)):
        for i in range(int(rng.integers(1, 4))):
            stride, ratio = (2 if stage and not i else 1), int(rng.choice([2, 3, 4, 6]))
            block = nn.Sequential(
                _conv(channels, channels * ratio, 1),
                _conv(
                    channels * ratio, channels * ratio, int(rng.choice([3, 5])), stride,
                    groups=channels * ratio,
                ),
                nn.Conv2d(channels * ratio, width, 1),
            )  # fmt: skip
            same = stride == 1 and channels == width
            layers.append(_Sum(block, nn.Identity(), nn.Identity()) if same else block)
            channels = width
    return nn.Sequential(*layers, *_head(channels)), (3, size, size)


def _dense(rng: np.random.Generator) -> Drawn:
    size, growth = _size(rng), int(rng.choice([8, 12, 16, 24, 32]))
    channels = 2 * growth
    layers: list[nn.Module] = [_conv(3, channels, 3, 2)]
    for stage in range(int(rng.integers(2, 4))):
        if stage:
            layers += [_conv(channels, channels // 2, 1), nn.AvgPool2d(2)]
            channels //= 2
        for _ in range(int(rng.integers(2, 7))):
            layers.append(_Concat(nn.Identity(), _conv(channels, growth)))
            channels += growth
    return nn.Sequential(*layers, *_head(channels)), (3, size, size)


def _squeeze(rng: np.random.Generator) -> Drawn:
    size, channels = _size(rng), 32
    layers: list[nn.Module] = [_conv(3, channels, 3, 2)]
    for stage, width in enumerate(_widths(rng, int(rng.integers(2, 4)), 32, 256)):
        if stage:
            layers.append(nn.MaxPool2d(3, 2, 1))
        for _ in range(int(rng.integers(1, 4))):
            squeezed = max(CHANNELS_STEP, width // 4)
            layers += [
                _conv(channels, squeezed, 1),
                _Concat(_conv(squeezed, width // 2, 1), _conv(squeezed, width // 2, 3)),
            ]
            channels = width // 2 * 2
    return nn.Sequential(*layers, *_head(channels)), (3, size, size)


def _transformer(rng: np.random.Generator) -> Drawn:
    heads = int(rng.choice([2, 4, 8]))
    width = heads * int(rng.choice([16, 32, 48, 64]))
    tokens, depth = int(rng.choice([32, 50, 64, 128, 197])), int(rng.integers(1, 9))
    return _Encoder(width, heads, depth, int(rng.choice([2, 4])), tokens), (tokens, width)


def _temporal(rng: np.random.Generator) -> Drawn:
    steps, channels = int(rng.choice([128, 256, 512, 1024])), int(rng.choice([1, 12, 40]))
    c_in, layers = channels, []
    for width in _widths(rng, int(rng.integers(3, 9)), 16, 128):
        kernel, dilation = int(rng.choice([3, 5, 9])), int(rng.choice([1, 2, 4]))
        padding = kernel // 2 * dilation
        layers += [nn.Conv1d(c_in, width, kernel, padding=padding, dilation=dilation), nn.ReLU()]
        c_in = width
    layers += [nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(c_in, N_CLASSES)]
    return nn.Sequential(*layers), (channels, steps)


def _recurrent(rng: np.random.Generator) -> Drawn:
    steps, width = int(rng.choice([16, 32, 64, 128])), int(rng.choice([12, 40, 64]))
    hidden, depth = int(rng.choice([32, 64, 128, 192])), int(rng.integers(1, 4))
    return _Recurrent(str(rng.choice(["gru", "lstm"])), width, hidden, depth), (steps, width)


FAMILIES: dict[str, Callable[[np.random.Generator], Drawn]] = {
    "bottleneck": _bottleneck,
    "residual": _residual,
    "dense": _dense,
    "squeeze": _squeeze,
    "transformer": _transformer,
    "plain": _plain,
    "temporal": _temporal,
    "recurrent": _recurrent,
}


def sample_network(family: str, seed: int, *, batch: int = 1) -> OnnxModel:
    """Draw a network of one of `FAMILIES`; the same seed gives the same network and weights."""
    rng = np.random.default_rng([seed, *family.encode()])
    with seeded(seed):
        module, shape = FAMILIES[family](rng)
    proto = network_to_onnx(module.eval(), shape, batch=batch)
    return make_model(proto, name=f"{family}-{seed}")
