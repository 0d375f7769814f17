"""Zero-cost proxies: what untrained weights say of an architecture, from a batch or two.

Scores rank architectures, higher is better; they have no unit, and differ between proxies, data and
batch sizes. Weights are those of a new network of the architecture.

Reference:
    Abdelfattah et al., Zero-Cost Proxies for Lightweight NAS, ICLR 2021. https://arxiv.org/abs/2101.08134
    (grad_norm, snip and synflow as scores of architectures); the others at each function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode

from hwnas.errors import ConfigError, unknown_name
from hwnas.networks import Network, counts
from hwnas.spaces.base import Architecture
from hwnas.training import seeded

__all__ = ["PROXIES", "usable_proxies", "zero_cost_scores"]

Batch = tuple[Tensor, Tensor]
Proxy = Callable[[Network, Sequence[Batch]], float]

NOISE = 0.01  # of Zen-score's second input, in standard deviations of the first
# Whose inputs' signs are the code of an example; all of them bend at or near 0. Layers call these.
_ACTIVATIONS = frozenset((
    functional.relu, functional.relu_, functional.relu6, functional.leaky_relu, functional.elu,
    functional.gelu, functional.silu, functional.hardswish, functional.tanh, torch.relu,
    torch.relu_, torch.prelu, torch.tanh, Tensor.relu, Tensor.relu_, Tensor.tanh, Tensor.tanh_,
))  # fmt: skip
_NORMALISATIONS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def zero_cost_scores(
    architecture: Architecture,
    batches: Sequence[Batch],
    names: Sequence[str] | None = None,
    *,
    seed: int,
) -> dict[str, float]:
    """Scores of one architecture by proxy; higher is better.

    Args:
        architecture: What is scored.
        batches: Inputs `(n, *input_shape)` as the network takes them, and labels `(n,)`; two or
            more of them for `zico`. The network is put on their device.
        names: Keys of `PROXIES`; None: all that these inputs allow.
        seed: Of the weights, the same for every proxy, and of noise.

    Raises:
        ConfigError: There is no such proxy, or it cannot be computed from these batches.
    """
    if names is None:
        names = usable_proxies(batches)
    scores = {}
    for name in names:
        if name not in PROXIES:
            raise ConfigError(unknown_name("zero-cost proxy", name, PROXIES))
        if obstacle := _obstacle(name, batches):
            raise ConfigError(f"the zero-cost proxy {name!r} needs {obstacle}")
        with seeded(seed):
            network = Network(architecture).train().to(batches[0][0].device if batches else "cpu")
            for layer in network.modules():
                if isinstance(layer, _DropoutNd):
                    layer.eval()  # what it drops would be in the score
            scores[name] = PROXIES[name](network, batches)
    return scores


def usable_proxies(batches: Sequence[Batch]) -> list[str]:
    """Keys of `PROXIES` that can be computed from such batches."""
    return [name for name in PROXIES if not _obstacle(name, batches)]


def _obstacle(name: str, batches: Sequence[Batch]) -> str | None:
    """What the proxy needs and the batches do not have."""
    is_tokens = bool(batches) and not batches[0][0].is_floating_point()
    if name in ("synflow", "zen") and is_tokens:
        return "inputs that are numbers, not token ids"
    if name == "zico" and len(batches) < 2:
        return f"two batches or more, got {len(batches)}"
    return None if batches else "a batch"


def params(network: Network, batches: Sequence[Batch]) -> float:
    """Number of trainable values."""
    return float(sum(p.numel() for p in network.parameters()))


def macs(network: Network, batches: Sequence[Batch]) -> float:
    """Number of multiply-accumulates of one example."""
    return float(counts(network.architecture).macs)


def grad_norm(network: Network, batches: Sequence[Batch]) -> float:
    """Sum over layers of the Euclidean norm of the loss's gradient."""
    _backward(network, batches[0])
    return float(sum(_gradient(weight).norm() for weight in _weights(network)))


def snip(network: Network, batches: Sequence[Batch]) -> float:
    """Sum of |gradient · weight|: by how much the loss would change if connections were cut.

    Reference:
        Lee, Ajanthan, Torr, SNIP, ICLR 2019.
    """
    _backward(network, batches[0])
    return float(sum((_gradient(w) * w.detach()).abs().sum() for w in _weights(network)))


def synflow(network: Network, batches: Sequence[Batch]) -> float:
    """Logarithm of the sum of weight · gradient, all weights positive, without normalisation.

    Needs no data: the input is all ones, the loss the sum of the outputs.

    Reference:
        Tanaka et al., Pruning neural networks without any data, NeurIPS 2020.
    """
    _replace(network, _NORMALISATIONS)
    network.double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    ones = torch.ones_like(batches[0][0][:1], dtype=torch.float64)
    torch.autograd.backward(network(ones).sum())
    total = sum(float((_gradient(w) * w.detach()).sum()) for w in _weights(network))
    return math.log(total) if total > 0 else -math.inf


