"""Train one network on one data set: the same loop for candidates of a search and for its front.

The networks of a search are tiny, so what is around the convolutions decides the speed: fused
AdamW, channels-last memory (1.4 to 2.3 times faster than the default on a CPU), a whole epoch's
randomness drawn at once, augmentation by one gather, and the loss looked at every few steps only.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from hwnas.data.preprocessing import Preprocessing, resized
from hwnas.data.splits import DataSet, Split
from hwnas.errors import HwnasError
from hwnas.metrics import Scores, score
from hwnas.spaces.architecture import Shape
from hwnas.training.batches import Batch, batches
from hwnas.training.distributed import made_equal, mean_of_all, rank, share_of, together
from hwnas.training.recipe import AUTO, BF16, Recipe
from hwnas.training.weights import WeightAverage, channels_last, compiled, seeded

EVALUATION_BATCH = 256
CHECKS = 50  # how often in a training the loss is checked and progress reported

Forward = Callable[[torch.Tensor], torch.Tensor]


class TrainingDivergedError(HwnasError):
    """The loss or the outputs became NaN or infinite; this network has no accuracy."""


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a training gave; the network itself is trained in place.

    `final_loss` is the mean training loss over the last few steps, smoothing included.
    """

    train_seconds: float
    final_loss: float
    n_steps: int
    validation: Scores


def train(
    network: nn.Module,
    data: DataSet,
    recipe: Recipe,
    *,
    input_shape: Shape,
    seed: int,
    teacher: nn.Module | None = None,
    on_progress: Callable[[float], None] = lambda share: None,
) -> TrainingResult:
    """Train in place on `data.train`, then score on `data.validation`; `data.test` is not read.

    The same network, data, recipe and seed give the same weights on the same machine with the same
    number of threads; on a GPU, whose kernels may add in any order, nearly the same. The caller's
    random state is left as it was; the network ends in eval mode. Inside `several_processes` all of
    them train it together, and all end with the same weights.

    Args:
        network: `(n, *input_shape)` to logits `(n, n_classes)`; it is trained on the device where
            its parameters are.
        data: The examples; images are resized to `input_shape` once and remembered.
        recipe: How long and how.
        input_shape: What the network takes, without the batch.
        seed: Of the order of examples, their augmentation, and dropout.
        teacher: A trained network for the same inputs and classes, on the same device; the network
            learns its answers too (Hinton et al., 2015). It is left in eval mode.
        on_progress: Called with the share of steps done, 50 times or once a step; what it raises
            ends the training.
    Raises:
        TrainingDivergedError: If the loss or the logits become NaN or infinite.
        DataError: If a network for `input_shape` cannot be given the data's examples.
        ConfigError: If the recipe has augmentations for other kinds of data.
    """
    start = time.perf_counter()
    device = next(network.parameters()).device
    train_split, validation = resized(data, input_shape)
    stream = batches(train_split, recipe, data, seed=seed, device=device)
    stream = share_of(stream, min(recipe.batch_size, len(train_split)))
    # Subnormal floats make training slow. Off again after it: it would hold for measurements too.
    torch.set_flush_denormal(True)
    try:
        with seeded(seed + rank()), channels_last(network):
            _, n_steps = recipe.steps(len(train_split))
            final_loss = _fit(network, stream, recipe, teacher, on_progress, n_steps=n_steps)
            made_equal(network)
    finally:
        torch.set_flush_denormal(False)
    train_seconds = time.perf_counter() - start
    scores = evaluate(network, data, validation, input_shape=input_shape)
    return TrainingResult(train_seconds, final_loss, n_steps, scores)


