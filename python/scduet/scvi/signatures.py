"""Arguments of scvi-tools' methods, in its order and with its defaults, written as one text for each method."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from functools import wraps
from inspect import Parameter, Signature
from typing import Any

from scduet.options import options_of
from scduet.scvi.registry import no_more

SELF, MORE = Parameter("self", Parameter.POSITIONAL_ONLY), Parameter("more", Parameter.VAR_KEYWORD)


def takes(arguments: str, name: str | None = None) -> Callable[[Callable], Callable[..., Any]]:
    """A method that gets `arguments` by name, e.g. "adata, key!, n=1": None where there is no default, ! if required.

    Other arguments are refused by name; a last "**" hands them over as `more`. So a method names what it translates,
    and hands on as **same what we call alike. name: None for that of the function.
    """
    parts = [part.strip() for part in arguments.split(",") if part.strip()]
    hands_on = parts[-1:] == ["**"]
    signature = Signature([SELF, *map(_parameter, parts[: len(parts) - hands_on]), MORE])

    def decorate(function: Callable) -> Callable:
        @wraps(function)
        def method(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            given = dict(bound.arguments)
            owner, more = given.pop("self"), given.pop("more")
            if hands_on:
                given["more"] = more
            else:
                no_more(method.__name__, more)
            return function(owner, **given)

        method.__name__ = name or function.__name__
        method.__signature__ = signature  # type: ignore[attr-defined]
        return method

    return decorate


def with_defaults(model: str, names: Iterable[str]) -> str:
    """These options of a model of ours with its defaults, which are scvi-tools', as `takes` reads them; else None."""
    defaults = {option.name: option.default for option in options_of(model)}
    return ", ".join(f"{name}={defaults.get(name)!r}" for name in names)


def _parameter(text: str) -> Parameter:
    name, _, value = text.partition("=")
    default = Parameter.empty if name.endswith("!") else ast.literal_eval(value) if value else None
    return Parameter(name.removesuffix("!"), Parameter.POSITIONAL_OR_KEYWORD, default=default)
