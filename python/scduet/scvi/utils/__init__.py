"""scvi-tools' public helpers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from importlib.util import find_spec
from typing import Any

from scduet.scvi.registry import attrdict, unavailable

__all__ = ["attrdict", "dependencies", "error_on_missing_dependencies", "is_package_installed", "track"]
_INSTEAD = {
    **dict.fromkeys(("setup_anndata_dsp", "de_dsp"), "docstrings here are plain text"),
    "unsupported_if_adata_minified": "minified cells are refused by the functions that need counts",
    "device_selecting_PRNGKey": "there is no JAX here, as in scvi-tools 1.5",
    **dict.fromkeys(
        ("mlflow_logger", "mlflow_log_artifact", "mlflow_log_text", "mlflow_log_table"),
        "call mlflow with model.history, or pass train(callbacks=[function])",
    ),
}


def track(sequence: Iterable, description: str = "Working...", disable: bool = False, style=None, **_) -> Iterable:
    """The sequence, with rich's progress bar."""
    from rich.progress import track as tracked

    return sequence if disable else tracked(sequence, description)


def is_package_installed(module: str) -> bool:
    return find_spec(module) is not None


def error_on_missing_dependencies(*modules: str) -> None:
    """Raises ModuleNotFoundError naming packages that are not installed."""
    missing = [module for module in modules if not is_package_installed(module)]
    if missing:
        raise ModuleNotFoundError(f"Please install {', '.join(missing)} to use this functionality.")


def dependencies(*modules: str) -> Callable:
    """A decorator: the function raises ModuleNotFoundError where one of these packages is not installed."""

    def decorate(function: Callable) -> Callable:
        @wraps(function)
        def checked(*args: Any, **kwargs: Any):
            error_on_missing_dependencies(*modules)
            return function(*args, **kwargs)

        return checked

    return decorate


def __getattr__(name: str) -> Any:
    if name in _INSTEAD:
        return unavailable(name, _INSTEAD[name])
    raise AttributeError(f"module 'scduet.scvi.utils' has no attribute {name!r}")
