"""Progress events, and handling of exceptions in callbacks, warnings and Ctrl-C."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from scduet.errors import ScduetWarning, TrainingInterrupted

Unit = Literal["epoch", "cell", "gene", "metric", "file"]


@dataclass(frozen=True)
class Event:
    """A progress report or message of the engine."""

    kind: Literal["progress", "log", "warning"]
    message: str
    done: int = 0  # of `total` units
    total: int = 0
    unit: Unit = "epoch"
    seconds_left: float = 0.0  # estimate, assuming no early stop
    terms: Mapping[str, float] = field(default_factory=dict)  # of an epoch: its row of the history


Listener = Callable[[Event], "bool | None"]  # returning True stops training


def counted(listener: Listener | None, message: str, unit: Unit) -> Callable[[int, int, float], object] | None:
    """A function of (done, total, seconds left) that sends Events to `listener`; None if there is no listener."""
    if listener is None:
        return None
    return lambda done, total, left=0.0: listener(Event("progress", message, done, total, unit, left))


class RaiseLater:
    """A training callback whose exceptions stop training and are raised once a model is available."""

    def __init__(self, callback: Listener, takes_warnings: bool = True):
        self.takes_warnings = takes_warnings  # otherwise they are shown like other warnings
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
        """Raise the callback's exception, if any."""
        if self.error is not None:
            raise self.error

    def handed_over(self, model: Any) -> Any:
        """Return `model`, or raise the callback's exception with the model as its attribute `model`."""
        if self.error is not None:
            self.error.model = model  # type: ignore[attr-defined]
        self.check()
        return model


def silent(event: Event) -> None:
    """Show nothing; messages go to the log."""
    if event.kind == "log":
        logging.getLogger("scduet").info(event.message)


@contextmanager
def warnings_to(listener: RaiseLater) -> Iterator[None]:
    """Send scduet's warnings to a user's `listener` as events inside this context."""
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
    """Warn that Ctrl-C stopped training; raise it instead if no epoch is complete."""
    if stopped != "interrupted":
        return
    if not n_epochs:
        raise KeyboardInterrupt
    warnings.warn(f"training was interrupted after {n_epochs} epochs", TrainingInterrupted, stacklevel=3)
