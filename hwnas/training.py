"""Train one network on one data set: the same loop for candidates of a search and for its front.

The networks of a search are tiny, so what is around the convolutions decides the speed: fused
AdamW, channels-last memory (1.4 to 2.3 times faster than the default on a CPU), a whole epoch's
randomness drawn at once, augmentation by one gather, and the loss looked at every few steps only.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn
from torch.nn import functional

from hwnas.data import DataSet, Split, normalise, resize
from hwnas.errors import ConfigError, HwnasError
from hwnas.metrics import Scores, score

EVALUATION_BATCH = 256
CHECKS = 50  # how often in a training the loss is checked and progress reported
SEARCH_IMAGES, MAX_SEARCH_EPOCHS = 11_000, 4.0
FINAL_IMAGES, MAX_FINAL_EPOCHS = 110_000, 20.0


class TrainingDivergedError(HwnasError):
    """The loss or the outputs became NaN or infinite; this network has no accuracy."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a network is trained: AdamW, linear warm-up, then a cosine to zero.

    Attributes:
        epochs: Passes over train; 0.25 is a quarter of the steps of one.
        batch_size: Images a step.
        learning_rate: At the peak.
        weight_decay: Of weights; biases and batch-norm scales have none.
        label_smoothing: Share of the target spread over all classes.
        max_shift: Largest random shift each way, as a share of the resolution.
        warmup_share: Share of the steps in which the learning rate rises.
        max_gradient_norm: Gradients are scaled down to it.
    """

    epochs: float
    batch_size: int = 64
    learning_rate: float = 1e-2
    weight_decay: float = 0.02
    label_smoothing: float = 0.05
    max_shift: float = 0.0
    warmup_share: float = 0.15
    max_gradient_norm: float = 5.0

    def __post_init__(self) -> None:
        limits = {
            "epochs": (self.epochs > 0, "> 0"),
            "batch_size": (self.batch_size >= 2, ">= 2, batch norm needs it"),
            "learning_rate": (self.learning_rate > 0, "> 0"),
            "weight_decay": (self.weight_decay >= 0, ">= 0"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "in [0, 1)"),
            "max_shift": (0 <= self.max_shift < 1, "in [0, 1)"),
            "warmup_share": (0 <= self.warmup_share < 1, "in [0, 1)"),
            "max_gradient_norm": (self.max_gradient_norm > 0, "> 0"),
        }
        for name, (is_met, limit) in limits.items():
            if not is_met:
                raise ConfigError(f"{name} must be {limit}, got {getattr(self, name)}")

    def steps(self, n_images: int) -> tuple[int, int]:
        """Steps an epoch (a last, smaller batch is left out) and steps in all."""
        per_epoch = max(1, n_images // self.batch_size)
        return per_epoch, max(1, round(self.epochs * per_epoch))

    def learning_rate_at(self, progress: float) -> float:
        """The learning rate when a share `progress` of the steps is done."""
        if progress < self.warmup_share:
            return self.learning_rate * progress / self.warmup_share
        done = (progress - self.warmup_share) / (1 - self.warmup_share)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a training gave; the network itself is trained in place.

    `final_loss` is the mean training loss over the last few steps, smoothing included.
    """

    train_seconds: float
    final_loss: float
    n_steps: int
    validation: Scores


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
def _channels_last(network: nn.Module) -> Iterator[None]:
    """Lay the weights out channels last, and with them the feature maps; undone afterwards."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        yield
    finally:
        network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def train(
    network: nn.Module,
    data: DataSet,
    recipe: Recipe,
    *,
    resolution: int,
    seed: int,
    on_progress: Callable[[float], None] = lambda share: None,
) -> TrainingResult:
    """Train in place on `data.train`, then score on `data.validation`; `data.test` is not read.

    The same network, data, recipe and seed give the same weights on the same machine with the same
    number of threads. The caller's random state is left as it was; the network ends in eval mode.
    Subnormal floats count as zero from here on in this process: they can slow a CPU down manyfold.

    Args:
        network: `(n, C, resolution, resolution)` to logits `(n, n_classes)`; it is trained on the
            device where its parameters are.
        data: The images; resized to `resolution` once and remembered.
        recipe: How long and how.
        resolution: Pixels a side of the network's input.
        seed: Of the order of images, their shifts, and dropout.
        on_progress: Called with the share of steps done, 50 times or once a step; what it raises
            ends the training.
    Raises:
        TrainingDivergedError: If the loss or the logits become NaN or infinite.
    """
    start = time.perf_counter()
    device = next(network.parameters()).device
    train_split, validation = _resized(data, resolution)
    batches = _batches(train_split, recipe, data, seed, device)
    # Denormals make training slow. Off again after it: it would hold for measurements too.
    torch.set_flush_denormal(True)
    try:
        with seeded(seed), _channels_last(network):
            n_steps, final_loss = _fit(
                network, batches, recipe, on_progress, n_images=len(train_split)
            )
    finally:
        torch.set_flush_denormal(False)
    train_seconds = time.perf_counter() - start
    scores = evaluate(network, data, validation, resolution=resolution)
    return TrainingResult(train_seconds, final_loss, n_steps, scores)


def _fit(
    network: nn.Module,
    batches: Iterator[tuple[torch.Tensor, torch.Tensor]],
    recipe: Recipe,
    on_progress: Callable[[float], None],
    *,
    n_images: int,
) -> tuple[int, float]:
    """Run all steps; returns their number and the mean loss since the last check."""
    network.train()
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        fused=True,
    )
    _, n_steps = recipe.steps(n_images)
    interval = math.ceil(n_steps / CHECKS)
    recent: list[torch.Tensor] = []
    loss_mean = math.nan
    for step in range(n_steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate_at((step + 0.5) / n_steps)
        images, labels = next(batches)
        loss = functional.cross_entropy(
            network(images), labels, label_smoothing=recipe.label_smoothing
        )
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(parameters, recipe.max_gradient_norm, foreach=True)
        optimizer.step()
        recent.append(loss.detach())
        if (step + 1) % interval == 0 or step + 1 == n_steps:
            loss_mean = float(torch.stack(recent).mean())  # one look at many: a GPU need not wait
            if not math.isfinite(loss_mean):
                raise TrainingDivergedError(
                    f"the loss became {loss_mean} within {step + 1} of {n_steps} steps at learning "
                    f"rate {recipe.learning_rate:g}; lower the learning rate"
                )
            recent.clear()
            on_progress((step + 1) / n_steps)
    return n_steps, loss_mean


def _batches(
    split: Split, recipe: Recipe, data: DataSet, seed: int, device: torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Shuffled, shifted, normalised batches without end, channels last in memory.

    An image shifts with its border repeated: no colour has to be invented for what comes in.
    """
    generator = torch.Generator().manual_seed(seed)
    images, labels = split.images.to(device), split.labels.to(device)
    n, side = len(labels), images.shape[-1]
    reach = round(recipe.max_shift * side)
    pixels = torch.arange(side, device=device)
    per_epoch, _ = recipe.steps(n)
    while True:
        order = torch.randperm(n, generator=generator).to(device)
        shifts = torch.randint(-reach, reach + 1, (2, n, 1), generator=generator).to(device)
        rows, columns = (pixels + shifts).clamp_(0, side - 1)  # (n, side) each
        for rank in range(per_epoch):
            part = slice(rank * recipe.batch_size, (rank + 1) * recipe.batch_size)
            index = order[part]
            batch = images[index[:, None, None], :, rows[part, :, None], columns[part, None, :]]
            batch = normalise(batch.permute(0, 3, 1, 2), data.mean, data.std)
            yield batch.contiguous(memory_format=torch.channels_last), labels[index]


