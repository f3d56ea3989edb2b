"""What Ctrl-C does to a command: it says what is kept, and the exit code is 130."""

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scduet.errors import TrainingInterrupted

EXIT_CODE = 130  # 128 + the number of SIGINT, as shells report it
STATE = "training.safetensors"  # what `scduet.train.resume` keeps in the folder of --checkpoint


class Interrupted(Exception):
    """A command ended after Ctrl-C; the message says what is kept."""


def interruptible(command: Callable, keeps_model: bool = False) -> Callable:
    """`command`, which raises Interrupted after Ctrl-C.

    keeps_model: when training is interrupted, go on and write the model as trained so far; otherwise stop at once.
    """

    @functools.wraps(command)
    def run(**given: Any) -> None:
        with _interruptions(keeps_model) as noted:
            try:
                command(**given)
            except (KeyboardInterrupt, TrainingInterrupted):
                raise Interrupted(f"interrupted; no unfinished file is left{_state(given)}") from None
        if noted:
            raise Interrupted(f"{noted[-1]}; {_kept(given)} as trained so far{_state(given)}")

    return run


@contextmanager
def _interruptions(keeps_model: bool) -> Iterator[list[str]]:
    """The messages of trainings that were interrupted; an error instead, unless the model is to be kept."""
    noted: list[str] = []
    with warnings.catch_warnings():
        show = warnings.showwarning
        warnings.simplefilter("always" if keeps_model else "error", TrainingInterrupted)
        warnings.showwarning = lambda message, category, *rest, **named: (
            noted.append(str(message))
            if issubclass(category, TrainingInterrupted)
            else show(message, category, *rest, **named)
        )
        yield noted


def _kept(given: dict[str, Any]) -> str:
    names = [str(given[name]) for name in ("output", "save_model") if given.get(name)]
    return f"{' and '.join(names)} hold{'' if len(names) > 1 else 's'} the model"


def _state(given: dict[str, Any]) -> str:
    folder = given.get("checkpoint")
    if not folder or not (Path(folder) / STATE).exists():
        return ""
    return f"; the state of the run is in {folder}: run the same command again{_overwrite(given)} to continue"


def _overwrite(given: dict[str, Any]) -> str:
    taken = [name for name in ("output", "save_model") if given.get(name) and Path(given[name]).exists()]
    return " with --overwrite" if taken and not given.get("overwrite") else ""
