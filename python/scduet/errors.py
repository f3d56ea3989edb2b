"""What goes wrong, by kind. Every error names the thing and carries the remedy as `hint`."""

from typing import Any


class ScduetError(Exception):
    """Base of the errors that users can mend; `hint` says how, `details` are what programs may want to know."""

    def __init__(self, message: str, hint: str = "", **details: Any):
        super().__init__(f"{message}; {hint}" if hint else message)
        self.message, self.hint, self.details = message, hint, details


class DataError(ScduetError, ValueError):
    """The cells, genes or annotations given cannot be used."""


class OptionError(ScduetError, TypeError, ValueError):
    """An option that does not exist, or a value that it does not take."""


class FormatError(ScduetError, ValueError):
    """A file or folder that is truncated, foreign, or from a version that cannot be read."""


class DeviceError(ScduetError, RuntimeError):
    """A device was asked for that this machine or this build of torch does not have."""


class TrainingError(ScduetError, RuntimeError):
    """Training could not go on."""


class ScduetWarning(UserWarning):
    """The operation succeeded but may not do what was intended."""


class TrainingInterrupted(ScduetWarning):
    """Ctrl-C ended training; the model has the weights of that moment, or the best if early stopping watched them."""


def some(names, most: int = 3) -> str:
    """The first few of `names`, for a message: "'a', 'b', 'c' and 4 more"."""
    names = list(names)
    shown = ", ".join(repr(str(name)) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