def _fit(
    network: nn.Module,
    stream: Iterator[Batch],
    recipe: Recipe,
    teacher: nn.Module | None,
    on_progress: Callable[[float], None],
    *,
    n_steps: int,
) -> float:
    """Run all steps; returns the mean loss since the last check."""
    network.train()
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = make_optimizer(parameters, recipe)
    trained = together(network)
    forward: Forward = compiled(trained, _warn) if recipe.compile else trained
    teach = None if teacher is None else teacher.eval()
    average = WeightAverage(network, recipe.ema_decay) if recipe.ema_decay else None
    mixed = mixed_precision(parameters[0].device, recipe)
    interval = math.ceil(n_steps / CHECKS)
    recent: list[torch.Tensor] = []
    loss_mean = math.nan
    for step in range(n_steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate_at((step + 0.5) / n_steps)
        inputs, labels = next(stream)
        with mixed:
            logits = forward(inputs)
        loss = _loss(logits.float(), inputs, labels, recipe, teach)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(parameters, recipe.max_gradient_norm, foreach=True)
        optimizer.step()
        if average is not None:
            average.update()
        recent.append(loss.detach())
        if (step + 1) % interval == 0 or step + 1 == n_steps:
            # One look at many: a GPU need not wait.
            loss_mean = float(mean_of_all(torch.stack(recent).mean()))
            if not math.isfinite(loss_mean):
                raise TrainingDivergedError(
                    f"the loss became {loss_mean} within {step + 1} of {n_steps} steps at learning "
                    f"rate {recipe.learning_rate:g}; lower the learning rate"
                )
            recent.clear()
            on_progress((step + 1) / n_steps)
    if average is not None:
        average.copy_to_network()
    return loss_mean


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=2)


def make_optimizer(parameters: list[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW; biases and the scales of normalisations do not decay."""
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)


def mixed_precision(device: torch.device, recipe: Recipe) -> AbstractContextManager[object]:
    """Layers compute in bfloat16 inside it, where the recipe says so; weights stay as they are.

    bfloat16 has float32's range, so that no loss has to be scaled.
    """
    is_bf16 = recipe.precision == BF16
    if recipe.precision == AUTO:  # never on a CPU: results would depend on the machine
        # Where it is emulated, it is slower than float32.
        is_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.autocast(device.type, torch.bfloat16) if is_bf16 else nullcontext()


def _loss(
    logits: torch.Tensor,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    recipe: Recipe,
    teacher: nn.Module | None,
) -> torch.Tensor:
    loss = functional.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
    if teacher is None:
        return loss
    with torch.no_grad():
        taught = teacher(inputs)
    share = recipe.distillation
    return (1 - share) * loss + share * distillation_loss(logits, taught, recipe.temperature)


def distillation_loss(
    logits: torch.Tensor, taught: torch.Tensor, temperature: float
) -> torch.Tensor:
    """How far the student's soft answers are from the teacher's; 0 where they agree, minimised.

    Args:
        logits: Of the student, `(n, n_classes)`.
        taught: Of the teacher, `(n, n_classes)`.
        temperature: Both are divided by it; the result is multiplied by its square, so that
            gradients keep their size.
    Returns:
        Mean Kullback-Leibler divergence, in nats.
    Reference:
        Hinton, Vinyals and Dean, Distilling the knowledge in a neural network, 2015.
        https://arxiv.org/abs/1503.02531
    """
    return temperature**2 * functional.kl_div(
        functional.log_softmax(logits / temperature, dim=1),
        functional.log_softmax(taught.float() / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )


def evaluate(network: nn.Module, data: DataSet, split: Split, *, input_shape: Shape) -> Scores:
    """Score the network on a split of `data`, in eval mode and float32.

    Raises:
        TrainingDivergedError: If a logit is NaN or infinite.
    """
    preprocessing = Preprocessing.of(data, input_shape)
    with channels_last(network):
        logits = torch.cat(
            [
                predict_logits(network, preprocessing.apply(inputs), len(inputs))
                for inputs in torch.split(split.inputs, EVALUATION_BATCH)
            ]
        )
    if not logits.isfinite().all():
        raise TrainingDivergedError("the trained network gives NaN or infinite logits")
    return score(split.labels.numpy(), logits.argmax(dim=1).numpy())


def predict_logits(network: nn.Module, inputs: torch.Tensor, batch_size: int) -> torch.Tensor:
    """Logits of examples; the network is left in eval mode.

    Args:
        network: On any device.
        inputs: `(n, ...)`, as `Preprocessing.apply` returns them.
        batch_size: Examples at a time.
    Returns:
        `(n, n_classes)`, float32, on the CPU.
    """
    device = next(network.parameters()).device
    network.eval()
    with torch.inference_mode():
        logits = [
            network(batch.to(device)).float().cpu() for batch in torch.split(inputs, batch_size)
        ]
        return torch.cat(logits)
