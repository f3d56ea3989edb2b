"""Progress displays: a bar in a terminal, a bar in a notebook that needs no widgets, lines on stderr elsewhere."""

from __future__ import annotations

import html
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

from scduet.errors import ScduetWarning
from scduet.events import Event, Listener, silent

LINE_AFTER = 30.0  # maximum seconds between two lines
DOING = {"epoch": "training", "cell": "embedding", "gene": "fitting", "metric": "scoring", "file": "downloading"}
DRAWN_EVERY = 0.2  # minimum seconds between two updates of a notebook's bar


def default_listener() -> Listener:
    """A progress bar in a terminal or notebook, occasional lines elsewhere; nothing in R, which has its own."""
    if "rpytools" in sys.modules:
        return silent
    from rich.console import Console

    console = Console(stderr=True)
    display = NotebookBar() if console.is_jupyter else ProgressBar(console) if console.is_terminal else Lines()
    return SilentOnError(display)


class SilentOnError:
    """A progress display. Errors in it are reported once, as a warning, and never stop the work."""

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
            warnings.simplefilter("always", ScduetWarning)  # the warning filter "error" would stop the work
            what = f"{type(error).__name__}: {error}"
            warnings.warn(f"the progress display failed and is switched off ({what})", ScduetWarning, stacklevel=2)


class ProgressBar:
    """Shows progress, message and time left with rich; removed when the work ends."""

    def __init__(self, console):
        self._console, self._progress, self._task = console, None, None

    def __call__(self, event: Event) -> None:
        if event.kind != "progress":
            self._console.print(event.message)
        else:
            self._update(event)

    def _update(self, event: Event) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        if self._progress is None:
            columns = TextColumn(DOING[event.unit]), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
            self._progress = Progress(*columns, TextColumn("{task.description}"), console=self._console)
            self._task = self._progress.add_task("", total=event.total)
            self._progress.start()
        assert self._task is not None
        self._progress.update(self._task, completed=event.done, description=event.message)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()


class Lines:
    """A line on stderr for each tenth of the work, and for each half minute of long work."""

    def __init__(self) -> None:
        self._tenth, self._written = 0, time.monotonic()

    def __call__(self, event: Event) -> None:
        if event.kind != "progress":
            self._write(event.message)
            return
        tenth = 10 * event.done // max(event.total, 1)
        if tenth > self._tenth or time.monotonic() - self._written > LINE_AFTER:
            self._tenth = tenth
            self._write(in_words(event))

    def _write(self, line: str) -> None:
        self._written = time.monotonic()
        print(f"scduet: {line}", file=sys.stderr, flush=True)


class NotebookBar:
    """A notebook output, updated in place. rich would need ipywidgets, which are often not installed."""

    def __init__(self) -> None:
        self._output: Any = None
        self._drawn, self._waiting = 0.0, None

    def __call__(self, event: Event) -> None:
        if event.kind != "progress":
            print(event.message)
            return
        self._waiting = event
        if event.done >= event.total or time.monotonic() - self._drawn > DRAWN_EVERY:
            self._draw(event)

    def close(self) -> None:
        """Show the last event, which may have been skipped."""
        if self._waiting is not None:
            self._draw(self._waiting)

    def _draw(self, event: Event) -> None:
        from IPython.display import display

        bar = f'<progress value="{event.done}" max="{event.total}"></progress>'
        shown = {"text/plain": in_words(event), "text/html": f"{bar} {html.escape(in_words(event))}"}
        if self._output is None:
            self._output = display(shown, raw=True, display_id=True)
        else:
            self._output.update(shown, raw=True)
        self._drawn, self._waiting = time.monotonic(), None


def in_words(event: Event) -> str:
    """Progress, message and time left, e.g. "epoch 20/200, loss validation 512.33, 40 s left"."""
    left = f", {duration(event.seconds_left)} left" if event.done < event.total else ""
    return f"{event.unit} {event.done:,}/{event.total:,}, {event.message}{left}"


def duration(seconds: float) -> str:
    """Format a duration: seconds below 90, then minutes, then hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
