"""What a predictor rests on, in a few numbers that can be read without building it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from predictors.metrics import Accuracy
from profilers.targets import Target


@dataclass(frozen=True)
class TrainingSummary:
    """What a predictor was fitted on, and how good it was on what it did not see.

    Attributes:
        level: Share of networks that its intervals are made for.
        n_networks: Measured networks, or rows of a table; None: not told.
        n_kernels: Different kernels that were measured; None: not told, or not by kernels.
        measured_between: When the first and the last was measured, Unix seconds; None: not told.
        held_out: Accuracy on networks that the model did not see; None: none were held out.
        devices: Names of the devices that it learned from.
    """

    level: float
    n_networks: int | None = None
    n_kernels: int | None = None
    measured_between: tuple[float, float] | None = None
    held_out: Accuracy | None = None
    devices: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain data; a number that is not one becomes None."""
        plain = asdict(self)
        if self.held_out is not None:
            plain["held_out"] = {
                name: None if math.isnan(value) else value
                for name, value in asdict(self.held_out).items()
            }
        return plain | {"devices": list(self.devices)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainingSummary:
        """Rebuild what `to_dict` wrote.

        Raises:
            KeyError, TypeError, ValueError: It was not written by `to_dict`.
        """
        between, held_out = data["measured_between"], data["held_out"]
        if between is not None:
            first, last = between
            between = (_number(first), _number(last))
        if held_out is not None:
            shares = {
                name: math.nan if held_out[name] is None else _number(held_out[name])
                for name in ("mape", "within_5", "within_10", "spearman")
            }
            held_out = Accuracy(n=_count(held_out["n"]), **shares)
        level = _number(data["level"])
        if not 0 < level < 1:
            raise ValueError(f"its level is {level}")
        return cls(
            level=level,
            n_networks=_count_or_none(data["n_networks"]),
            n_kernels=_count_or_none(data["n_kernels"]),
            measured_between=between,
            held_out=held_out,
            devices=tuple(_text(name) for name in data["devices"]),
        )


@dataclass(frozen=True)
class PredictorSummary:
    """The header of a predictor's file.

    Attributes:
        kind: One of `predictors.files.KINDS`.
        format_version: Of the file.
        hwnas_version: That wrote it.
        target: Where its predictions hold; None: of a device that is known by name only.
        training: What it was fitted on.
    """

    kind: str
    format_version: int
    hwnas_version: str
    target: Target | None
    training: TrainingSummary

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "kind": self.kind,
            "format_version": self.format_version,
            "hwnas_version": self.hwnas_version,
            "target": self.target.to_dict() if self.target else None,
            "training": self.training.to_dict(),
        }


def read_target(data: Mapping[str, Any]) -> Target:
    """Rebuild a target from data that nobody vouches for.

    Raises:
        KeyError, TypeError, ValueError: A field is missing, or of another type.
    """
    counts = {name: _count(data[name]) for name in ("threads", "batch")}
    names = ("runtime", "version", "precision", "device", "device_name")
    return Target(**{name: _text(data[name]) for name in names}, **counts)  # type: ignore[arg-type]


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"a number is needed, got {str(value)[:50]!r}")
    return float(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
        raise TypeError(f"a count is needed, got {str(value)[:50]!r}")
    return value


def _count_or_none(value: Any) -> int | None:
    return None if value is None else _count(value)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable():  # it is shown on terminals
        raise TypeError(f"text is needed, got {str(value)[:50]!r}")
    return value