@lru_cache(maxsize=4)  # data sets count as equal only if they are one object
def _resized(data: DataSet, resolution: int) -> tuple[Split, Split]:
    """Train and validation at a resolution, kept for the next network that has it."""
    train, validation = (
        Split(resize(split.images, resolution), split.labels)
        for split in (data.train, data.validation)
    )
    return train, validation


def evaluate(network: nn.Module, data: DataSet, split: Split, *, resolution: int) -> Scores:
    """Score the network on a split of `data`, in eval mode.

    Raises:
        TrainingDivergedError: If a logit is NaN or infinite.
    """
    with _channels_last(network):
        logits = torch.cat(
            [
                predict_logits(
                    network, normalise(resize(images, resolution), data.mean, data.std), len(images)
                )
                for images in torch.split(split.images, EVALUATION_BATCH)
            ]
        )
    if not logits.isfinite().all():
        raise TrainingDivergedError("the trained network gives NaN or infinite logits")
    return score(split.labels.numpy(), logits.argmax(dim=1).numpy())


def predict_logits(network: nn.Module, images: torch.Tensor, batch_size: int) -> torch.Tensor:
    """Logits of normalised images; the network is left in eval mode.

    Args:
        network: On any device.
        images: `(n, C, H, W)`, float32, as `normalise` returns them.
        batch_size: Images at a time.
    Returns:
        `(n, n_classes)`, float32, on the CPU.
    """
    device = next(network.parameters()).device
    network.eval()
    with torch.inference_mode():
        logits = [
            network(batch.to(device)).float().cpu() for batch in torch.split(images, batch_size)
        ]
        return torch.cat(logits)


def default_recipes(data: DataSet) -> tuple[Recipe, Recipe]:
    """Recipes for candidates of the search, and for the members of the final front.

    By the number of images that a training sees, with a limit on repeating few of them. On one
    core that is seconds a candidate on digits and tens of seconds on Fashion-MNIST; ten times
    that for a member of the front. Shifts pay only where images are seen many times.
    """
    n = len(data.train)
    search = min(MAX_SEARCH_EPOCHS, SEARCH_IMAGES / n)
    final = min(MAX_FINAL_EPOCHS, FINAL_IMAGES / n)
    return Recipe(epochs=search), Recipe(epochs=final, max_shift=0.05)
