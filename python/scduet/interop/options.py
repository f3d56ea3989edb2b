"""Options that R passes on in `...`: their names are checked here, so that no call ends in Python's own TypeError."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from scduet.errors import OptionError
from scduet.options import refuse_unknown

Options = Mapping[str, Any] | tuple[()]  # R's list without elements comes as an empty list


def call(function: Callable, *values: Any, options: Options, **named: Any) -> Any:
    """`function(*values, **named, **options)`; an option that it does not take is an OptionError with the nearest one.

    A function that takes any option checks the names itself.
    """
    options, parameters = plain(options), list(inspect.signature(function).parameters.values())
    taken = {p.name for p in parameters[: len(values)]} | set(named)
    known = [p.name for p in parameters if p.name not in taken and p.kind != p.VAR_KEYWORD]
    if all(p.kind != p.VAR_KEYWORD for p in parameters):
        refuse_unknown(options, known, "this function")
    for name in taken & set(options):
        raise OptionError(f"option {name!r} is set already", "leave it out", unknown=name, known=known)
    return function(*values, **named, **options)


def plain(options: Options) -> dict[str, Any]:
    """Options with whole numbers as such: R's are all of floating point."""
    whole = {k: int(v) for k, v in dict(options).items() if isinstance(v, float) and v.is_integer()}
    return {**dict(options), **whole}
