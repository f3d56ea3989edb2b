"""Defaults for help texts on the command line, in Python and in R, by recipe where the recipe sets them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from textwrap import fill
from typing import TypeVar

from scduet.models import MODELS
from scduet.options import Option, options_of
from scduet.train.config import RECIPES

N_CELLS = 10_000  # size of the data set for which recipes are evaluated
COMPUTED: Mapping[tuple[str, str], str] = {  # (recipe, option) -> description of defaults that depend on the data
    ("auto", "max_epochs"): "200 (fewer above 20,000 cells)",
    ("auto", "kl_warmup_epochs"): "20 (at most a fifth of max_epochs)",
    ("scvi-tools", "max_epochs"): "400 (fewer above 20,000 cells)",
}
GROUPS = {"data": "Data options", "training": "Training options", "model": "Options of the model 'scvi'"}
Function = TypeVar("Function", bound=Callable)


def default_text(option: Option) -> str:
    """The default of an option, e.g. "10", or "auto: 0.005; scvi-tools: 0.001" if the recipe sets it."""
    if option.default is None:
        chosen = {recipe: _chosen(recipe, option.name) for recipe in RECIPES}
        if "" in chosen.values():
            return ""
        if len(set(chosen.values())) > 1:
            return "; ".join(f"{recipe}: {text}" for recipe, text in chosen.items())
        return next(iter(chosen.values()))
    return "" if option.default == () else _plain(option.default)


def lists_options(function: Function) -> Function:
    """Add every option of every model, with its default, to the docstring of `function`."""
    common = options_of("scvi")
    groups = [(title, [o for o in common if o.group == group]) for group, title in GROUPS.items()]
    for model in MODELS:
        title = f"Options of the model {model!r} that differ from scvi"
        groups.append((title, [option for option in options_of(model) if option not in common]))
    parts = ["", *(_section(title, options) for title, options in groups if options)]
    function.__doc__ = (function.__doc__ or "").rstrip() + "\n".join(parts)
    return function


def _section(title: str, options: list[Option]) -> str:
    told = (f"{o.name}: {o.help}{f' Default: {default_text(o)}.' if default_text(o) else ''}" for o in options)
    lines = [
        fill(line, 116, initial_indent=" " * 8, subsequent_indent=" " * 12, break_on_hyphens=False) for line in told
    ]
    return "\n".join(["", f"    {title}:", *lines])


def _chosen(recipe: str, name: str) -> str:
    found = RECIPES[recipe](N_CELLS, None)
    return COMPUTED.get((recipe, name)) or (_plain(found[name]) if name in found else "")


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
