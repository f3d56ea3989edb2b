"""What the R package calls: plain functions over numbers, text and bytes. `ask` runs one of them and never raises.

R sends vectors (`codec.Vector`), gets Python objects back that it cannot see into, and fetches from them what it needs.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

import scduet
from scduet.errors import FormatError, ScduetError, ScduetWarning
from scduet.interop import codec, objects

PROTOCOL = 1  # raised whenever R and Python must change together; R refuses another number
CALLS_A_SECOND = 5  # more slow the console down
_noted: list[str] = []  # warnings that came as events during a call


@dataclass(frozen=True)
class Answer:
    """What came of a call: a value, or an error (type, message, hint, traceback); and the engine's warnings."""

    value: Any = None
    error: dict[str, str] | None = None
    warnings: list[str] = field(default_factory=list)


def ask(name: str, arguments: dict[str, Any]) -> Answer:
    """Run the function `name` of the table below; errors come back as text, alike in every version of reticulate.

    KeyboardInterrupt passes: reticulate makes it R's interrupt.
    """
    _noted.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        try:
            value, error = FUNCTIONS[name](**arguments), None
        except Exception as problem:
            value, error = None, _described(problem)
    ours = [str(w.message) for w in caught if issubclass(w.category, ScduetWarning)]
    return Answer(value, error, [*_noted, *ours])


@dataclass(frozen=True)
class Trained:
    """What R keeps of a model: plain facts, training curves, coordinates of the cells."""

    facts: dict[str, Any]
    history: list[codec.Column]
    embedding: objects.Block | None = None


def train(adata, model: str, options: dict[str, Any], folder: str, callback: Callable | None = None) -> Trained:
    """Fit `model` on `adata`, save it in `folder`, embed the cells."""
    fitted = scduet.fit(adata, model, callback=_listener(callback), **options)
    fitted.save(folder)
    return Trained(_facts(fitted, folder), _history(fitted), objects.block(fitted.embed().T))


def embed(folder: str, sha256: str, adata) -> objects.Block:
    """Coordinates (cell, latent) of the cells of `adata` under a saved model."""
    return objects.block(_model(folder, sha256).embed(adata).T)


def describe(folder: str) -> Trained:
    """A saved model's facts and history; raises FormatError when it cannot be read."""
    model = scduet.load(folder)
    return Trained(_facts(model, folder), _history(model))


def save(folder: str, sha256: str, to: str, overwrite: bool) -> None:
    """Save the model of `folder` under another name."""
    _model(folder, sha256).save(to, overwrite)


@dataclass(frozen=True)
class Scored:
    """A table of scores, and why some values are missing."""

    columns: list[codec.Column]
    reasons: list[codec.Column]


def score(adata, embeddings: list[str] | None, options: dict[str, Any]) -> Scored:
    """The table of `scduet.score`, its first column the names of the embeddings."""
    table = scduet.score(adata, embeddings, **options)
    reasons = [(name, metric, why) for name, row in table.attrs["reasons"].items() for metric, why in row.items()]
    told = pd.DataFrame(reasons, columns=["embedding", "metric", "reason"], dtype=object)
    return Scored(codec.columns_of(table.rename_axis("embedding").reset_index()), codec.columns_of(told))


def versions() -> dict[str, str | bool]:
    """Of Python, the engine and what it stands on; "deepbind" says how torch was bound."""
    from scduet._torch import torch

    from importlib.metadata import version

    found = {name: version(name) for name in ("numpy", "scipy", "pandas", "anndata")}
    return {
        "python": sys.version.split()[0],
        "executable": sys.executable,
        "scduet": scduet.__version__,
        **found,
        "torch": str(torch.__version__),
        "device": _device(torch),
        "deepbind": deepbind(),
    }


def deepbind() -> bool:
    """Whether torch sees its own BLAS first, not R's. On Linux this needs that scduet is what imports torch."""
    from scduet._torch import DEEPBIND

    return DEEPBIND or not sys.platform.startswith("linux")


def digest(folder: str) -> str:
    """sha256 of the files of a folder, names and bytes, in the order of their names."""
    total = hashlib.sha256()
    for path in sorted(Path(folder).iterdir()):
        total.update(path.name.encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def _facts(model, folder: str) -> dict[str, Any]:
    fields = model.schema.fields
    return {
        "model": model.name,
        "version": scduet.__version__,
        "sha256": digest(folder),
        "genes": list(model.genes),
        "batch": fields.batch_key,
        "labels": fields.labels_key,
        "epochs": len(model.history),
    }


@lru_cache(maxsize=4)
def _model(folder: str, sha256: str):
    """The model saved in `folder`; R names the folder after the digest, so a second call finds it loaded."""
    found = digest(folder) if os.path.isdir(folder) else ""
    if found != sha256:
        what = "was changed since it was saved" if found else "is not there any more"
        raise FormatError(f"the model in {folder!r} {what}", "load it again with LoadModel(), or train it again")
    return scduet.load(folder)


def _history(model) -> list[codec.Column]:
    return codec.columns_of(model.history.reset_index())


def _listener(callback: Callable | None) -> Callable:
    """An engine callback: notes warnings, and tells R of logs, the last epoch, and a few epochs a second."""
    last = 0.0

    def tell(event) -> bool:
        nonlocal last
        if event.kind == "warning":
            _noted.append(event.message)
        due = event.kind == "log" or event.epoch >= event.max_epochs or time.monotonic() - last > 1 / CALLS_A_SECOND
        if event.kind == "warning" or callback is None or not due:
            return False
        last = time.monotonic()
        return _called(callback, event)

    return tell


def _called(callback: Callable, event) -> bool:
    try:
        return bool(callback(event.kind, event.message, event.epoch, event.max_epochs, event.seconds_left))
    except RuntimeError as error:
        if "Unknown exception" in str(error):  # how reticulate before 1.29 tells of Ctrl-C inside an R function
            raise KeyboardInterrupt from None
        raise


def _mend_interrupts() -> None:
    """Let reticulate before 1.41 see Ctrl-C without running R code, which the same Ctrl-C may break off half-way.

    Its handler asks an R function whether an interrupt is pending; R's own flag says the same.
    """
    signals = sys.modules.get("rpytools.signals")
    if getattr(signals, "_callback", None) is None:
        return
    try:
        flag = ctypes.c_int.in_dll(ctypes.CDLL(None), "R_interrupts_pending")
    except (ValueError, OSError, TypeError):  # R is not a shared library, or Windows
        return

    def pending(clear: bool) -> bool:
        found = bool(flag.value)
        if clear:
            flag.value = 0
        return found

    signals._callback = pending  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]


def _described(problem: Exception) -> dict[str, str]:
    ours = isinstance(problem, ScduetError)
    return {
        "type": type(problem).__name__,
        "message": problem.message if ours else f"{type(problem).__name__}: {problem}",
        "hint": problem.hint if ours else "",
        "traceback": "".join(traceback.format_exception(problem)),
    }


def _device(torch) -> str:
    if torch.cuda.is_available():
        return f"cuda ({torch.cuda.get_device_name()})"
    return "mps" if torch.backends.mps.is_available() else "cpu"


FUNCTIONS: dict[str, Callable] = {
    **{f.__name__: f for f in (train, embed, describe, save, score, versions)},
    **{f.__name__: f for f in (codec.text, codec.csr, codec.dense, codec.column, codec.frame)},
    **{f.__name__: f for f in (objects.new, objects.put, objects.select, objects.contents, objects.names)},
    **{f.__name__: f for f in (objects.part, objects.table, objects.read_h5ad, objects.write_h5ad)},
}

_mend_interrupts()
