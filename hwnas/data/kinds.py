"""The kinds of data: what an example is, told by the shape and type of a whole array of them."""

from __future__ import annotations

from typing import Literal

import torch

Kind = Literal["image", "signal", "table", "tokens"]
KINDS: tuple[Kind, ...] = ("image", "signal", "table", "tokens")
# What examples of each kind are called, and the shape of n of them.
EXAMPLES: dict[Kind, str] = {
    "image": "images",
    "signal": "signals",
    "table": "rows",
    "tokens": "token sequences",
}
SHAPES: dict[Kind, str] = {
    "image": "(n, channels, height, width)",
    "signal": "(n, channels, length)",
    "table": "(n, features)",
    "tokens": "(n, length)",
}
_FLOAT_KINDS: dict[int, Kind] = {4: "image", 3: "signal", 2: "table"}  # by number of dimensions
WHAT_IS_NEEDED = (
    "images (n, channels, height, width), bytes or floats; signals (n, channels, length), floats; "
    "rows of a table (n, features), floats; or token ids (n, length), integers"
)


def kind_of(inputs: torch.Tensor) -> Kind | None:
    """The kind of `inputs`, n examples along the first axis; None: no network can take them.

    Example:
        >>> kind_of(torch.zeros((5, 1, 8, 8), dtype=torch.uint8)), kind_of(torch.zeros((5, 30)))
        ('image', 'table')
    """
    if inputs.dtype == torch.float32:
        return _FLOAT_KINDS.get(inputs.ndim)
    if inputs.dtype == torch.uint8 and inputs.ndim == 4:
        return "image"
    if inputs.dtype == torch.int64 and inputs.ndim == 2:
        return "tokens"
    return None
