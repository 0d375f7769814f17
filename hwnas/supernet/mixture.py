"""Architecture parameters: a probability for each option of every choice, learned by gradients.

Two kinds of choices are told apart by what their options do to shapes (`Supernet.mixable`):

- Where no option changes a shape between slots (kernel sizes, expansions, operations, depths whose
  layers keep the shape), a slot runs several options and sums their outputs, weighted: the gradient
  of the weights says which option helps. A slot without a block passes its input on.
- All other choices (widths, resolutions) cannot be summed. Each step draws one of their options,
  and a policy gradient says whether the loss was better than with another draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from hwnas.errors import ConfigError
from hwnas.spaces.base import Block, Genotype, GenotypeArray, SearchSpace
from hwnas.supernet.supernet import Supernet

Relaxation = Literal["softmax", "gumbel", "two-path"]
RELAXATIONS: tuple[Relaxation, ...] = ("softmax", "gumbel", "two-path")
MAX_MIXED = 64  # blocks that a slot runs beside each other


class ArchitectureWeights(nn.Module):
    """One logit for each option of every choice; their softmax are the probabilities.

    Choices are independent of each other: a genotype's probability is the product.

    Attributes:
        logits: Of each choice, `(n_options,)`; at first 0, all options alike.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self._space = space
        self.logits = nn.ParameterList([torch.zeros(n) for n in space.n_options])

    def probabilities(self) -> tuple[Tensor, ...]:
        """Of each choice, `(n_options,)`."""
        return tuple(torch.softmax(logits, dim=0) for logits in self.logits)

    def sample(self, rng: np.random.Generator, n: int) -> GenotypeArray:
        """Draw valid genotypes, `(n, len(choices))`; where hardly any is valid, they repeat."""
        columns = []
        for probability in self.probabilities():
            values = probability.detach().double().cpu().numpy()
            columns.append(rng.choice(len(values), size=8 * n, p=values / values.sum()))
        drawn = np.stack(columns, axis=1).astype(np.int64)
        drawn = drawn[self._space.is_valid(drawn)]
        if not len(drawn):
            drawn = np.array([self.likeliest(self._space.sample(rng, 8 * n))])
        return np.resize(drawn, (n, drawn.shape[1]))

    def likeliest(self, genotypes: GenotypeArray) -> Genotype:
        """That of `(n, len(choices))` genotypes, n > 0, with the largest probability."""
        rows = torch.from_numpy(genotypes)
        logs = sum(
            functional.log_softmax(logits.detach().cpu(), dim=0)[rows[:, column]]
            for column, logits in enumerate(self.logits)
        )
        assert isinstance(logs, Tensor)
        return tuple(int(i) for i in genotypes[int(logs.argmax())])

    def modes(self) -> GenotypeArray:
        """The likeliest option of every choice, `(1, len(choices))`."""
        return np.array([[int(logits.argmax()) for logits in self.logits]], dtype=np.int64)

    def log_probability(self, genotype: Genotype, columns: Sequence[int]) -> Tensor:
        """Of the options of some choices, at least one: a scalar with gradients."""
        return torch.stack(
            [
                functional.log_softmax(self.logits[column], dim=0)[genotype[column]]
                for column in columns
            ]
        ).sum()


@dataclass(frozen=True)
class Draw:
    """What one forward pass of a mixture runs.

    Attributes:
        genotype: Decides what cannot be mixed; of two paths it is the first.
        rival: The second path; None: all options are run.
        weights: Where they are: of each choice those of its options, `(n_options,)`.
    """

    genotype: Genotype
    rival: Genotype | None = None
    weights: tuple[Tensor, ...] = ()