def naswot(network: Network, batches: Sequence[Batch]) -> float:
    """Log determinant of how alike examples are by which activations they switch on.

    Reference:
        Mellor et al., Neural Architecture Search without Training, ICML 2021 (`hook_logdet`).
    """
    inputs = batches[0][0]
    size = len(inputs), len(inputs)
    kernel = torch.zeros(size, dtype=torch.float64, device=inputs.device)

    def note(given: Tensor) -> None:
        if given.ndim and len(given) == len(inputs):  # not of a weight
            code = (given.detach().flatten(1) > 0).double()
            kernel.add_(code @ code.T + (1 - code) @ (1 - code).T)

    with torch.no_grad(), _Activations(note):
        network(inputs)
    sign, log_determinant = torch.linalg.slogdet(kernel)
    return float(log_determinant) if sign > 0 else -math.inf


def zen(network: Network, batches: Sequence[Batch]) -> float:
    """Zen-score: how far features move with a random input, in networks of Gaussian weights.

    Features are what the last block but the head gives; what batch norms scale down is added.

    Reference:
        Lin et al., Zen-NAS, ICCV 2021, algorithm 1.
    """
    with torch.no_grad():
        for weight in _weights(network):
            nn.init.normal_(weight)
    scaled: list[Tensor] = []

    def note(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        axes = [axis for axis in range(given[0].ndim) if axis != 1]
        scaled.append(given[0].var(dim=axes, unbiased=False).mean().sqrt())

    features = network.blocks[:-1]
    x = torch.randn_like(batches[0][0])
    moved = x + NOISE * torch.randn_like(x)
    with torch.no_grad():
        handles = [
            module.register_forward_pre_hook(note)
            for module in features.modules()
            if isinstance(module, _BATCH_NORMS)
        ]
        first = features(x)
        for handle in handles:
            handle.remove()
        distance = (first - features(moved)).abs().flatten(1).sum(dim=1).mean()
        log_scale = sum(float(torch.log(scale)) for scale in scaled)
    return float(torch.log(distance)) + log_scale


def zico(network: Network, batches: Sequence[Batch]) -> float:
    """Sum over layers of the log of Σ mean |gradient| / its deviation over batches.

    Reference:
        Li et al., ZiCo: Zero-shot NAS via inverse coefficient of variation on gradients, ICLR 2023.
    """
    gradients: list[list[Tensor]] = []
    for batch in batches:
        network.zero_grad()
        _backward(network, batch)
        gradients.append([_gradient(w).clone() for w in _weights(network)])
    total = 0.0
    for of_layer in zip(*gradients, strict=True):
        stacked = torch.stack(of_layer)
        deviation = stacked.std(dim=0, unbiased=False)
        varies = deviation > 0
        ratio = float((stacked.abs().mean(dim=0)[varies] / deviation[varies]).sum())
        total += math.log(ratio) if ratio > 0 else 0.0
    return total


PROXIES: Mapping[str, Proxy] = {
    "params": params,
    "macs": macs,
    "grad_norm": grad_norm,
    "snip": snip,
    "synflow": synflow,
    "naswot": naswot,
    "zen": zen,
    "zico": zico,
}


class _Activations(TorchFunctionMode):
    """Tells what each activation is given, whether a layer is one or a forward calls it."""

    def __init__(self, note: Callable[[Tensor], None]) -> None:
        super().__init__()
        self._note = note

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in _ACTIVATIONS:
            self._note(args[0] if args else kwargs["input"])
        return func(*args, **(kwargs or {}))


def _backward(network: Network, batch: Batch) -> None:
    inputs, labels = batch
    torch.autograd.backward(functional.cross_entropy(network(inputs), labels))


def _weights(network: Network) -> list[Tensor]:
    """Weights of convolutions, linear and recurrent layers, in the order of the network."""
    layers = (nn.Conv1d, nn.Conv2d, nn.Linear)
    found: list[Tensor] = []
    for module in network.modules():
        if isinstance(module, layers):
            found.append(module.weight)
        elif isinstance(module, nn.RNNBase):
            found += [weight for weight in module.parameters() if weight.ndim > 1]
    return found


def _gradient(weight: Tensor) -> Tensor:
    """Of the last backward; zeros for a weight that the outputs do not depend on."""
    return torch.zeros_like(weight) if weight.grad is None else weight.grad.detach()


def _replace(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> None:
    """Put nothing in the place of all layers of those kinds."""
    for name, child in list(module.named_children()):
        if isinstance(child, kinds):
            setattr(module, name, nn.Identity())
        else:
            _replace(child, kinds)
