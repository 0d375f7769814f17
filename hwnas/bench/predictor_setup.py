"""What the parts of `hwnas bench predictor` share: options, databases, and how answers are judged.

All measurements go to databases beside each other, and none is made twice: a command that was
killed goes on when it is repeated. What no database says (how long a campaign has taken, which
networks were chosen) stands in a ledger beside them.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import ConfigError
from hwnas.families import FAMILIES
from hwnas.progress import Progress, Silent
from hwnas.spaces.base import SearchSpace
from predictors.metrics import accuracy
from profilers.devices import observed_device
from profilers.errors import ModelError
from profilers.isolation import AnyProfiler, IsolatedProfiler
from profilers.kernels import Kernel
from profilers.measurement import KernelLatency, NetworkMeasurement
from profilers.onnx_models import OnnxModel
from profilers.store import MeasurementStore
from profilers.targets import Target

FloatArray = NDArray[np.float64]

TRAINING, SURVEY, FAMILY = "", "survey", "families"  # databases
HELD_OUT, CHOSEN, EXCERPTS, ZOO = "held-out", "chosen", "excerpts", "zoo"
MIN_LEFT = 0.02  # of the minutes of a campaign: for less it does not go on
MAX_TRIES = 2  # of one network, in all runs together


class Answer(Protocol):
    """Predictions of n networks, all `(n,)`."""

    @property
    def latency_ms(self) -> FloatArray:
        """What is expected."""

    @property
    def low_ms(self) -> FloatArray:
        """Lower end of the interval."""

    @property
    def high_ms(self) -> FloatArray:
        """Upper end of the interval."""

    @property
    def known_share(self) -> FloatArray:
        """Share of the latency that rests on known kernels."""


@dataclass(frozen=True)
class PredictorBench:
    """Options of `hwnas bench predictor`.

    Attributes:
        target: What is predicted.
        space: Where the networks come from of which it shall predict more.
        measurements: Database that the predictor is fitted on; the others are named after it.
        train_minutes: How long measuring the space may take in all.
        survey_minutes: How long measuring random operators may take in all.
        n_held_out: Networks of the space that are measured twice and predicted.
        n_chosen: Networks of the space that a search would choose.
        n_per_family: Networks of each family.
        n_splits: Random splits over which the coverage of intervals is averaged.
        seconds: For one network at most; four times that while the machine is slow.
        measure_seconds: To measure kernels that are not known of one network; None: it is not done.
        seed: Of everything that is drawn.
        is_new: False: nothing is measured, what the databases hold is evaluated.
        models_folder: Where exported models are kept; None: beside the measurements.
        families: Names in `hwnas.families.FAMILIES`, two or more.
        progress: Told how it goes on.
        make_profiler: Called with the target and `references_ms`.
    """

    target: Target
    space: SearchSpace
    measurements: Path
    train_minutes: float = 20.0
    survey_minutes: float = 15.0
    n_held_out: int = 300
    n_chosen: int = 100
    n_per_family: int = 12
    n_splits: int = 20
    seconds: float = 1.0
    measure_seconds: float | None = 60.0
    seed: int = 0
    is_new: bool = True
    models_folder: Path | None = None
    families: tuple[str, ...] = tuple(FAMILIES)
    progress: Progress = field(default_factory=Silent)
    make_profiler: Callable[..., AbstractContextManager[AnyProfiler]] = IsolatedProfiler

    def __post_init__(self) -> None:
        counts = (self.n_held_out, self.n_chosen, self.n_per_family, self.n_splits)
        limits: tuple[float, ...] = (self.train_minutes, self.survey_minutes, self.seconds)
        if self.measure_seconds is not None:
            limits = (*limits, self.measure_seconds)
        if min(counts) < 1 or not all(limit > 0 for limit in limits):
            raise ConfigError(
                f"numbers of networks and splits must be at least 1 and times above 0, got "
                f"{counts} and {limits}"
            )
        if len(self.families) < 2:
            raise ConfigError(f"at least two families are needed, got {len(self.families)}")

    def database(self, name: str) -> Path:
        """The database of that name; `TRAINING` is `measurements` itself."""
        path = self.measurements
        return path.with_name(f"{path.stem}.{name}.db") if name else path

    @property
    def ledger(self) -> Ledger:
        """What was decided and spent before."""
        return Ledger(self.measurements.with_name(f"{self.measurements.stem}.ledger.json"))

    @contextmanager
    def profiler(self, store: MeasurementStore) -> Iterator[AnyProfiler]:
        """What measures, knowing from `store` how fast the machine has been."""
        references_ms = store.references_ms(self.target)
        with self.make_profiler(self.target, references_ms=references_ms) as profiler:
            yield profiler

    def campaign(
        self,
        name: str,
        store: MeasurementStore,
        minutes: float,
        measure: Callable[[float, AnyProfiler], object],
    ) -> float:
        """Let `measure`, given minutes and a profiler, go on until it took `minutes` in all runs.

        Returns:
            The minutes that it took.
        """
        name = f"{_file(store)}: {name}, {self.target.key}"
        done = f"{name}, done"
        left = minutes - self.ledger.minutes(name, store, self.target)
        is_done = self.ledger.get(done, 0.0) >= minutes
        if self.is_new and not is_done and left > MIN_LEFT * minutes:
            with (
                self.ledger.spending(name, store, self.target),
                self.profiler(store) as profiler,
            ):
                measure(left, profiler)
            self.ledger.put(done, minutes)
        return self.ledger.minutes(name, store, self.target)

    def measured(self, *names: str) -> tuple[list[NetworkMeasurement], dict[Kernel, KernelLatency]]:
        """The networks and the isolated kernels of the target in those databases."""
        networks: list[NetworkMeasurement] = []
        isolated: dict[Kernel, KernelLatency] = {}
        for name in names:
            path = self.database(name)
            if path.exists():
                with MeasurementStore(path) as store:
                    networks += store.networks(self.target)
                    isolated |= store.isolated(self.target)
        return networks, isolated


class Ledger:
    """Plain data by name in one JSON file, written whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, name: str, default: Any) -> Any:
        """What was put under `name`."""
        return self._read().get(name, default)

    def put(self, name: str, value: Any) -> None:
        """Keep `value` under `name`."""
        data = self._read() | {name: value}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(self.path.name + ".part")
        part.write_text(json.dumps(data), encoding="utf-8")
        part.replace(self.path)

    def _read(self) -> dict[str, Any]:
        try:
            data = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"cannot read {self.path}: {error}. It can be removed: then time spent before is "
                "not counted, and networks are chosen anew"
            ) from None
        if not isinstance(data, dict):
            raise ConfigError(f"{self.path} is no ledger of this command; name other measurements")
        return data

    def minutes(self, name: str, store: MeasurementStore, target: Target) -> float:
        """Minutes that the work `name` has taken so far, as `spending` noted them.

        Work that was killed ended with its last measurement. Where there is no note of any work on
        the database but there are measurements, they are taken to be of this one.
        """
        between = store.measured_between(target)
        spans = self._spans(name, store, between)
        last = between[1] if between else 0.0
        ended = ((start, last if end is None else end) for start, end in spans)
        return float(sum(max(0.0, end - start) for start, end in ended)) / 60

    def _spans(
        self, name: str, store: MeasurementStore, between: tuple[float, float] | None
    ) -> list[list[Any]]:
        notes = self._read()
        if name in notes:
            return [list(span) for span in notes[name]]
        is_noted = any(other.startswith(f"{_file(store)}: ") for other in notes)
        return [list(between)] if between and not is_noted else []

    @contextmanager
    def spending(self, name: str, store: MeasurementStore, target: Target) -> Iterator[None]:
        """Note when the block begins and ends."""
        between = store.measured_between(target)
        spans = self._spans(name, store, between)
        if spans and spans[-1][1] is None:  # it was killed
            spans[-1][1] = max(spans[-1][0], between[1] if between else 0.0)
        spans = [*spans, [time.time(), None]]
        self.put(name, spans)
        try:
            yield
        finally:
            spans[-1][1] = time.time()
            self.put(name, spans)


