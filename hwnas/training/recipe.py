"""How a network is trained, as plain values; and what a data set gets if nothing is said."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from hwnas.data.kinds import KINDS, Kind
from hwnas.data.splits import DataSet
from hwnas.errors import ConfigError, unknown_name

_TYPES: dict[str, type] = {"float": float, "int": int, "bool": bool, "str": str}
AUTO, FP32, BF16 = "auto", "fp32", "bf16"
PRECISIONS = (AUTO, FP32, BF16)
# Augmentations, and the kinds of data that each is for.
AUGMENTATIONS: dict[str, tuple[Kind, ...]] = {
    "max_shift": ("image", "signal"),
    "flip": ("image",),
    "erase": ("image",),
    "noise": ("signal", "table"),
    "mixup": ("image", "signal", "table"),
    "token_dropout": ("tokens",),
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a network is trained: AdamW, linear warm-up, then a cosine to zero.

    Attributes:
        epochs: Passes over train; 0.25 is a quarter of the steps of one.
        batch_size: Examples a step.
        learning_rate: At the peak.
        weight_decay: Of weights; biases and scales of normalisations have none.
        label_smoothing: Share of the target spread over all classes.
        max_shift: Largest random shift each way, as a share of an image's size or a signal's
            length; the border is repeated.
        flip: Mirror every second image, left to right.
        erase: Side of a square that is set to the mean at a random place of each image, as a share
            of its size (DeVries and Taylor, Cutout, 2017).
        noise: Deviation of the normal noise that is added, in deviations of a channel or feature.
        mixup: Examples are mixed in pairs, labels too, by shares from Beta(mixup, mixup) (Zhang
            et al., 2018); 0: they are not.
        token_dropout: Share of the token ids that are replaced by 0, padding (Iyyer et al., 2015).
        warmup_share: Share of the steps in which the learning rate rises.
        max_gradient_norm: Gradients are scaled down to it.
        ema_decay: Average the weights over some 1 / (1 - ema_decay) steps, and keep the average
            (Polyak and Juditsky, 1992); 0: keep the last weights.
        distillation: Weight of the teacher's answers against the labels, where there is a teacher.
        temperature: Softens the answers of teacher and student (Hinton et al., 2015).
        precision: `fp32`; `bf16`: layers compute in bfloat16, weights stay in float32; `auto`: bf16
            on a GPU that has it, fp32 elsewhere.
        compile: Train through `torch.compile`: faster steps after tens of seconds of compiling.
    """

    epochs: float
    batch_size: int = 64
    learning_rate: float = 1e-2
    weight_decay: float = 0.02
    label_smoothing: float = 0.05
    max_shift: float = 0.0
    flip: bool = False
    erase: float = 0.0
    noise: float = 0.0
    mixup: float = 0.0
    token_dropout: float = 0.0
    warmup_share: float = 0.15
    max_gradient_norm: float = 5.0
    ema_decay: float = 0.0
    distillation: float = 0.5
    temperature: float = 4.0
    precision: str = AUTO
    compile: bool = False

    def __post_init__(self) -> None:
        limits = {
            "epochs": (0 < self.epochs < math.inf, "> 0 and finite"),
            "batch_size": (self.batch_size >= 2, ">= 2, batch norm needs it"),
            "learning_rate": (0 < self.learning_rate < math.inf, "> 0 and finite"),
            "weight_decay": (self.weight_decay >= 0, ">= 0"),
            "max_gradient_norm": (self.max_gradient_norm > 0, "> 0"),
            "noise": (self.noise >= 0, ">= 0"),
            "mixup": (self.mixup >= 0, ">= 0"),
            "temperature": (self.temperature > 0, "> 0"),
            "distillation": (0 <= self.distillation <= 1, "in [0, 1]"),
            "precision": (self.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}"),
        } | {
            name: (0 <= getattr(self, name) < 1, "in [0, 1)")
            for name in ("label_smoothing", "max_shift", "erase", "token_dropout",
                         "warmup_share", "ema_decay")
        }  # fmt: skip
        for name, (is_met, limit) in limits.items():
            if not is_met:
                raise ConfigError(f"{name} must be {limit}, got {getattr(self, name)}")

    def check_kind(self, kind: Kind) -> None:
        """Make sure that the augmentations can be done to that kind of data.

        Raises:
            ConfigError: One cannot.
        """
        for name, kinds in AUGMENTATIONS.items():
            if getattr(self, name) and kind not in kinds:
                raise ConfigError(
                    f"{name} is for data of kind {' or '.join(kinds)}, these are of kind {kind}; "
                    f"leave it out"
                )

    def steps(self, n_examples: int) -> tuple[int, int]:
        """Steps an epoch (a last, smaller batch is left out) and steps in all."""
        per_epoch = max(1, n_examples // self.batch_size)
        return per_epoch, max(1, round(self.epochs * per_epoch))

    def learning_rate_at(self, progress: float) -> float:
        """The learning rate when a share `progress` of the steps is done."""
        if progress < self.warmup_share:
            return self.learning_rate * progress / self.warmup_share
        done = (progress - self.warmup_share) / (1 - self.warmup_share)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def with_changes(recipe: Recipe, texts: Sequence[str]) -> Recipe:
    """The recipe with some of its values replaced.

    Args:
        recipe: Where the other values come from.
        texts: Such as `learning_rate=0.003` or `flip=true`.

    Raises:
        ConfigError: One is no such text, or its value cannot be used.

    Example:
        >>> with_changes(Recipe(epochs=1), ["mixup=0.2", "flip=true"]).mixup
        0.2
    """
    types = {field.name: _TYPES[str(field.type)] for field in fields(recipe)}
    changes: dict[str, Any] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or name not in types:
            raise ConfigError(unknown_name("value of a recipe (NAME=VALUE)", name, types))
        wanted = types[name]
        try:
            changes[name] = (
                {"true": True, "false": False}[value] if wanted is bool else wanted(value)
            )
        except (KeyError, ValueError):
            expected = "true or false" if wanted is bool else f"{wanted.__name__}"
            raise ConfigError(f"{name} of a recipe must be {expected}, got {value!r}") from None
    return replace(recipe, **changes)


@dataclass(frozen=True)
class _Amount:
    """How much a training sees: examples in all, but not more than so many epochs."""

    examples: int
    max_epochs: float

    def epochs(self, n: int) -> float:
        return min(self.max_epochs, self.examples / n)


_SEARCH: dict[Kind, _Amount] = {
    "image": _Amount(11_000, 4.0),
    "signal": _Amount(11_000, 4.0),
    "table": _Amount(60_000, 60.0),
    "tokens": _Amount(7_500, 3.0),
}
_FINAL: dict[Kind, _Amount] = {
    "image": _Amount(110_000, 20.0),
    "signal": _Amount(110_000, 30.0),
    "table": _Amount(300_000, 200.0),
    "tokens": _Amount(40_000, 8.0),
}
# Beside the epochs; and what the long training adds, where examples are seen many times.
_VALUES: dict[Kind, dict[str, Any]] = {
    "image": {},
    "signal": {},
    "table": {"batch_size": 32},
    "tokens": {"batch_size": 32, "learning_rate": 3e-3},
}
_FINAL_VALUES: dict[Kind, dict[str, Any]] = {
    "image": {"max_shift": 0.05},
    "signal": {"max_shift": 0.05, "noise": 0.1},
    "table": {"noise": 0.1},
    "tokens": {"token_dropout": 0.1},
}
assert set(_SEARCH) == set(_FINAL) == set(_VALUES) == set(_FINAL_VALUES) == set(KINDS)


def default_recipes(data: DataSet) -> tuple[Recipe, Recipe]:
    """Recipes for candidates of the search, and for the members of the final front.

    By the kind of the data and the number of examples that a training sees, with a limit on
    repeating few of them. On one core that is seconds a candidate on digits and tens of seconds on
    Fashion-MNIST; ten times that for a member of the front. Augmentations pay only where examples
    are seen many times.
    """
    n, values = len(data.train), _VALUES[data.kind]
    search, final = _SEARCH[data.kind].epochs(n), _FINAL[data.kind].epochs(n)
    return Recipe(search, **values), Recipe(final, **values, **_FINAL_VALUES[data.kind])
