"""Which predictor answers `hwnas predict`: one by file or by name, or the one that ships."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from predictors.cost import CostPredictor
    from profilers.targets import Target

FILE_SUFFIX = ".npz"


def named_predictor(
    name: str, runtime: str | None, threads: int | None, precision: str | None
) -> tuple[CostPredictor, Target, str]:
    """A predictor by file or name, the target whose runtime is asked, and what is to be said.

    Raises:
        PredictorError: There is none, it is damaged, or it is of another target than asked for.
        TargetError: Its runtime is not to be had here.
    """
    from predictors.cost import CostPredictor
    from predictors.errors import WrongTargetError
    from predictors.files import load_predictor
    from predictors.pretrained import load_pretrained, pretrained_names
    from profilers.devices import this_device
    from profilers.targets import make_target

    is_file = Path(name).exists() or Path(name).suffix == FILE_SUFFIX or Path(name).name != name
    is_shipped = name in pretrained_names() or not is_file
    fitted = load_pretrained(name) if is_shipped else load_predictor(Path(name), CostPredictor)
    there = fitted.target_
    assert there is not None
    for option, asked, has in (
        ("--target", runtime, there.runtime),
        ("--threads", threads, there.threads),
        ("--precision", precision, there.precision),
    ):
        if asked is not None and asked != has:
            raise WrongTargetError(
                f"{option} {asked} was asked for, but {name} is of {there.describe()}: leave "
                f"{option} out, or name another predictor"
            )
    # The kernels of one thread are those of many: a shipped predictor may be of more cores.
    n_threads = min(there.threads, this_device().cores) if is_shipped else there.threads
    here = make_target(
        there.runtime, threads=n_threads, precision=there.precision, batch=there.batch
    )
    if here.key == there.key:
        return fitted, here, ""
    if not is_shipped:
        fitted.check_target(here)
    return fitted, here, (
        f"predicted for another target than this machine ({there.describe()}), from the kernels "
        f"that {here.runtime} {here.version} makes here"
    )  # fmt: skip


def shipped_predictor(
    runtime: str, threads: int, precision: str, batch: int
) -> tuple[CostPredictor, Target, str]:
    """The predictor that ships for a target of this machine.

    Raises:
        PredictorError: None does.
        TargetError: There is no such target here.
    """
    from predictors.errors import PredictorError
    from predictors.pretrained import find_pretrained, pretrained_names
    from profilers.targets import make_target

    here = make_target(runtime, threads=threads, precision=precision, batch=batch)
    fitted = find_pretrained(here)
    if fitted is None:
        raise PredictorError(
            f"no predictor ships for {here.describe()} [{here.key}]. Fit one (hwnas profile "
            f"space:mobile, then hwnas fit) and name it with --predictor, or name one of another "
            f"device, whose times it will say: {', '.join(pretrained_names()) or 'none ships'}"
        )
    return fitted, here, ""


def set_interval(predictor: CostPredictor, level: float | None, family: str | None) -> None:
    """Let a predictor answer at another level than that of its fit.

    Raises:
        PredictorError: It knows no networks of that family.
    """
    from predictors.errors import PredictorError
    from profilers.errors import unknown_name

    known = [name for name in predictor.latency.calibrations_ if name]
    if family is not None and family not in known:
        raise PredictorError(unknown_name("family", family, known))
    if level is not None:
        predictor.latency.level = level
        if predictor.energy is not None:
            predictor.energy.set_level(level)
