"""Search by gradients: weights of the networks and of the architecture in turns."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from hwnas.data.splits import DataSet, Split, stratified_order
from hwnas.spaces.base import Genotype, GenotypeArray
from hwnas.strategies.base import Problem
from hwnas.supernet.expected_latency import expected_latency, option_latencies
from hwnas.supernet.mixture import ArchitectureWeights, Draw, Mixture, Relaxation
from hwnas.supernet.sampling import Sampler
from hwnas.supernet.supernet import Supernet
from hwnas.supernet.training import CHECKS, fitted
from hwnas.training import (
    Batch,
    Recipe,
    TrainingDivergedError,
    batches,
    channels_last,
    make_optimizer,
    mixed_precision,
    seeded,
)

N_BASES = 32  # networks drawn to know what options take
N_LOOKS = 50  # at latencies, in a search: of some spaces many networks are dear to predict
N_CANDIDATES = 1024  # networks drawn at the end, of which the likeliest feasible one is taken


@dataclass(frozen=True, slots=True)
class GradientSearch:
    """How architecture weights are learned.

    Attributes:
        relaxation: How options are weighted, see `Mixture`.
        learning_rate: Of the architecture weights, by Adam.
        latency_weight: What the expected latency counts beside the cross-entropy, per multiple of
            the mean latency of the untrained weights; 0: nothing.
        warmup_share: Share of the steps in which only the networks' weights are trained.
        temperature: Of the Gumbel-softmax, at the start and at the end, falling exponentially.
    """

    relaxation: Relaxation = "two-path"
    learning_rate: float = 0.03
    latency_weight: float = 0.0
    warmup_share: float = 0.2
    temperature: tuple[float, float] = (5.0, 0.5)


def search_by_gradient(
    supernet: Supernet,
    data: DataSet,
    recipe: Recipe,
    settings: GradientSearch,
    *,
    seed: int,
    problem: Problem | None = None,
    on_progress: Callable[[float], None] = lambda share: None,
) -> ArchitectureWeights:
    """Train the supernet's weights on one half of `data.train`, the architecture's on the other.

    In turns, a step each (first order, as in DARTS). The supernet is trained in place and ends in
    train mode.

    Args:
        supernet: On any device.
        data: Validation and test are not read.
        recipe: Of the networks' weights; its epochs count one half.
        settings: Of the architecture's weights.
        seed: Of all that is drawn.
        problem: Predicts latencies; needed for a latency weight.
        on_progress: Called with the share of steps done; what it raises ends the search.

    Raises:
        ValueError: There is a latency weight but no problem.
        TrainingDivergedError: The loss became NaN or infinite.
        ConfigError: The recipe is for other data; or a slot would run too many blocks at once.
    """
    if settings.latency_weight and problem is None:
        raise ValueError("a latency weight needs a problem, which predicts latencies")
    with seeded(seed), channels_last(supernet):
        session = _Session(supernet.train(), data, recipe, settings, seed, problem)
        interval = math.ceil(session.n_steps / CHECKS)
        for step in range(session.n_steps):
            session.step(step)
            if (step + 1) % interval == 0 or step + 1 == session.n_steps:
                session.check(step)
                on_progress((step + 1) / session.n_steps)
    return session.weights


def derive(weights: ArchitectureWeights, sampler: Sampler, rng: np.random.Generator) -> Genotype:
    """The likeliest network that is valid and meets the budgets of the sampler's problem.

    The likeliest option of every choice, if that is feasible; else the likeliest of some draws.

    Raises:
        InfeasibleBudgetError: No network of the space was found to meet the budgets.
    """
    modes = weights.modes()
    candidates = np.vstack([modes, weights.sample(rng, N_CANDIDATES)])
    feasible = candidates[sampler.is_feasible(candidates)]
    return weights.likeliest(feasible) if len(feasible) else sampler.draw(rng)


class _Session:
    """What one call of `search_by_gradient` holds."""

    def __init__(
        self,
        supernet: Supernet,
        data: DataSet,
        recipe: Recipe,
        settings: GradientSearch,
        seed: int,
        problem: Problem | None,
    ) -> None:
        self.supernet = supernet
        self.recipe = recipe
        self.settings = settings
        self.seed = seed
        self.problem = problem
        device = supernet.device
        first, second = _halves(data.train)
        _, self.n_steps = recipe.steps(len(first))
        self.streams = tuple(
            batches(part, recipe, data, seed=seed + i, device=device)
            for i, part in enumerate((first, second))
        )
        self.weights = ArchitectureWeights(supernet.space).to(device)
        self.mixture = Mixture(supernet, self.weights, settings.relaxation)
        self.parameters = [p for p in supernet.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(self.parameters, recipe)
        self.architecture_optimizer = torch.optim.Adam(
            self.weights.parameters(), lr=settings.learning_rate, betas=(0.5, 0.999)
        )
        self.first_latency_ms: float | None = None
        self.latencies: list[NDArray[np.float64]] = []  # of the options, as known last
        self.next_look = 0.0  # share of the steps
        self.last_loss = torch.zeros(())

    def step(self, step: int) -> None:
        """Train the networks' weights, and after the warm-up the architecture's."""
        progress = (step + 0.5) / self.n_steps
        rng = np.random.default_rng([self.seed, step])
        hot, cold = self.settings.temperature
        temperature = hot * (cold / hot) ** progress
        with torch.no_grad():
            draw = self.mixture.draw(rng, temperature=temperature)
        if draw.rival is not None:
            draw = replace(draw, rival=draw.genotype)  # one path is trained
        loss = self._loss(draw, *next(self.streams[0]))
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate_at(progress)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.parameters, self.recipe.max_gradient_norm, foreach=True)
        self.optimizer.step()
        self.last_loss = loss.detach()
        if progress >= self.settings.warmup_share:
            draw = self.mixture.draw(rng, temperature=temperature)
            self._train_architecture(draw, progress, rng)

    def check(self, step: int) -> None:
        """Raise TrainingDivergedError if the last loss is not finite."""
        loss = float(self.last_loss)
        if not math.isfinite(loss):
            raise TrainingDivergedError(
                f"the loss of the mixture became {loss} within {step + 1} of {self.n_steps} steps "
                f"at learning rate {self.recipe.learning_rate:g}; lower the learning rate"
            )

    def _train_architecture(self, draw: Draw, progress: float, rng: np.random.Generator) -> None:
        batch = next(self.streams[1])
        loss = self._loss(draw, *batch)
        total = loss + self._policy_loss(draw, loss.detach(), batch, rng)
        total = total + self._latency_loss(progress, rng)
        logits = list(self.weights.parameters())
        gradients = torch.autograd.grad(total, logits, allow_unused=True)
        for parameter, gradient in zip(logits, gradients, strict=True):
            parameter.grad = gradient
        self.architecture_optimizer.step()

    def _policy_loss(
        self, draw: Draw, loss: Tensor, batch: Batch, rng: np.random.Generator
    ) -> Tensor | float:
        """What has the policy gradient of the choices that cannot be mixed.

        The drawn options are compared with others on the same batch (Kool et al., Buy 4 REINFORCE
        samples, get a baseline for free, 2019): a running mean would lag behind a falling loss and
        confirm whatever is drawn.
        """
        drawn = self.mixture.drawn
        again = self.weights.sample(rng, 1)[0]
        genotype = list(draw.genotype)
        for column in drawn:
            genotype[column] = int(again[column])
        other = tuple(genotype)
        if other == draw.genotype:
            return 0.0
        rival = None if draw.rival is None else other
        with torch.no_grad():
            advantage = loss - self._loss(replace(draw, genotype=other, rival=rival), *batch)
        logs = (self.weights.log_probability(path, drawn) for path in (draw.genotype, other))
        return 0.5 * advantage * (next(logs) - next(logs))

    def _latency_loss(self, progress: float, rng: np.random.Generator) -> Tensor | float:
        if self.problem is None or not self.settings.latency_weight:
            return 0.0
        if progress >= self.next_look:
            self.latencies = option_latencies(
                self.weights.sample(rng, N_BASES),
                self.supernet.space,
                self._latency_ms,
            )
            self.next_look = progress + 1 / N_LOOKS
        expected = expected_latency(self.weights, self.latencies)
        if self.first_latency_ms is None:
            self.first_latency_ms = float(expected.detach())
        return self.settings.latency_weight * expected / self.first_latency_ms

    def _latency_ms(self, genotypes: GenotypeArray) -> NDArray[np.float64]:
        assert self.problem is not None
        return self.problem.predict(genotypes).latency_ms

    def _loss(self, draw: Draw, inputs: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of the mixture."""
        x = fitted(inputs, self.supernet.input_shape(draw.genotype))
        with mixed_precision(inputs.device, self.recipe):
            logits = self.mixture.forward(x, draw).float()
        smoothing = self.recipe.label_smoothing
        return functional.cross_entropy(logits, labels, label_smoothing=smoothing)


def _halves(split: Split) -> tuple[Split, Split]:
    """Two halves with the classes in proportion; of a single example twice the same."""
    order = stratified_order(split.labels)
    middle = max(1, len(order) // 2)
    return split.take(order[:middle]), split.take(order[-middle:])