def _file(store: MeasurementStore) -> str:
    """Of the database, without its folder: that may be moved."""
    return Path(store.path).name


@dataclass(frozen=True)
class Wanted:
    """A network to measure.

    Attributes:
        digest: Under which the store knows it.
        make: The model.
        tags: What its measurement shall say of it.
    """

    digest: str
    make: Callable[[], OnnxModel]
    tags: Mapping[str, str] = field(default_factory=dict)


def measure_networks(
    bench: PredictorBench,
    store: MeasurementStore,
    wanted: Sequence[Wanted],
    *,
    name: str,
    passes: int = 1,
) -> None:
    """Measure each network `passes` times, in passes over all, as far as the store lacks them.

    A network that cannot be measured is a failure in the store, and the others go on.
    """
    device = observed_device()
    counts: dict[str, int] = {}
    for m in store.networks(bench.target):
        counts[m.digest] = counts.get(m.digest, 0) + 1
    todo = sum(max(0, passes - counts.get(each.digest, 0)) for each in wanted)
    if not todo or not bench.is_new:
        return
    done = 0
    with (
        bench.profiler(store) as profiler,
        bench.progress.task(name, todo) as task,
    ):
        for number in range(passes):
            for each in wanted:
                if counts.get(each.digest, 0) > number:
                    continue
                if store.n_failures(bench.target, each.digest) >= MAX_TRIES:
                    continue
                try:
                    model = each.make()
                    found = profiler.profile(model, seconds=bench.seconds, tags=each.tags)
                except ModelError as error:
                    store.add_failure(bench.target, each.digest, each.digest, str(error))
                    bench.progress.say(f"not measured, the others go on: {error}")
                    continue
                store.add(found, device)
                done += 1
                task.update(done, note=f"{found.name} {found.latency_ms:.3g} ms")


def judge(answer: Answer, measured_ms: FloatArray) -> dict[str, Any]:
    """How good predictions and their intervals are, as plain data; shares are in [0, 1]."""
    covered = (answer.low_ms <= measured_ms) & (measured_ms <= answer.high_ms)
    return plain(asdict(accuracy(answer.latency_ms, measured_ms))) | {
        "bias": float(np.mean(answer.latency_ms / measured_ms - 1)),
        "coverage": float(covered.mean()),
        "half_width": float(np.mean((answer.high_ms - answer.low_ms) / 2 / answer.latency_ms)),
        "known_share": float(np.mean(answer.known_share)),
    }


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same with None for nan, which JSON does not have."""
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in values.items()
    }
