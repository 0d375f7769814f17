"""Train a supernet: one loop for every way of choosing subnets, which can be stopped and resumed.

All that is random is a function of the seed and the step (the stream of batches is replayed), so a
resumed training ends with the weights of an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from hwnas.data.preprocessing import Preprocessing
from hwnas.data.scaling import resize
from hwnas.data.splits import DataSet, Split
from hwnas.errors import ConfigError, RunFolderError
from hwnas.metrics import Scores
from hwnas.spaces.base import Genotype, Shape
from hwnas.supernet.files import TrainingState, restore, save_supernet
from hwnas.supernet.supernet import Supernet
from hwnas.supernet.ways import Way
from hwnas.training import (
    Recipe,
    TrainingDivergedError,
    WeightAverage,
    batches,
    channels_last,
    distillation_loss,
    evaluate,
    make_optimizer,
    mixed_precision,
    seeded,
)

CHECKS = 50  # how often in a training the loss is checked and progress reported
CHECKPOINT_SECONDS = 60.0
CALIBRATION_EXAMPLES, CALIBRATION_BATCH = 1024, 128


@dataclass(frozen=True, slots=True)
class SupernetTraining:
    """What a training gave; the supernet itself is trained in place.

    Attributes:
        train_seconds: Of this call.
        final_loss: Mean over the last few steps and their subnets, smoothing included.
        n_steps: Updates of the weights, those of earlier calls included.
    """

    train_seconds: float
    final_loss: float
    n_steps: int


def train_supernet(
    supernet: Supernet,
    data: DataSet,
    recipe: Recipe,
    way: Way,
    *,
    seed: int,
    checkpoint: Path | None = None,
    on_progress: Callable[[float], None] = lambda share: None,
) -> SupernetTraining:
    """Train in place on `data.train`; the supernet ends in train mode.

    A step adds up the gradients of some subnets on one batch, which each of them gets at its own
    resolution, then updates all weights that they touch.

    Args:
        supernet: On any device.
        data: The examples; validation and test are not read.
        recipe: How long and how; its `epochs` count batches, whatever number of subnets sees them.
        way: Which subnets each step trains, see `make_way`.
        seed: Of the order of examples, their augmentation, and dropout.
        checkpoint: Kept up to date each minute, at Ctrl-C and at the end. If it exists, training
            goes on from it; None: nothing is written.
        on_progress: Called with the share of steps done, 50 times or once a step; what it raises
            ends the training.

    Raises:
        TrainingDivergedError: The loss became NaN or infinite; the checkpoint is from before.
        RunFolderError: The checkpoint is of another space, or damaged, or cannot be written.
        DataError: The networks of the space cannot be given the data's examples.
        ConfigError: The recipe has what a supernet or this kind of data is not trained with, or
            the checkpoint is of another training.
    """
    start = time.perf_counter()
    for shape in supernet.space.input_table.values:
        Preprocessing.of(data, shape)
    if recipe.compile:
        raise ConfigError(
            "a supernet is trained without compile: every subnet is another graph; leave it out"
        )
    torch.set_flush_denormal(True)  # off again after it: it would hold for measurements too
    try:
        with seeded(seed), channels_last(supernet):
            session = _Session(supernet, data, recipe, way, seed, checkpoint)
            return session.run(on_progress, start)
    finally:
        torch.set_flush_denormal(False)


class _Session:
    """What one call of `train_supernet` holds."""

    def __init__(
        self,
        supernet: Supernet,
        data: DataSet,
        recipe: Recipe,
        way: Way,
        seed: int,
        checkpoint: Path | None,
    ) -> None:
        self.supernet = supernet.train()
        self.recipe = recipe
        self.way = way
        self.seed = seed
        self.checkpoint = checkpoint
        _, self.n_steps = recipe.steps(len(data.train))
        self.known = data.fingerprint
        self.identity = _identity(supernet, data, recipe, way, seed, self.n_steps)
        self.parameters = [p for p in supernet.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(self.parameters, recipe)
        self.average = WeightAverage(supernet, recipe.ema_decay) if recipe.ema_decay else None
        self.step = 0
        self.losses: list[Tensor] = []  # since the last check
        if checkpoint is not None and checkpoint.exists():
            self._resume(checkpoint)
        self.stream = batches(data.train, recipe, data, seed=seed, device=supernet.device)
        for _ in range(self.step):
            next(self.stream)

    def run(self, on_progress: Callable[[float], None], start: float) -> SupernetTraining:
        interval = math.ceil(self.n_steps / CHECKS)
        loss = self._mean_loss()
        saved = time.perf_counter()
        is_whole = True  # False: Ctrl-C came in the midst of an update
        try:
            while self.step < self.n_steps:
                gradient_losses = self._gradients(*next(self.stream))
                is_whole = False
                self._update()
                self.step += 1
                self.losses.append(gradient_losses)
                is_last = self.step == self.n_steps
                if is_last and self.average is not None:
                    self.average.copy_to_network()
                is_whole = True
                if self.step % interval == 0 or is_last:
                    loss = self._mean_loss()
                    if not is_last:
                        self.losses.clear()
                    on_progress(self.step / self.n_steps)
                if is_last or time.perf_counter() - saved > CHECKPOINT_SECONDS:
                    self._save()
                    saved = time.perf_counter()
        except KeyboardInterrupt:
            if is_whole:
                self._save()
            raise
        return SupernetTraining(time.perf_counter() - start, loss, self.n_steps)

    def _gradients(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Add up the gradients of the step's subnets; returns their mean loss."""
        rate = self.recipe.learning_rate_at((self.step + 0.5) / self.n_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(_step_seed(self.seed, self.step))  # of dropout
        self.optimizer.zero_grad()
        subnets = self.way.subnets(self.step, self.n_steps)
        taught: Tensor | None = None
        losses = []
        for genotype in subnets:
            with mixed_precision(inputs.device, self.recipe):
                logits = self.supernet(
                    fitted(inputs, self.supernet.input_shape(genotype)), genotype
                ).float()
            if taught is None:
                smoothing = self.recipe.label_smoothing
                loss = functional.cross_entropy(logits, labels, label_smoothing=smoothing)
            else:
                loss = distillation_loss(logits, taught, temperature=1.0)
            torch.autograd.backward(loss / len(subnets))
            losses.append(loss.detach())
            if self.way.distils and taught is None:
                taught = logits.detach()
        return torch.stack(losses).mean()

    def _update(self) -> None:
        nn.utils.clip_grad_norm_(self.parameters, self.recipe.max_gradient_norm, foreach=True)
        self.optimizer.step()
        if self.average is not None:
            self.average.update()

    def _mean_loss(self) -> float:
        """Since the last check.

        Raises:
            TrainingDivergedError: It is not finite.
        """
        if not self.losses:
            return math.nan
        loss = float(torch.stack(self.losses).mean())  # one look at many: a GPU need not wait
        if not math.isfinite(loss):
            raise TrainingDivergedError(
                f"the loss of the supernet became {loss} within {self.step} of {self.n_steps} "
                f"steps at learning rate {self.recipe.learning_rate:g}; lower the learning rate"
            )
        return loss

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        self._mean_loss()  # broken weights are not saved
        losses = [float(loss) for loss in self.losses]
        moments, means = {}, {}
        if self.step < self.n_steps:  # else nothing will need them
            moments = {
                name: dict(self.optimizer.state[parameter])
                for name, parameter in self.supernet.named_parameters()
                if parameter in self.optimizer.state
            }
            means = self.average.means if self.average is not None else {}
        state = TrainingState(self.identity, self.step, losses, moments, means)
        save_supernet(self.supernet, self.checkpoint, data=self.known, training=state)

    def _resume(self, path: Path) -> None:
        state = restore(self.supernet, path)
        if state is None or state.identity != self.identity:
            raise ConfigError(
                f"{path} is of another training (other data, recipe, seed or subnets): name "
                f"another file, or remove it"
            )
        parameters = dict(self.supernet.named_parameters())
        try:
            if not 0 <= state.step <= self.n_steps:
                raise ValueError(f"{state.step} of {self.n_steps} steps are done")
            for name, moments in state.optimizer.items():
                parameter = parameters[name]
                self.optimizer.state[parameter] = _moments(parameter, moments)
            if self.average is not None and state.step < self.n_steps:
                self.average.resume(state.average, state.step)
        except (LookupError, ValueError, RuntimeError) as error:
            raise RunFolderError(f"{path} is damaged ({error}); remove it") from None
        self.step = state.step
        self.losses = [torch.tensor(loss, device=self.supernet.device) for loss in state.losses]


def _moments(parameter: nn.Parameter, read: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """AdamW's state of a parameter, laid out as the parameter: its fused steps trust in that.

    Raises:
        LookupError, ValueError, RuntimeError: It is none of this parameter.
    """
    n_steps = float(read["step"])
    if not (math.isfinite(n_steps) and n_steps >= 1):
        raise ValueError(f"a parameter was updated {n_steps} times")
    moments = {"step": torch.tensor(n_steps, dtype=torch.float32, device=parameter.device)}
    for what in ("exp_avg", "exp_avg_sq"):
        if read[what].shape != parameter.shape:
            raise ValueError(f"{what} of {tuple(parameter.shape)} is {tuple(read[what].shape)}")
        moments[what] = torch.empty_like(parameter.detach()).copy_(read[what])
    return moments


def _step_seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])


