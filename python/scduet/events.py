"""Events: what the engine reports while it works, and what becomes of a callback's exceptions, warnings and Ctrl-C."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from scduet.errors import ScduetWarning, TrainingInterrupted

Unit = Literal["epoch", "cell", "metric", "file"]


@dataclass(frozen=True)
class Event:
    """One message of the engine to whoever called it."""

    kind: Literal["progress", "log", "warning"]
    message: str
    done: int = 0  # of `total` units
    total: int = 0
    unit: Unit = "epoch"
    seconds_left: float = 0.0  # estimate, if the work is not stopped early
    terms: Mapping[str, float] = field(default_factory=dict)  # of an epoch: its row of the history


Listener = Callable[[Event], "bool | None"]  # returning True asks training to stop


def counted(listener: Listener | None, message: str, unit: Unit) -> Callable[[int, int, float], object] | None:
    """A function of (done, total, seconds left) that tells `listener` of them; None where nobody listens."""
    if listener is None:
        return None
    return lambda done, total, left=0.0: listener(Event("progress", message, done, total, unit, left))


class RaiseLater:
    """A callback of training: an exception in it stops training, and is raised when there is a model to go with it."""

    def __init__(self, callback: Listener, takes_warnings: bool = True):
        self.takes_warnings = takes_warnings  # else they are shown as all warnings are
        self._callback = callback
        self.error: Exception | None = None

    def __call__(self, event: Event) -> bool:
        if self.error is None:
            try:
                return bool(self._callback(event))
            except Exception as error:
                self.error = error
        return True

    def close(self) -> None:
        getattr(self._callback, "close", lambda: None)()

    def check(self) -> None:
        """Raise what the callback has raised so far."""
        if self.error is not None:
            raise self.error

    def handed_over(self, model: Any) -> Any:
        """`model`; or what the callback raised, with the model as its attribute `model`."""
        if self.error is not None:
            self.error.model = model  # type: ignore[attr-defined]
        self.check()
        return model


def silent(event: Event) -> None:
    """Shows nothing; messages go to the log."""
    if event.kind == "log":
        logging.getLogger("scduet").info(event.message)


@contextmanager
def warnings_to(listener: RaiseLater) -> Iterator[None]:
    """Inside, our warnings go to `listener` as events, if it is the user's."""
    with warnings.catch_warnings():
        usual = warnings.showwarning
        if listener.takes_warnings:
            warnings.showwarning = lambda message, category, *rest, **named: (
                listener(Event("warning", str(message)))
                if issubclass(category, ScduetWarning)
                else usual(message, category, *rest, **named)
            )
        yield


def tell_interrupted(stopped: str, n_epochs: int) -> None:
    """Warn that Ctrl-C ended training; before the first epoch is done raise it, for untrained weights are no model."""
    if stopped != "interrupted":
        return
    if not n_epochs:
        raise KeyboardInterrupt
    warnings.warn(f"training was interrupted after {n_epochs} epochs", TrainingInterrupted, stacklevel=3)
