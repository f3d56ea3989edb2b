"""Shapes checked while tests run: `SCDUET_SHAPES=1 pytest ...` checks every array that an annotation describes.

jaxtyping's import hook hands each function of scduet to `arrays`, which looks at arrays alone. A general checker such
as beartype also refuses numpy's integers where `int` is asked, and torch's functions whose first argument is a context.
"""

import functools
import inspect
import types
import typing
from pathlib import Path

from jaxtyping import AbstractArray, TypeCheckError
from jaxtyping import install_import_hook as hook

PACKAGE = Path(__file__).resolve().parents[1] / "python" / "scduet"
KERNELS = "scduet.nn.kernels"  # numba compiles these: they cannot be wrapped


def install() -> None:
    """Check all modules that are imported from now on."""
    files = [path.relative_to(PACKAGE.parent).with_suffix("").parts for path in PACKAGE.rglob("*.py")]
    names = [".".join(parts) for parts in files if parts[-1] != "__init__"]
    hook([name for name in names if not name.startswith(KERNELS)], "shapes.arrays")


def arrays(function):
    """`function`, with a TypeCheckError for an argument or a result whose shape or type is not as annotated."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(*args, **kwargs):
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            parameter = signature.parameters[name]
            several = {parameter.VAR_POSITIONAL: list, parameter.VAR_KEYWORD: dict.values}.get(parameter.kind)
            for each in several(value) if several else [value]:
                _check(name, each, parameter.annotation)
        result = function(*args, **kwargs)
        _check("the result", result, signature.return_annotation)
        return result

    return checked


def _check(name, value, hint) -> None:
    if not _fits(value, hint):
        shape = getattr(value, "shape", None)
        raise TypeCheckError(f"{name}: {type(value).__name__} of shape {shape} is not {hint}")


def _fits(value, hint) -> bool:
    """Is an array in `value` as `hint` says? What is no array fits anything."""
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return isinstance(value, hint)
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) and (not isinstance(part, type) or isinstance(value, part)) for part in parts)
    if origin is tuple and isinstance(value, tuple):
        parts = parts[:1] * len(value) if parts[-1:] == (...,) else parts
        return len(parts) == len(value) and all(map(_fits, value, parts))
    if origin is dict and isinstance(value, dict):
        return all(_fits(each, parts[1]) for each in value.values())
    if origin is list and isinstance(value, list):
        return all(_fits(each, parts[0]) for each in value)
    return True
