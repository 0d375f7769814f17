"""Numbers as networks take them: moments of the training examples, and images of one size."""

from __future__ import annotations

import torch
from torch.nn import functional

from hwnas.data.kinds import Kind

CHUNK = 1024  # examples that are converted to floats at a time
GREY_LEVEL = 1 / 255  # a channel of images that varies less is constant


def moments(inputs: torch.Tensor, kind: Kind) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel or feature; empty for tokens.

    Bytes are scaled to [0, 1]. What does not vary has a deviation of one grey level (images) or 1.

    Args:
        inputs: `(n, C, ...)`, uint8 or float32; of tokens not looked at.
        kind: What they are.
    Returns:
        Two tuples of `C` values.
    """
    if kind == "tokens":
        return (), ()
    rest = [axis for axis in range(inputs.ndim) if axis != 1]
    count = inputs.numel() / inputs.shape[1]
    mean = torch.zeros(inputs.shape[1], dtype=torch.float64)
    for chunk in torch.split(inputs, CHUNK):
        mean += _unit_scale(chunk).double().sum(dim=rest)
    mean /= count
    squares = torch.zeros_like(mean)  # about the mean: features of a table may be far from 0
    for chunk in torch.split(inputs, CHUNK):
        centred = _unit_scale(chunk).double() - _along_channels(mean, inputs.ndim)
        squares += centred.square().sum(dim=rest)
    std = (squares / count).sqrt()
    if kind == "image":
        std = std.clamp(min=GREY_LEVEL)
    else:
        std[std <= 1e-6 * mean.abs()] = 1.0  # no more than float32 rounds
    return tuple(mean.tolist()), tuple(std.tolist())


def _unit_scale(inputs: torch.Tensor) -> torch.Tensor:
    return inputs.float() / 255 if inputs.dtype == torch.uint8 else inputs


def _along_channels(values: torch.Tensor, ndim: int) -> torch.Tensor:
    return values.view(1, -1, *[1] * (ndim - 2))


def normalise(
    inputs: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]
) -> torch.Tensor:
    """Scale uint8 to [0, 1], then subtract `mean` and divide by `std`, per channel or feature.

    Args:
        inputs: `(n, C, ...)`, uint8 or float32.
        mean: `C` values.
        std: `C` values, all > 0.
    Returns:
        The same shape, float32, on the same device.
    """
    centre, scale = (
        _along_channels(torch.tensor(values, device=inputs.device), inputs.ndim)
        for values in (mean, std)
    )
    return (_unit_scale(inputs) - centre) / scale


def resize(images: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resize images, bilinear, with a low-pass filter where it shrinks.

    Args:
        images: `(n, C, H, W)`, uint8 or float32.
        height: Pixels down.
        width: Pixels across.
    Returns:
        `(n, C, height, width)`, the same type (uint8 rounded half to even); the very same tensor
        if it has that size already.
    """
    if min(height, width) < 1:
        raise ValueError(f"a size must be at least 1×1 pixel, got {height}×{width}")
    if images.shape[2:] == (height, width):
        return images
    sized = images.new_empty((*images.shape[:2], height, width))
    for source, target in zip(torch.split(images, CHUNK), torch.split(sized, CHUNK), strict=True):
        # In floats: the integer kernels round differently from one CPU to the next.
        values = functional.interpolate(
            source.float(),
            size=(height, width),
            mode="bilinear",
            align_corners=False,
            antialias=True,  # where it enlarges, the filter is plain bilinear
        )
        target.copy_(values if images.is_floating_point() else values.round_().clamp_(0, 255))
    return sized
