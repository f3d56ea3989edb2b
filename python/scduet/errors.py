"""Exceptions and warnings. Every error names its cause and has a remedy as `hint`."""

from typing import Any


class ScduetError(Exception):
    """Base class of errors that users can fix; `hint` says how, `details` is for programs."""

    def __init__(self, message: str, hint: str = "", **details: Any):
        super().__init__(f"{message}; {hint}" if hint else message)
        self.message, self.hint, self.details = message, hint, details


class DataError(ScduetError, ValueError):
    """The cells, genes or annotations cannot be used."""


class OptionError(ScduetError, TypeError, ValueError):
    """An unknown option or an invalid value."""


class FormatError(ScduetError, ValueError):
    """A file or folder that is truncated, of an unknown format, or of an unsupported version."""


class DeviceError(ScduetError, RuntimeError):
    """The requested device is not available on this machine or in this build of torch."""


class TrainingError(ScduetError, RuntimeError):
    """Training failed."""


class ScduetWarning(UserWarning):
    """The operation succeeded but may not do what was intended."""


class TrainingInterrupted(ScduetWarning):
    """Ctrl-C stopped training; the model has the current weights, or the best ones with early stopping."""


def some(names, most: int = 3) -> str:
    """The first few of `names`, for a message: "'a', 'b', 'c' and 4 more"."""
    names = list(names)
    shown = ", ".join(repr(str(name)) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
