"""Predictors that ship with the package, for targets whose tables are in `data/`.

Their files stand beside this one, each named after its device and target, as
`cpu-epyc-2core.onnxruntime-cpu.fp32.1-thread.npz`. They are made by
`python -m predictors.pretrained data/FOLDER…` (`make pretrained` does it for all folders), again
whenever tables or predictors change.
"""

from __future__ import annotations

from pathlib import Path

from predictors.cost import CostPredictor
from predictors.errors import PredictorError
from predictors.files import describe_predictor, load_predictor
from profilers.errors import unknown_name
from profilers.targets import Target

FOLDER = Path(__file__).parent
SUFFIX = ".npz"


def pretrained_names() -> tuple[str, ...]:
    """Names of the predictors that ship, in alphabetical order."""
    return tuple(sorted(path.name.removesuffix(SUFFIX) for path in FOLDER.glob(f"*{SUFFIX}")))


def load_pretrained(name: str) -> CostPredictor:
    """Load one by its name.

    Raises:
        PredictorError: None has that name.
        PredictorFileError: Its file was damaged after it was installed.
    """
    if name not in pretrained_names():
        raise PredictorError(unknown_name("pretrained predictor", name, pretrained_names()))
    return load_predictor(FOLDER / (name + SUFFIX), CostPredictor)


def find_pretrained(target: Target) -> CostPredictor | None:
    """The one for exactly that target (device, runtime and its version, threads, …), if any."""
    for name in pretrained_names():
        described = describe_predictor(FOLDER / (name + SUFFIX))
        if described.target is not None and described.target.key == target.key:
            return load_pretrained(name)
    return None
