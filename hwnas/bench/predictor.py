"""How good latency predictors are, in parts: within a space, on strange families, and how fast."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hwnas.bench.predictor_families import bench_families, measure_families, measure_survey
from hwnas.bench.predictor_kinds import bench_kinds
from hwnas.bench.predictor_setup import (
    FAMILY,
    HELD_OUT,
    SURVEY,
    TRAINING,
    PredictorBench,
)
from hwnas.bench.predictor_space import bench_space, measure_space
from hwnas.bench.predictor_speed import bench_speed
from hwnas.bench.zoo import bench_zoo
from hwnas.errors import ConfigError, HwnasError, PredictorError, ProfilerError, unknown_name
from profilers.devices import this_device
from profilers.measurement import NetworkMeasurement

ERROR = "error"


def bench_predictor_kinds(bench: PredictorBench) -> dict[str, Any]:
    """Other kinds of predictors on the same networks: in the space, and families never measured.

    All are fitted on what `bench_space` and `measure_survey` measured, and judged by the held-out
    networks of the one and the families of `bench_families`.

    Raises:
        ConfigError: One of them was not measured yet.
    """
    measure_space(bench)
    measure_survey(bench)
    measure_families(bench)
    train = bench.measured(TRAINING, SURVEY)[0]
    seen = {m.digest for m in train}
    tests: dict[str, list[NetworkMeasurement]] = {}
    for name, database in (("held-out networks of the space", HELD_OUT), ("families", FAMILY)):
        first = {m.digest: m for m in reversed(bench.measured(database)[0])}
        tests[name] = [m for m in first.values() if m.digest not in seen]
    return bench_kinds(train, tests, seed=bench.seed, progress=bench.progress)


# In the order in which they are run: later ones use what earlier ones measured.
PARTS: Mapping[str, Callable[[PredictorBench], dict[str, Any]]] = {
    "space": bench_space,
    "families": bench_families,
    "zoo": bench_zoo,
    "kinds": bench_predictor_kinds,
    "speed": bench_speed,
}


def bench_predictor(bench: PredictorBench, parts: Sequence[str] = tuple(PARTS)) -> dict[str, Any]:
    """Run parts of the benchmark; what was measured before is not measured again.

    A part that fails is a line that says why, and the others go on.

    Returns:
        Plain data: `target`, `device`, `space`, and each part under its name.

    Raises:
        ConfigError: There is no such part.
        HwnasError, PredictorError, ProfilerError: All of them failed; the error of the last.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not parts:
        raise ConfigError(unknown_name("part", unknown[0] if unknown else "", PARTS))
    record: dict[str, Any] = {
        "target": bench.target.describe(),
        "device": this_device().cpu,
        "space": bench.space.name,
        "seed": bench.seed,
    }
    failures: list[Exception] = []
    for name, run in PARTS.items():
        if name in parts:
            try:
                record[name] = run(bench)
            except (HwnasError, PredictorError, ProfilerError) as error:
                failures.append(error)
                record[name] = {ERROR: str(error)}
                bench.progress.say(f"{name}: {error}")
    if len(failures) == len(set(parts)):
        raise failures[-1]
    return record
