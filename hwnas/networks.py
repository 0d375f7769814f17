"""From an architecture to an `nn.Module`, and what can be counted on it without running it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hwnas.spaces.base import Architecture, Block, InputType, Shape, SpaceError

# Layers that give zeros where all their parameters are 0, but can learn from there.
_LAST = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm, nn.Conv1d, nn.Conv2d, nn.Linear,
)  # fmt: skip


@dataclass(frozen=True)
class BlockCounts:
    """What one block does to shapes and counts, for one example.

    Attributes:
        out_shape: Without the batch dimension.
        params: Values of its weights, those that are not trained too.
        macs: Multiply-accumulates of convolutions, matrix products, attention and recurrent layers.
    """

    out_shape: Shape
    params: int
    macs: int


class Network(nn.Module):
    """The blocks of an architecture in a row: `(n, *input_shape)` to the last block's output.

    Convolutions and linear layers begin with the weights of `_initialise`, all other layers with
    those that they give themselves; so do all layers of a block whose module says `keeps_weights`.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        shape, input_type = architecture.input_shape, architecture.input_type
        blocks = []
        for block in architecture.blocks:
            blocks.append(block.build(shape))
            shape, input_type = count(block, shape, input_type).out_shape, "float32"
        self.blocks = nn.Sequential(*blocks)
        for module in self.blocks:
            if not getattr(module, "keeps_weights", False):
                module.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(n, n_classes)` of a batch `(n, *input_shape)`."""
        logits: Tensor = self.blocks(x)
        return logits


def _initialise(module: nn.Module) -> None:
    """He et al., 2015, by fan-out, as the reference code of MobileNetV3 does."""
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    elif isinstance(module, nn.Linear):
        bound = 1 / math.sqrt(module.in_features)
        nn.init.uniform_(module.weight, -bound, bound)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def begin_as_identity(network: Network, which: Sequence[bool] | None = None) -> None:
    """Let residual blocks add nothing at first, in place: weights of their last layers become 0.

    A block is one if it then gives what it is given; a block of several residual branches, such as
    a transformer's, is none. Deep networks learn faster so. Blocks that keep the weights they came
    with are left as they are.

    Args:
        network: Newly made; its mode stays.
        which: Of the blocks; None: all.

    References:
        Goyal et al., Accurate, Large Minibatch SGD, 2017, section 5.1 (a last batch norm).
        Zhang, Dauphin, Ma, Fixup, ICLR 2019 (a last layer without one).
    """
    is_training = network.training
    network.eval()
    generator = torch.Generator().manual_seed(0)
    architecture = network.architecture
    x = example(architecture.input_shape, architecture.input_type, batch=2)
    if x.is_floating_point():
        x = torch.randn(x.shape, generator=generator)
    wanted = [True] * len(network.blocks) if which is None else which
    with torch.no_grad():
        for module, is_wanted in zip(network.blocks, wanted, strict=True):
            keeps = getattr(module, "keeps_weights", False)
            last = [m for m in module.modules() if any(True for _ in m.parameters(recurse=False))]
            can_be_one = is_wanted and not keeps and x.is_floating_point()  # ids never come back
            if can_be_one and last and isinstance(last[-1], _LAST):
                _silence(module, last[-1], _like(x, generator))
            x = module(x)
    network.train(is_training)


def _silence(module: nn.Module, last: nn.Module, x: Tensor) -> None:
    """Set the last layer of a block to 0 if the block then gives `x` for `x`, and can still learn.

    Behind such a layer there may be a ReLU, whose slope at 0 is 0.
    """
    weight = last.weight
    if not isinstance(weight, Tensor) or not weight.requires_grad:
        return
    before = {name: parameter.clone() for name, parameter in last.named_parameters()}
    for parameter in last.parameters():
        parameter.zero_()
    with torch.enable_grad():
        found = module(x)
        is_identity = found.shape == x.shape and torch.allclose(found, x, atol=1e-5)
        slope = torch.autograd.grad((found * x).sum(), weight)[0] if is_identity else x.new_zeros(1)
    if not bool((slope != 0).any()):
        for name, parameter in last.named_parameters():
            parameter.copy_(before[name])


def _like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Numbers of that shape; none below 0 where none of `x` is, as behind a ReLU."""
    drawn = torch.randn(x.shape, generator=generator)
    return drawn.abs() if bool((x >= 0).all()) else drawn


def example(shape: Shape, input_type: InputType = "float32", *, batch: int = 1) -> Tensor:
    """A batch of zeros `(batch, *shape)`; 0 is a valid token id, too."""
    return torch.zeros((batch, *shape), dtype=getattr(torch, input_type))


def look_trained(module: nn.Module) -> None:
    """Give new numbers to weights that are all alike, as those of new normalisations are.

    Runtimes leave out what adds zeros or multiplies by ones, and no trained network has it.
    """
    tensors = [*module.parameters(), *module.buffers()]
    with torch.no_grad():
        for tensor in tensors:
            is_number = tensor.is_floating_point() and tensor.numel() > 0
            if is_number and bool((tensor == tensor.flatten()[0]).all()):
                tensor.uniform_(0.5, 1.5)


@lru_cache(maxsize=100_000)
def count(block: Block, in_shape: Shape, input_type: InputType = "float32") -> BlockCounts:
    """Build the block and run one example of zeros through it, counting.

    Raises:
        SpaceError: The block does not fit the shape.
    """
    try:
        with torch.random.fork_rng(devices=()):
            module = block.build(in_shape).eval()
            with counting(module) as n_macs:
                y = module(example(in_shape, input_type))
    except RuntimeError as error:
        raise SpaceError(f"{block} does not fit an input of shape {in_shape}: {error}") from error
    params = sum(p.numel() for p in module.parameters())
    return BlockCounts(tuple(y.shape[1:]), params, n_macs())


def counts(architecture: Architecture) -> BlockCounts:
    """Totals of a network, and the shape of its output."""
    shape, params, macs = architecture.input_shape, 0, 0
    input_type = architecture.input_type
    for block in architecture.blocks:
        one = count(block, shape, input_type)
        shape, params, macs = one.out_shape, params + one.params, macs + one.macs
        input_type = "float32"
    return BlockCounts(shape, params, macs)


@contextlib.contextmanager
def counting(module: nn.Module) -> Iterator[Callable[[], int]]:
    """Count the multiply-accumulates of running `module`, without gradients; ask for them after."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), without_fast_paths(), counter, _missed_flops(module, counter) as missed:
        yield lambda: (counter.get_total_flops() + sum(missed)) // 2


@contextlib.contextmanager
def without_fast_paths() -> Iterator[None]:
    """Run attention as the matrix products that it is, which tracers and counters know."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextlib.contextmanager
def _missed_flops(module: nn.Module, counter: FlopCounterMode) -> Iterator[list[int]]:
    """What `counter` misses of recurrent layers: it sees some as products, and some not at all.

    An LSTM, GRU or RNN takes every weight matrix once for each step of each example.
    """
    missed: list[int] = []
    before: list[int] = []

    def enter(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        before.append(counter.get_total_flops())

    def leave(layer: nn.Module, inputs: tuple[Tensor, ...], outputs: object) -> None:
        n_steps = math.prod(inputs[0].shape[:-1])
        n_weights = sum(p.numel() for p in layer.parameters() if p.dim() == 2)
        missed.append(2 * n_steps * n_weights - (counter.get_total_flops() - before.pop()))

    with contextlib.ExitStack() as stack:
        for layer in module.modules():
            if isinstance(layer, nn.RNNBase):
                stack.callback(layer.register_forward_pre_hook(enter).remove)
                stack.callback(layer.register_forward_hook(leave).remove)
        yield missed
