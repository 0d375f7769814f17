"""Weights as plain data: files of safetensors, of which nothing is executed.

Beside the tensors a file may say things about them, as JSON under `about` in its header.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from profilers.limited import read_bytes

__all__ = ["WeightFileError", "pack_weights", "read_weights", "unpack_weights"]

ABOUT = "about"
MAX_BYTES = 2**32
_METADATA = "__metadata__"  # of the format
_LENGTH_BYTES = 8  # of the header's length, before it
# Seen where shapes and types are no tensors', though the header is well formed.
_DAMAGED = (
    ValueError, TypeError, LookupError, AttributeError, AssertionError, OverflowError, RuntimeError,
)  # fmt: skip


class WeightFileError(Exception):
    """It holds no weights, or these cannot be held by a file."""


def pack_weights(
    weights: Mapping[str, torch.Tensor], about: Mapping[str, Any] | None = None
) -> bytes:
    """The content of a file of those tensors.

    Args:
        weights: By name, on any device; tensors that share memory are written each.
        about: Plain JSON.

    Raises:
        WeightFileError: A value is no tensor of plain numbers.
    """
    for name, value in weights.items():
        if not isinstance(value, torch.Tensor) or value.is_complex():
            raise WeightFileError(f"{name!r} is no tensor of real numbers, and cannot be kept")
    own = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in weights.items()
    }
    return save(own, {ABOUT: json.dumps(about)} if about is not None else None)


def unpack_weights(content: bytes) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors by name, and what the file says about them; empty: nothing.

    Raises:
        WeightFileError: It is no such file.
    """
    try:
        weights = load(content)  # which checks the header
        length = int.from_bytes(content[:_LENGTH_BYTES], "little")
        header = json.loads(content[_LENGTH_BYTES:][:length])
        about = json.loads(header.get(_METADATA, {}).get(ABOUT, "{}"))
        if not isinstance(about, dict):
            raise TypeError("what it says of the tensors is no table")
    except (SafetensorError, *_DAMAGED) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightFileError(f"it holds no weights: {reason}") from None
    return weights, about


def read_weights(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The same of a file.

    Raises:
        WeightFileError: It holds no weights.
        OSError: It cannot be read, is too large, or is packed and damaged.
    """
    return unpack_weights(read_bytes(path, MAX_BYTES))
