"""Errors of `predictors` that a user can cause."""


class PredictorError(Exception):
    """Root of the errors of `predictors`; messages say what came and what to do."""


class NotFittedError(PredictorError):
    """`predict` was called before `fit`."""


class PredictorFileError(PredictorError):
    """A predictor file is damaged, foreign, or of a version that this package cannot read."""


class WrongTargetError(PredictorError):
    """A predictor fitted on one target was asked about another."""
