"""What training tells while it runs, and the progress bar that shows it in a terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal


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
    if console.is_jupyter:
        return NotebookBar()
    return ProgressBar(console) if console.is_terminal else Lines()


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