def _identity(
    supernet: Supernet, data: DataSet, recipe: Recipe, way: Way, seed: int, n_steps: int
) -> str:
    """Changes whenever another training would give other weights."""
    steps = {0, n_steps // 2, n_steps - 1}
    subnets = [way.subnets(step, n_steps) for step in sorted(steps)]
    described = [supernet.space.fingerprint, data.fingerprint, asdict(recipe), seed, subnets]
    return hashlib.sha256(json.dumps([*described, way.distils]).encode()).hexdigest()


def fitted(inputs: Tensor, shape: Shape) -> Tensor:
    """Images of a batch at a subnet's size; other kinds of data have one size only."""
    if tuple(inputs.shape[1:]) == shape:
        return inputs
    sized = resize(inputs, shape[1], shape[2])
    return sized.contiguous(memory_format=torch.channels_last)


def calibration_batches(data: DataSet, input_shape: Shape) -> Iterator[Tensor]:
    """Examples of train for `Supernet.recalibrate`, the same ones for every subnet."""
    preprocessing = Preprocessing.of(data, input_shape)
    n = len(data.train)
    rows = np.random.default_rng(0).permutation(n)[:CALIBRATION_EXAMPLES]
    inputs = data.train.inputs[torch.from_numpy(rows)]
    for part in torch.split(inputs, CALIBRATION_BATCH):
        if len(part) > 1 or n == 1:  # no statistics of a single example
            yield preprocessing.apply(part)


def evaluate_subnet(
    supernet: Supernet, genotype: Genotype, data: DataSet, *, split: Split | None = None
) -> Scores:
    """Score a subnet with the weights that it inherits, after recalibrating its statistics.

    Args:
        supernet: Its mode does not matter, and stays.
        genotype: Which subnet.
        data: Examples of its train split give the statistics.
        split: What is scored; None: validation.
    Raises:
        TrainingDivergedError: A logit is NaN or infinite.
    """
    shape = supernet.input_shape(genotype)
    device = supernet.device
    batches = (x.to(device) for x in calibration_batches(data, shape))
    network = supernet.recalibrate(genotype, batches)
    return evaluate(network, data, split or data.validation, input_shape=shape)
