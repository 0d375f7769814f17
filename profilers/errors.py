"""Errors of `profilers` that a user can cause."""


class ProfilerError(Exception):
    """Root of the errors of `profilers`; the message says what was asked, what came, what to do."""


class ModelError(ProfilerError):
    """A model file cannot be read, checked or run."""


class TargetError(ProfilerError):
    """A target is unknown, or not available on this machine."""


class StoreError(ProfilerError):
    """A measurement database cannot be opened, read or written."""
