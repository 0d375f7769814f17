"""What explains a search, as data: `explanation.json` of a run folder, written and read here.

It holds what the files of a run do not tell by themselves: what the predictor says that each choice
does to the latency, how often each option is met among networks that keep the budgets, and what
each member of the front is made of and spends its time on. No torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hwnas.errors import RunFolderError
from profilers.limited import TEXT_BYTES, read_text

__all__ = [
    "EXPLANATION",
    "ChoiceEffect",
    "Explanation",
    "KindTime",
    "LayerTime",
    "MemberTime",
    "OptionShare",
    "read_explanation",
    "write_explanation",
]

EXPLANATION = "explanation.json"
FORMAT = "hwnas explanation 1"
MAX_EDGES = 1000  # of one cell


@dataclass(frozen=True, slots=True)
class OptionShare:
    """How often an option is met where its choice is active, and what it costs.

    Attributes:
        option: As text.
        random: Share among random networks that keep the budgets; None: too few have the choice.
        front: Share among the members of the front; None: no member has the choice.
        latency_ms: Geometric mean of the predicted latency of random networks with it.
    """

    option: str
    random: float | None
    front: float | None
    latency_ms: float | None


@dataclass(frozen=True, slots=True)
class ChoiceEffect:
    """What one choice does to the predicted latency of random networks, on a logarithmic scale.

    Attributes:
        name: Of the choice.
        alone: Share of the variance that it explains by itself (first-order Sobol index), 0 to 1.
        together: Share that would go if it alone were fixed last, what it does together with
            others included (total index), 0 to 1; None: not known.
        n_front: Members of the front in which it decides something.
        options: In the order of the choice.
    """

    name: str
    alone: float
    together: float | None
    n_front: int
    options: tuple[OptionShare, ...]


@dataclass(frozen=True, slots=True)
class LayerTime:
    """A block of a member.

    Attributes:
        block: Name of its class.
        fields: As `name=value, …`.
        out_shape: Of what it hands on, as text.
        params: Values of its weights, those that are not trained too.
        macs: Multiply-accumulates of one example.
        latency_ms: Predicted, of its kernels; None: not known.
        edges: `(source, target, label)` of the cell that it is; empty: it is none.
    """

    block: str
    fields: str
    out_shape: str
    params: int
    macs: int
    latency_ms: float | None
    edges: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class KindTime:
    """The kernels of one kind in a member.

    Attributes:
        kind: For people.
        n_kernels: How many.
        latency_ms: Predicted, of all together.
    """

    kind: str
    n_kernels: int
    latency_ms: float


@dataclass(frozen=True, slots=True)
class MemberTime:
    """What a member of the front is, and where its time goes.

    Attributes:
        name: Of the member.
        in_shape: Of one example, as text.
        layers: Its blocks in order.
        kinds: Its kernels by kind, the longest first.
        overhead_ms: What a run is predicted to take beside its kernels; may be negative.
    """

    name: str
    in_shape: str
    layers: tuple[LayerTime, ...]
    kinds: tuple[KindTime, ...]
    overhead_ms: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """What explains a search.

    Attributes:
        n_random: Random networks that `choices` speaks about.
        n_feasible: Random networks that keep the budgets.
        choices: In the order of the space.
        members: In the order of `front.csv`.
    """

    n_random: int
    n_feasible: int
    choices: tuple[ChoiceEffect, ...]
    members: tuple[MemberTime, ...]

    def member(self, name: str) -> MemberTime | None:
        """The member of that name."""
        return next((member for member in self.members if member.name == name), None)


def write_explanation(folder: Path, explanation: Explanation) -> Path:
    """Write `explanation.json` whole or not at all.

    Raises:
        RunFolderError: The folder cannot be written.
    """
    path = folder / EXPLANATION
    part = path.with_name(f"{path.name}.part")
    data = {"format": FORMAT} | asdict(explanation)
    try:
        part.write_text(json.dumps(data, allow_nan=False), encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise RunFolderError(f"cannot write {path}: {error.strerror or error}") from None
    return path


def read_explanation(folder: Path) -> Explanation | None:
    """Read `explanation.json`; None: there is none.

    Raises:
        RunFolderError: It cannot be read, or was not written by `write_explanation`.
    """
    path = folder / EXPLANATION
    if not path.exists():
        return None
    try:
        data = json.loads(read_text(path, TEXT_BYTES))
        if data["format"] != FORMAT:
            raise ValueError(f"its format is {data['format']!r}, not {FORMAT!r}")
        return Explanation(
            _count(data["n_random"]),
            _count(data["n_feasible"]),
            tuple(_choice(choice) for choice in data["choices"]),
            tuple(_member(member) for member in data["members"]),
        )
    except OSError as error:
        raise RunFolderError(f"cannot read {path}: {error.strerror or error}") from None
    except (
        LookupError, TypeError, ValueError, OverflowError, RecursionError, AttributeError,
    ) as error:  # fmt: skip
        raise RunFolderError(
            f"{path} cannot be understood ({error}): delete it, and the report is written without "
            f"it, or have it written again by `hwnas report --measurements`"
        ) from None


def _choice(data: Mapping[str, Any]) -> ChoiceEffect:
    return ChoiceEffect(
        _text(data["name"]),
        _number(data["alone"]),
        _maybe(data["together"]),
        _count(data["n_front"]),
        tuple(
            OptionShare(
                _text(option["option"]),
                _maybe(option["random"]),
                _maybe(option["front"]),
                _maybe(option["latency_ms"]),
            )
            for option in data["options"]
        ),
    )


def _member(data: Mapping[str, Any]) -> MemberTime:
    return MemberTime(
        _text(data["name"]),
        _text(data["in_shape"]),
        tuple(_layer(layer) for layer in data["layers"]),
        tuple(
            KindTime(_text(kind["kind"]), _count(kind["n_kernels"]), _number(kind["latency_ms"]))
            for kind in data["kinds"]
        ),
        _number(data["overhead_ms"]),
    )


def _layer(data: Mapping[str, Any]) -> LayerTime:
    edges = tuple((_text(a), _text(b), _text(label)) for a, b, label in data["edges"])
    if len(edges) > MAX_EDGES:
        raise ValueError(f"a cell has {len(edges):,} edges")
    return LayerTime(
        _text(data["block"]),
        _text(data["fields"]),
        _text(data["out_shape"]),
        _count(data["params"]),
        _count(data["macs"]),
        _maybe(data["latency_ms"]),
        edges,
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no text")
    return value


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError(f"{value!r:.40} is no count")
    return value


def _number(value: object) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value):  # type: ignore[arg-type]
        raise TypeError(f"{value!r:.40} is no finite number")
    return float(value)  # type: ignore[arg-type]


def _maybe(value: object) -> float | None:
    return None if value is None else _number(value)