class Mixture:
    """Runs a supernet with weighted options.

    Args:
        supernet: Whose weights it runs on.
        weights: Of the options.
        relaxation: How options are weighted:
            `softmax`: by their probabilities, all at once (DARTS, Liu et al., ICLR 2019);
            `gumbel`: by a draw from the Gumbel-softmax of `temperature`, all at once (FBNet, Wu et
            al., CVPR 2019; SNAS, Xie et al., ICLR 2019);
            `two-path`: two options of each choice are drawn, one of the two is run and the other
            only for the gradient of their gate (ProxylessNAS, Cai et al., ICLR 2019). Its time
            and memory do not grow with the number of options.

    Attributes:
        mixed: Positions of the choices that are mixed.
        drawn: Positions of the others.
    """

    def __init__(
        self, supernet: Supernet, weights: ArchitectureWeights, relaxation: Relaxation
    ) -> None:
        if relaxation not in RELAXATIONS:
            raise ConfigError(
                f"relaxation must be one of {', '.join(RELAXATIONS)}, got {relaxation!r}"
            )
        self.supernet = supernet
        self.weights = weights
        self.relaxation = relaxation
        names = [choice.name for choice in supernet.space.choices]
        self.mixed = tuple(i for i, name in enumerate(names) if name in supernet.mixable)
        self.drawn = tuple(i for i in range(len(names)) if i not in self.mixed)

    def draw(self, rng: np.random.Generator, *, temperature: float = 1.0) -> Draw:
        """Draw what the next forward pass runs.

        Args:
            rng: Stream to draw from.
            temperature: Of the Gumbel-softmax; the lower, the nearer to one option.
        """
        genotype = tuple(int(i) for i in self.weights.sample(rng, 1)[0])
        if self.relaxation == "softmax":
            return Draw(genotype, weights=self.weights.probabilities())
        if self.relaxation == "gumbel":
            noisy = (
                (logits + torch.from_numpy(rng.gumbel(size=len(logits))).to(logits)) / temperature
                for logits in self.weights.logits
            )
            return Draw(genotype, weights=tuple(torch.softmax(values, dim=0) for values in noisy))
        rival = list(genotype)
        probabilities = self.weights.probabilities()
        for column in self.mixed:  # the second path without replacement
            rest = probabilities[column].detach().double().cpu().numpy().copy()
            rest[genotype[column]] = 0.0
            if rest.sum() > 0:
                rival[column] = int(rng.choice(len(rest), p=rest / rest.sum()))
        return Draw(genotype, tuple(rival))

    def forward(self, x: Tensor, draw: Draw) -> Tensor:
        """Outputs of the mixture, `(n, n_classes)`, of inputs of the shape of `draw.genotype`.

        Raises:
            ConfigError: A slot would have to run too many blocks at once.
        """
        for slot in range(len(self.supernet.space.slots)):
            if draw.rival is None:
                x = self._summed(x, slot, draw)
            else:
                x = self._gated(x, slot, draw.genotype, draw.rival)
        return x

    def shares(self, slot: int, draw: Draw) -> dict[Block | None, Tensor]:
        """The blocks that the mixed choices can give a slot, by the products of their weights.

        Raises:
            ConfigError: They are too many to run beside each other.
        """
        table = self.supernet.space.slot_tables[slot]
        mixed = [column for column in table.columns if column in self.mixed]
        shares: dict[Block | None, Tensor] = {}
        for options in product(*(range(len(draw.weights[column])) for column in mixed)):
            block = self._block(slot, draw.genotype, dict(zip(mixed, options, strict=True)))
            share = torch.ones((), device=self.supernet.device)
            for column, option in zip(mixed, options, strict=True):
                share = share * draw.weights[column][option]
            shares[block] = shares[block] + share if block in shares else share
        if len(shares) > MAX_MIXED:
            raise ConfigError(
                f"slot {slot} of space {self.supernet.space.name!r} would run {len(shares)} blocks "
                f"at once, more than {MAX_MIXED}; use relaxation 'two-path', as the strategy "
                f"'proxylessnas' does"
            )
        return shares

    def _summed(self, x: Tensor, slot: int, draw: Draw) -> Tensor:
        shares = self.shares(slot, draw)
        if len(shares) == 1:
            return self._run(slot, next(iter(shares)), x)
        # Dozens of blocks beside each other: what is inside of them is computed again backwards, or
        # it would not fit into memory.
        outputs = [
            share * checkpoint(self._run, slot, block, x, use_reentrant=False)
            for block, share in shares.items()
        ]
        return torch.stack(outputs).sum(dim=0)

    def _gated(self, x: Tensor, slot: int, genotype: Genotype, rival: Genotype) -> Tensor:
        """The first path's block, and a gate through which the difference to the second's acts."""
        table = self.supernet.space.slot_tables[slot]
        mixed = [column for column in table.columns if column in self.mixed]
        first, second = (
            self._block(slot, path, {column: path[column] for column in mixed})
            for path in (genotype, rival)
        )
        y = self._run(slot, first, x)
        if first == second or not torch.is_grad_enabled():
            return y
        scores = [
            torch.stack([self.weights.logits[column][path[column]] for column in mixed]).sum()
            for path in (genotype, rival)
        ]
        soft = torch.softmax(torch.stack(scores), dim=0)
        gates = soft - soft.detach()  # 0, with the gradient of the soft gates
        with torch.no_grad():
            other = self._run(slot, second, x)
        return y + gates[0] * y.detach() + gates[1] * other

    def _block(self, slot: int, genotype: Genotype, changed: dict[int, int]) -> Block | None:
        table = self.supernet.space.slot_tables[slot]
        index = tuple(changed.get(column, genotype[column]) for column in table.columns)
        block: Block | None = table.values[table.index[index]]
        return block

    def _run(self, slot: int, block: Block | None, x: Tensor) -> Tensor:
        return x if block is None else self.supernet.run_block(slot, block, x)
