"""Batches of a training: shuffled, augmented and normalised, a whole epoch's randomness at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch.nn import functional

from hwnas.data.scaling import normalise
from hwnas.data.splits import DataSet, Split
from hwnas.training.recipe import Recipe

PADDING = 0  # the token id that a dropped one is replaced by

Batch = tuple[torch.Tensor, torch.Tensor]


def batches(
    split: Split, recipe: Recipe, data: DataSet, *, seed: int, device: torch.device
) -> Iterator[Batch]:
    """Shuffled, augmented, normalised batches without end; images channels last in memory.

    Args:
        split: Of `data`, at the network's size (`hwnas.data.resized`).
        recipe: Its batch size and augmentations; those must be for this kind of data.
        data: Whose moments and number of classes count.
        seed: Of the order of examples and of what is done to them.
        device: Where the batches are made; the whole split is moved there.

    Yields:
        Inputs `(batch_size, ...)` (all examples, where there are fewer), float32 or token ids; and
        labels `(batch_size,)`, int64, or with mixup the share of each class,
        `(batch_size, n_classes)`, float32. `cross_entropy` takes both.

    Raises:
        ConfigError: The recipe has an augmentation that is for other kinds of data.
    """
    recipe.check_kind(data.kind)
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)  # torch draws no beta distribution from a generator
    inputs, labels = split.inputs.to(device), split.labels.to(device)
    n = len(labels)
    per_epoch, _ = recipe.steps(n)
    while True:
        order = torch.randperm(n, generator=generator).to(device)
        gather = _gather(inputs, recipe, generator)
        for rank in range(per_epoch):
            part = slice(rank * recipe.batch_size, (rank + 1) * recipe.batch_size)
            index = order[part]
            batch = gather(index, part)
            if data.kind == "tokens":
                batch = _drop_tokens(batch, recipe, generator)
            else:
                batch = normalise(batch, data.mean, data.std)
                batch = _disturb(batch, recipe, generator)
            target = labels[index]
            if recipe.mixup:
                batch, target = _mix(batch, target, recipe.mixup, data.n_classes, rng)
            if batch.ndim == 4:
                batch = batch.contiguous(memory_format=torch.channels_last)
            yield batch, target


def _gather(
    inputs: torch.Tensor, recipe: Recipe, generator: torch.Generator
) -> Callable[[torch.Tensor, slice], torch.Tensor]:
    """A function from indices to those examples, shifted and flipped; one gather a batch.

    They shift with the border repeated: nothing has to be invented for what comes in.
    """
    if not (recipe.max_shift or recipe.flip):
        return lambda index, part: inputs[index]
    device, n = inputs.device, len(inputs)

    def positions(axis: int) -> torch.Tensor:
        """Where each example's values come from along an axis, `(n, size)`."""
        size = inputs.shape[axis]
        reach = round(recipe.max_shift * size)
        shifts = torch.randint(-reach, reach + 1, (n, 1), generator=generator).to(device)
        return (torch.arange(size, device=device) + shifts).clamp_(0, size - 1)

    if inputs.ndim == 3:
        places = positions(2)

        def shifted(index: torch.Tensor, part: slice) -> torch.Tensor:
            return inputs[index[:, None], :, places[part]].permute(0, 2, 1)

        return shifted
    rows, columns = positions(2), positions(3)
    if recipe.flip:
        is_flipped = (torch.rand((n, 1), generator=generator) < 0.5).to(device)
        columns = torch.where(is_flipped, inputs.shape[3] - 1 - columns, columns)

    def moved(index: torch.Tensor, part: slice) -> torch.Tensor:
        found = inputs[index[:, None, None], :, rows[part, :, None], columns[part, None, :]]
        return found.permute(0, 3, 1, 2)

    return moved


def _disturb(batch: torch.Tensor, recipe: Recipe, generator: torch.Generator) -> torch.Tensor:
    """Erase squares and add noise, where the recipe says so."""
    if recipe.erase:
        rows, columns = (_near(batch, axis, recipe.erase, generator) for axis in (2, 3))
        batch = batch.masked_fill(rows[:, None, :, None] & columns[:, None, None, :], 0.0)
    if recipe.noise:
        noise = torch.randn(batch.shape, generator=generator).to(batch.device)
        batch = batch + recipe.noise * noise
    return batch


def _near(batch: torch.Tensor, axis: int, share: float, generator: torch.Generator) -> torch.Tensor:
    """Which places along an axis are within `share / 2` of a random one, `(n, size)`."""
    n, size = len(batch), batch.shape[axis]
    centre = size * torch.rand((n, 1), generator=generator)
    is_near = (torch.arange(size) + 0.5 - centre).abs() <= share * size / 2
    return is_near.to(batch.device)


def _drop_tokens(batch: torch.Tensor, recipe: Recipe, generator: torch.Generator) -> torch.Tensor:
    if not recipe.token_dropout:
        return batch
    is_dropped = torch.rand(batch.shape, generator=generator) < recipe.token_dropout
    return batch.masked_fill(is_dropped.to(batch.device), PADDING)


def _mix(
    batch: torch.Tensor,
    labels: torch.Tensor,
    alpha: float,
    n_classes: int,
    rng: np.random.Generator,
) -> Batch:
    """Each example with another of the batch, all by one share (Zhang et al., mixup, 2018)."""
    share = float(rng.beta(alpha, alpha))
    other = torch.from_numpy(rng.permutation(len(batch))).to(batch.device)
    target = functional.one_hot(labels, n_classes).float()
    mixed = share * batch + (1 - share) * batch[other]
    return mixed, share * target + (1 - share) * target[other]
