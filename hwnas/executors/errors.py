"""How an evaluation ends badly: by its own fault, by an accident, or because nothing can run."""

from __future__ import annotations

from hwnas.errors import HwnasError

__all__ = ["AccidentError", "EvaluationFailedError", "ExecutorError", "failure_of"]

MAX_REASON_LENGTH = 500
_MEMORY_WORDS = ("can't allocate memory", "not enough memory")  # of torch's allocator on a CPU


class EvaluationFailedError(HwnasError):
    """A candidate has no result; the message is the reason as the record keeps it."""


class AccidentError(EvaluationFailedError):
    """A candidate has no result, and that may not be its fault: it is worth a second try."""


class ExecutorError(HwnasError):
    """Nothing can be evaluated at all; the search ends, and no trial failed."""


def failure_of(error: Exception) -> EvaluationFailedError:
    """What an exception of an evaluation means, in words that a record can keep.

    Example:
        >>> failure_of(ValueError("no such layer"))
        EvaluationFailedError('ValueError: no such layer')
        >>> failure_of(MemoryError())
        AccidentError('out of memory: MemoryError')
    """
    if isinstance(error, EvaluationFailedError):
        return error
    reason = f"{type(error).__name__}: {error}"[:MAX_REASON_LENGTH].removesuffix(": ")
    if _is_out_of_memory(error):
        return AccidentError(f"out of memory: {reason}")
    return EvaluationFailedError(reason)


def _is_out_of_memory(error: Exception) -> bool:
    # torch's own error is known by its name: this module does without torch.
    names = {cls.__name__ for cls in type(error).__mro__}
    is_named = bool(names & {"MemoryError", "OutOfMemoryError"})
    return is_named or any(words in str(error) for words in _MEMORY_WORDS)
