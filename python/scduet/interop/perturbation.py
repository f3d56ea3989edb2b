"""What R asks to predict perturbed cells, and to score predictions of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import scduet
from scduet.interop import codec, objects
from scduet.interop.models import Genes, listener
from scduet.interop.options import Options, call
from scduet.tasks.perturbation.result import Scores


@dataclass(frozen=True)
class Scored:
    """The tables of `scduet.Scores`, with the notes."""

    table: list[codec.Column]
    held_out: list[codec.Column]
    notes: codec.Text


@dataclass(frozen=True)
class Predicted:
    """Predicted means and changes as R's genes x predictions, how they are supported, and the scores."""

    mean: Genes
    change: Genes
    support: list[codec.Column]
    scores: Scored


def predict_perturbation(
    adata, key: str, gene_embedding: Any, options: Options, callback: Callable | None = None
) -> Predicted:
    """`scduet.predict_perturbation` of the column `key`."""
    known = _knowledge(gene_embedding)
    told = listener(callback)
    found = call(scduet.predict_perturbation, adata, key, gene_embedding=known, callback=told, options=options)
    support = found.support.reset_index() if len(found.support) else pd.DataFrame()
    mean, change = (_block(adata, table) for table in (found.mean, found.change))
    return Predicted(mean, change, codec.columns_of(support), _scored(found))


def score_perturbation(
    predictions, names: list[str], contexts: list[str] | None, adata, key: str, gene_embedding: Any, options: Options,
    callback: Callable | None = None,
) -> Scored:  # fmt: skip
    """`scduet.score_perturbation` of R's matrix of genes x predictions, which comes as AnnData (prediction, gene)."""
    index = pd.Index(names) if contexts is None else pd.MultiIndex.from_arrays([contexts, names])
    values = predictions.X.toarray() if hasattr(predictions.X, "toarray") else np.asarray(predictions.X)
    given = pd.DataFrame(values, index, predictions.var_names)
    known = _knowledge(gene_embedding)
    told = listener(callback)
    found = call(scduet.score_perturbation, given, adata, key, gene_embedding=known, callback=told, options=options)
    return _scored(found)


@dataclass(frozen=True)
class Ranked:
    """The table of `scduet.rank_perturbations`, that of mechanisms (empty without any), and the rank by chance."""

    table: list[codec.Column]
    mechanisms: list[codec.Column]
    chance_rank: float
    notes: codec.Text


def rank_perturbations(profile, adata, key: str, mechanisms: dict[str, str] | tuple[()], options: Options) -> Ranked:
    """`scduet.rank_perturbations` of R's named vector, which comes as AnnData (one row, gene)."""
    values = profile.X.toarray() if hasattr(profile.X, "toarray") else np.asarray(profile.X)
    given, kinds = pd.Series(values[0], profile.var_names), dict(mechanisms) or None
    found = call(scduet.rank_perturbations, given, adata, key, mechanisms=kinds, options=options)
    by_kind = found.attrs["mechanisms"].reset_index() if kinds else pd.DataFrame()
    columns = codec.columns_of(found.reset_index()), codec.columns_of(by_kind)
    return Ranked(*columns, found.attrs["chance_rank"], codec.as_text(found.attrs["notes"]))


def _knowledge(given: Any) -> Any:
    """A path, gene sets as R's named list, a table (data frame), or None."""
    return Path(given) if isinstance(given, str) else given


def _scored(found: Scores) -> Scored:
    table = found.table.reset_index() if len(found.table) else pd.DataFrame()
    held_out = found.held_out
    return Scored(codec.columns_of(table), codec.columns_of(held_out), codec.as_text(found.notes))


def _block(adata, table: pd.DataFrame) -> Genes:
    names = codec.as_text(adata.var_names)
    values = table.to_numpy(np.float64) if len(table) else np.zeros((0, adata.n_vars))
    return Genes(names, objects.block(values))
