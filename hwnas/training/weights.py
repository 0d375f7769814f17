"""What is done to weights around a training: random state, memory layout, averages, compiling."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generator inside the block, and put its state back after it.

    Example:
        >>> with seeded(0):
        ...     network = nn.Linear(2, 2)
    """
    # Asking for CUDA's generators would start CUDA: hundreds of MB in each process.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


@contextmanager
def channels_last(network: nn.Module) -> Iterator[None]:
    """Lay the weights out channels last, and with them the feature maps; undone afterwards."""
    _lay_out(network, torch.channels_last)
    try:
        yield
    finally:
        _lay_out(network, torch.contiguous_format)


def _lay_out(network: nn.Module, layout: torch.memory_format) -> None:
    for parameter in network.parameters():
        if parameter.ndim == 4:  # others have no such layout
            # Not `contiguous`: of axes of 1 it would leave strides that choose slower kernels.
            parameter.data = parameter.data.to(memory_format=layout)


class WeightAverage:
    """Exponential moving average of a network's weights and running statistics.

    After n steps the decay is at most n / (n + 10), so that short trainings forget where they
    began.

    Reference:
        Polyak and Juditsky, Acceleration of stochastic approximation by averaging, 1992; the decay
        that rises as in TensorFlow's `ExponentialMovingAverage`.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._decay = decay
        self._n_steps = 0
        # The tensors of the state are the network's own.
        state = {name: v for name, v in network.state_dict().items() if v.is_floating_point()}
        self._names, self._now = list(state), list(state.values())
        self._mean = [value.clone() for value in self._now]

    @property
    def means(self) -> dict[str, torch.Tensor]:
        """The average by the names of the network's state."""
        return dict(zip(self._names, self._mean, strict=True))

    def resume(self, means: Mapping[str, torch.Tensor], n_steps: int) -> None:
        """Go on from the `means` after so many steps.

        Raises:
            LookupError, ValueError: They are those of another network.
        """
        for name, mean in self.means.items():
            if means[name].shape != mean.shape:
                raise ValueError(f"the average of {name} is {tuple(means[name].shape)}")
            mean.copy_(means[name])
        self._n_steps = n_steps

    def update(self) -> None:
        """Take the network's weights after one more step into the average."""
        self._n_steps += 1
        decay = min(self._decay, self._n_steps / (self._n_steps + 10))
        with torch.no_grad():
            torch._foreach_lerp_(self._mean, self._now, 1 - decay)

    def copy_to_network(self) -> None:
        """Let the average be the network's weights."""
        with torch.no_grad():
            torch._foreach_copy_(self._now, self._mean)


def compiled(
    network: nn.Module, warn: Callable[[str], None]
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The network through `torch.compile`; as it is where that cannot be, with a message.

    Compilers are missing on many machines, which shows when the first batch comes.
    """
    forward: Callable[[torch.Tensor], torch.Tensor] | None = None

    def run(inputs: torch.Tensor) -> torch.Tensor:
        nonlocal forward
        if forward is not None:
            return forward(inputs)
        try:
            forward = torch.compile(network)
            result: torch.Tensor = forward(inputs)
        except Exception as error:  # of a compiler, of any kind
            forward = network
            result = forward(inputs)  # the network's own mistake is raised here
            reason = str(error).strip().split("\n", 1)[0][:200]
            warn(f"torch.compile cannot be used here, training goes on without: {reason}")
        return result

    return run
