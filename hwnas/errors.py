"""Errors that a user can cause. The command line prints the message alone and exits with 2."""

from predictors.errors import PredictorError
from profilers.errors import ProfilerError, unknown_name

__all__ = [
    "BudgetError",
    "ConfigError",
    "DataError",
    "ExportMismatchError",
    "HwnasError",
    "InfeasibleBudgetError",
    "PredictorError",
    "ProfilerError",
    "RunFolderError",
    "unknown_name",
]


class HwnasError(Exception):
    """Root of the errors of `hwnas`; the message says what was asked, what came and what to do."""


class ConfigError(HwnasError):
    """An option has a value that cannot be used, or names something that does not exist."""


class DataError(HwnasError):
    """A data set cannot be found, read, or does not have the shape that is needed."""


class BudgetError(HwnasError):
    """A budget cannot be read, or names a metric that this target cannot deliver."""


class InfeasibleBudgetError(BudgetError):
    """No network of the space meets the budget; the message names the nearest one."""


class ExportMismatchError(HwnasError):
    """The exported ONNX model does not compute what the PyTorch network computes."""


class RunFolderError(HwnasError):
    """A run folder holds something else than what was asked for, or cannot be written."""
