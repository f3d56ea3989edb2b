"""Options of models, training and data -> flags on the command line, from what `scduet.options` reads."""

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import Enum
from typing import Annotated, Any

import typer

from scduet.options import Option
from scduet.train.defaults import default_text


def with_options(command: Callable, options: list[Option]) -> Callable:
    """`command` with a flag for each of `options`; it gets those given. typer reads the signature."""
    own = [p for p in inspect.signature(command).parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    table = {option.name: option for option in options}

    @functools.wraps(command)
    def run(**given: Any) -> None:
        command(**{k: _value(table.get(k), v) for k, v in given.items() if k not in table or v not in (None, [], ())})

    flags = [_flag(option) for option in table.values()]
    run.__signature__ = inspect.Signature([*own, *flags])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in [*own, *flags]}
    return run


def with_defaults(options: list[Option], own: Mapping[str, Any]) -> list[Option]:
    """The options, with the defaults that a command sets itself."""
    return [replace(option, default=own.get(option.name, option.default)) for option in options]


def _flag(option: Option) -> inspect.Parameter:
    name = option.name.replace("_", "-")
    names = f"--{name}/--no-{name}" if option.type.startswith("bool") else f"--{name}"
    default = default_text(option)
    shown = f" (default: {default})" if default else ""
    told = typer.Option(names, help=option.help + shown, show_default=False)
    annotation = Annotated[_kind(option) | None, told]
    return inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _kind(option: Option) -> Any:
    """The type of one value on the command line, from the annotation as it is written."""
    if option.choices:
        return Enum(option.name, {choice: choice for choice in option.choices})
    words = re.findall(r"\w+", option.type)
    kind = next((kind for word, kind in {"bool": bool, "int": int, "float": float}.items() if word in words), str)
    return list[kind] if "tuple" in words else kind


def _value(option: Option | None, value: Any) -> Any:
    """What `fit` takes for what the command line gave."""
    if option is None:
        return value
    if isinstance(value, list):
        alone = len(value) == 1 and not option.type.startswith("tuple")  # genes: a column, or names
        return value[0] if alone else tuple(value)
    return value.value if isinstance(value, Enum) else value
