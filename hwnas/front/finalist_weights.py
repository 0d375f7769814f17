"""The weights of networks that were trained to the end: `weights/NAME.safetensors` of a run folder.

Each file says which architecture it is of: another trial of the same number may have weights of the
same names and shapes.
"""

from __future__ import annotations

from pathlib import Path

from hwnas.front.failed_finalists import WEIGHTS
from hwnas.networks import Network
from hwnas.profiling import architecture_digest
from hwnas.spaces.base import Architecture
from hwnas.weight_files import MAX_BYTES, WeightFileError, pack_weights, unpack_weights
from profilers.limited import read_bytes

__all__ = ["load_weights", "pack_network", "unpack_network", "weights_path"]

ARCHITECTURE = "architecture"


def weights_path(folder: Path, name: str) -> Path:
    """Where a run folder has the weights of a network that was trained to the end."""
    return folder / WEIGHTS / f"{name}.safetensors"


def load_weights(path: Path, architecture: Architecture) -> Network | None:
    """The trained network; None where there is none, half a file of one, or one of another."""
    try:
        return unpack_network(read_bytes(path, MAX_BYTES), architecture)
    except OSError:
        return None


def pack_network(network: Network, architecture: Architecture) -> bytes:
    """The content of such a file."""
    return pack_weights(network.state_dict(), {ARCHITECTURE: architecture_digest(architecture)})


def unpack_network(content: bytes, architecture: Architecture) -> Network | None:
    """The network with the weights of such a file; None: they are of another, or it is damaged."""
    network = Network(architecture)
    try:
        weights, about = unpack_weights(content)
        if about.get(ARCHITECTURE) != architecture_digest(architecture):
            return None
        network.load_state_dict(weights)
    except (WeightFileError, RuntimeError):  # the latter of torch: other names, other shapes
        return None
    return network
