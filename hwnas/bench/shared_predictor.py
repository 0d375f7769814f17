"""The predictor that all searches of a bench use: fitted once, kept beside their run folders."""

from __future__ import annotations

from pathlib import Path

from hwnas.config import SearchConfig
from hwnas.cost import CostTable
from hwnas.cost_fit import fit_costs
from hwnas.data import load_data
from hwnas.errors import RunFolderError
from hwnas.profiling import profile_space
from hwnas.progress import Progress
from hwnas.run import PREDICTOR
from hwnas.spaces.for_data import space_for
from predictors.cost import CostPredictor
from predictors.files import load_predictor, save_predictor
from profilers.profiler import Profiler
from profilers.store import MeasurementStore
from profilers.targets import Target

__all__ = ["shared_predictor"]


def shared_predictor(
    config: SearchConfig,
    target: Target,
    out: Path,
    measurements: Path,
    progress: Progress,
    *,
    given: Path | None = None,
) -> Path:
    """The file of the predictor in `out`; made when it is not there yet.

    Args:
        config: Of the searches: their data and space, and how many networks to measure.
        target: What is predicted.
        out: Folder of the bench; need not exist.
        measurements: Database that what is measured goes to, and is taken from.
        progress: Told how it goes on.
        given: A fitted predictor of the target, which is copied; None: one is fitted, after
            measuring what the database does not hold.

    Raises:
        RunFolderError: The folder cannot be made.
        HwnasError, ProfilerError, PredictorError: Something else that the user can mend.
    """
    path = out / PREDICTOR
    if path.exists():
        return path
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"cannot create {out}: {error.strerror or error}") from None
    if given is not None:
        predictor = load_predictor(given, CostPredictor)
        predictor.check_target(target)
        save_predictor(predictor, path)
        return path
    data = load_data(config.data, path=Path(config.data_path) if config.data_path else None)
    space = space_for(config.space, data)
    with MeasurementStore(measurements) as store:
        found = profile_space(space, target, store, n_networks=config.networks, progress=progress)
        table = CostTable(space, Profiler(target), store)
        save_predictor(fit_costs(found, table, store, level=config.level), path)
    return path
