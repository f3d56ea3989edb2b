"""Models of a user's own: what their class must have, and how it is read from a file."""

from __future__ import annotations

from scduet._torch import torch  # noqa: F401  before any other import of it

import dataclasses
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any, get_args

from torch import nn

from scduet.contract import Expects
from scduet.errors import OptionError, ScduetError


def check_class(cls: Any) -> None:
    """Raises OptionError with the first of its `faults`."""
    for message, remedy in faults(cls):
        raise OptionError(message, remedy)


def faults(cls: Any) -> Iterator[tuple[str, str]]:
    """What a class lacks to be a model, and the remedy of each."""
    name = getattr(cls, "__name__", repr(cls))
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        yield f"{name!r} is not a class of torch.nn.Module", f"write class {name}(nn.Module)"
        return
    config = getattr(cls, "Config", None)
    if not (isinstance(config, type) and dataclasses.is_dataclass(config)):
        yield f"{name!r} has no Config", "give the class a dataclass Config with its options, which may be empty"
    else:
        missing = dataclasses.MISSING
        free = [f.name for f in dataclasses.fields(config) if f.default is missing and f.default_factory is missing]
        if free:
            yield f"{name}.Config: {', '.join(free)} without default", "give every option a default"
    if not getattr(cls, "players", ()):
        yield f"{name!r} has no players", 'set players = ("model",) in the class'
    if getattr(cls, "expects", None) not in get_args(Expects):
        known = ", ".join(repr(kind) for kind in get_args(Expects))
        yield f"{name!r} does not say what values it expects", f"set expects in the class to one of {known}"
    if cls.forward is nn.Module.forward:
        yield f"{name!r} has no forward", "define forward(self, cells, step), which returns a Loss"
    if not callable(getattr(cls, "embed", None)):
        yield f"{name!r} has no embed", "define embed(self, cells), which returns a tensor (cell, latent)"
    held = dict.fromkeys(getattr(cls, "needs", {}))
    try:
        inspect.signature(cls).bind("reference", "config", **held)
    except TypeError:
        yield f"{name!r} is not built from a reference and its config", "define __init__(self, reference, config)"


def class_in(spec: str) -> type:
    """The class of "file.py:Class". Runs the file, as python would.

    Raises OptionError where there is no such file or class, or the file cannot be run.
    """
    file, _, name = spec.rpartition(":")
    path = Path(file).expanduser().resolve()
    if not path.is_file():
        raise OptionError(f"{file} does not exist", 'give a model of your own as "file.py:Class"')
    module = f"scduet_own_{path.stem}"
    loader = SourceFileLoader(module, str(path))
    loaded = importlib.util.module_from_spec(importlib.util.spec_from_loader(module, loader))  # type: ignore[arg-type]
    sys.modules[module] = loaded  # annotations of dataclasses are looked up there
    try:
        loader.exec_module(loaded)
    except ScduetError:
        raise
    except Exception as error:
        message = f"{file} cannot be run: {type(error).__name__}: {error}"
        raise OptionError(message, "run it with python first") from error
    cls = getattr(loaded, name, None)
    if not isinstance(cls, type):
        theirs = [key for key, value in vars(loaded).items() if isinstance(value, type) and value.__module__ == module]
        raise OptionError(f"{file} defines no class {name!r}", f"it defines {', '.join(theirs) or 'none'}")
    return cls
