"""How a trained model prints, in a terminal and in a notebook."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Iterator
from typing import Any

import pandas as pd

from scduet.models import key_of
from scduet.train.config import TrainConfig, resolved


def summary(model: Any) -> str:
    """Lines of name and value for a `Model`, with the options that were set by the user."""
    lines = described(model)
    return "\n".join([f"<scduet Model: {model.name}>", *(f"{what:<12}{text}" for what, text in lines.items())])


def summary_html(model: Any) -> str:
    """The same as a table, for notebooks."""
    row = '<tr><th style="text-align:left">{}</th><td style="text-align:left">{}</td></tr>'
    cells = "".join(row.format(html.escape(what), html.escape(text)) for what, text in described(model).items())
    return f"<table><caption>scduet {html.escape(model.name)}</caption><tbody>{cells}</tbody></table>"


def described(model: Any) -> dict[str, str]:
    """What there is to know of a `Model` -> in words."""
    n_cells, genes = model.reference.n_cells, f"{len(model.genes):,} genes"
    size = f"{n_cells:,} cells x {genes}" if n_cells else genes  # scvi-tools does not save the number of cells
    columns = [f"{len(levels)} levels of {key!r}" for key, levels in model.schema.levels.items()]
    changed = _changed(model.schema.fields, model.config, model.training, n_cells)
    options = [f"{key}={value!r}" for key, value in changed]
    return {
        "trained on": ", ".join([size, *columns]),
        "epochs": _epochs(model.history, model.outcome.stop_reason),
        "options": ", ".join(options) or "defaults",
        "embedding": f"{_width(model.config)}integrate() writes it to obsm[{key_of(model.name)!r}]",
    }


def _epochs(history: pd.DataFrame, stopped: str) -> str:
    if not len(history):
        return "none, or the file has no history"
    watched = next(name for name in ("loss_validation", "loss_train") if name in history)
    last = history[watched].dropna()
    loss = f", {watched.replace('_', ' ')} {last.iloc[-1]:.2f}" if len(last) else ""
    return f"{len(history)}{'' if stopped == 'finished' else f' (stopped: {stopped})'}{loss}"


def _changed(fields: Any, config: Any, training: TrainConfig, n_cells: int) -> Iterator[tuple[str, Any]]:
    """Options and their values, without genes and epochs, which other lines show."""
    chosen = resolved(TrainConfig(recipe=training.recipe, max_epochs=training.max_epochs), max(n_cells, 1))
    if training.recipe != TrainConfig.recipe:
        yield "recipe", training.recipe
    for given, usual in ((fields, type(fields)()), (config, type(config)()), (training, chosen)):
        for option in dataclasses.fields(given):
            value = getattr(given, option.name)
            if option.name != "genes" and value != getattr(usual, option.name):
                yield option.name, value


def _width(config: Any) -> str:
    n = getattr(config, "n_latent", None)
    return "" if n is None else f"{n} dimensions; "
