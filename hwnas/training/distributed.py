"""One training on several GPUs, or several machines: each process takes a share of every batch.

`torchrun --nproc-per-node N script.py` starts N processes. Where the script trains inside
`several_processes()`, torch's `DistributedDataParallel` keeps their weights alike. All processes
draw the same batches and compute with a share of each, so it is the training that one process would
do, but for statistics of batch norm, which are those of a share.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from hwnas.errors import ConfigError
from hwnas.training.batches import Batch

MIN_SHARE = 2  # examples of a batch, which batch norm needs


@contextmanager
def several_processes() -> Iterator[torch.device]:
    """Join the processes that `torchrun` has started; `train` inside it trains on all of them.

    Yields:
        Where this process is to train: a GPU of its own (by NCCL), or the CPU (by Gloo).

    Raises:
        ConfigError: `torchrun` has not started this process, or there are fewer GPUs on this
            machine than processes.

    Example:
        with several_processes() as device:
            network = Network(architecture).to(device)
            result = train(network, data, recipe, input_shape=architecture.input_shape, seed=0)
    """
    try:
        local, n_local = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    except KeyError:
        raise ConfigError(
            "several processes must be started by torchrun: torchrun --nproc-per-node N script.py"
        ) from None
    n_gpus = torch.cuda.device_count()
    if 0 < n_gpus < n_local:
        raise ConfigError(
            f"{n_local} processes, but {n_gpus} GPUs on this machine; start one process a GPU: "
            f"torchrun --nproc-per-node {n_gpus}"
        )
    device = torch.device("cuda", local) if n_gpus else torch.device("cpu")
    if n_gpus:
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if n_gpus else "gloo")
    try:
        yield device
    finally:
        distributed.destroy_process_group()


def n_processes() -> int:
    """How many train together; 1 outside of `several_processes`."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """The number of this process among them."""
    return distributed.get_rank() if n_processes() > 1 else 0


def share_of(stream: Iterator[Batch], batch_size: int) -> Iterator[Batch]:
    """This process's share of each batch.

    Raises:
        ConfigError: A share is too small for batch norm, or shares are not equal.
    """
    n, own = n_processes(), rank()
    if n == 1:
        return stream
    if batch_size < MIN_SHARE * n:
        raise ConfigError(
            f"batches of {batch_size} are too small for {n} processes: batch_size must be at "
            f"least {MIN_SHARE * n}"
        )
    if batch_size % n:
        raise ConfigError(
            f"batches of {batch_size} have no equal shares for {n} processes: batch_size must be a "
            f"multiple of {n}"
        )
    return ((inputs[own::n], labels[own::n]) for inputs, labels in stream)


def together(network: nn.Module) -> nn.Module:
    """The network, whose gradients are the mean over all processes."""
    if n_processes() == 1:
        return network
    return DistributedDataParallel(network)


def mean_of_all(value: torch.Tensor) -> torch.Tensor:
    """The mean of `value` over all processes, so that all decide alike."""
    if n_processes() > 1:
        value = value.clone()
        distributed.all_reduce(value)
        value /= n_processes()
    return value


def made_equal(network: nn.Module) -> None:
    """Give all processes the first one's weights and statistics."""
    if n_processes() > 1:
        for value in network.state_dict().values():
            distributed.broadcast(value, 0)
