"""What training tells while it runs, and the progress bar that shows it in a terminal."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from scduet.errors import ScduetWarning, TrainingInterrupted


@dataclass(frozen=True)
class Event:
    """One message of the engine to whoever called it."""

    kind: Literal["epoch", "log", "warning"]
    message: str
    epoch: int = 0  # epochs done
    max_epochs: int = 0
    seconds_left: float = 0.0  # estimate, if training runs to max_epochs
    terms: Mapping[str, float] = field(default_factory=dict)  # the epoch's row of the history


Listener = Callable[[Event], "bool | None"]  # returning True asks training to stop


def default_listener() -> Listener:
    """A progress bar in a terminal or notebook, now and then a line elsewhere; silence in R, which has its own."""
    if "rpytools" in sys.modules:
        return silent
    from rich.console import Console

    from scduet.train.progress import Lines, NotebookBar

    console = Console(stderr=True)
    display = NotebookBar() if console.is_jupyter else ProgressBar(console) if console.is_terminal else Lines()
    return SilentOnError(display)


class SilentOnError:
    """A progress display of ours. An error in it is reported once, as a warning, and never ends the work it shows."""

    def __init__(self, display: Listener):
        self._display, self._failed = display, False

    def __call__(self, event: Event) -> bool:
        return not self._failed and bool(self._tried(self._display, event))

    def close(self) -> None:
        self._tried(getattr(self._display, "close", lambda: None))

    def _tried(self, call: Callable, *arguments) -> Any:
        try:
            return call(*arguments)
        except (Exception, SystemExit) as error:  # rich exits where stderr is a closed pipe
            self._report(error)

    def _report(self, error: BaseException) -> None:
        if self._failed:
            return
        self._failed = True
        with warnings.catch_warnings():
            warnings.simplefilter("always", ScduetWarning)  # a filter "error" would end the work after all
            what = f"{type(error).__name__}: {error}"
            warnings.warn(f"the progress display failed and is switched off ({what})", ScduetWarning, stacklevel=2)


class RaiseLater:
    """A callback of training: an exception in it stops training, and is raised when there is a model to go with it."""

    def __init__(self, callback: Listener | None):
        self.takes_warnings = callback is not None  # else they are shown as all warnings are
        self._callback: Listener = callback or default_listener()
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


class ProgressBar:
    """Shows epochs, loss and time left with rich; removed when training ends."""

    def __init__(self, console):
        self._console, self._progress, self._task = console, None, None

    def __call__(self, event: Event) -> None:
        if event.kind != "epoch":
            self._console.print(event.message)
        else:
            self._update(event)

    def _update(self, event: Event) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        if self._progress is None:
            columns = TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
            self._progress = Progress(*columns, TextColumn("{task.description}"), console=self._console)
            self._task = self._progress.add_task("", total=event.max_epochs)
            self._progress.start()
        assert self._task is not None
        self._progress.update(self._task, completed=event.epoch, description=event.message)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()


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
