"""Which known perturbation explains an observed change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from jaxtyping import Float

from scduet.data.locate import locate_main
from scduet.errors import DataError, OptionError, some
from scduet.metrics import perturbation as metrics
from scduet.metrics.core.inputs import Undefined
from scduet.options import check_arguments, seed_of
from scduet.tasks.perturbation.pseudobulk import Pairs, Split, pairs_of, split_of
from scduet.tasks.perturbation.screen import Screen, read_screen, warn_of_few
from scduet.tasks.perturbation.table import MEASURABLE
from scduet.tasks.quality.baselines import log_normalized


def rank_perturbations(
    profile: pd.Series | Mapping[str, float] | AnnData,
    adata: AnnData,
    perturbation_key: str,
    *,
    control: str | None = None,
    batch_key: str | None = None,
    mechanisms: Mapping[str, str] | None = None,
    n_splits: int = 5,
    seed: int = 0,
    layer: str | None = None,
    total_key: str | None = None,
) -> pd.DataFrame:
    """Known perturbations by how much their change of expression is like an observed one.

    profile: gene -> change of log-normalized mean expression; or AnnData of cells, counts or log-normalized like
        `adata`, whose change is measured against one half of the control cells of `adata` while the known
        perturbations are measured against the other half, so that the noise of the controls is not what is alike.
    adata, perturbation_key, control, batch_key, layer, total_key: the known perturbations, as for
        `predict_perturbation`; the cells of `profile` must not be among them.
    mechanisms: perturbation -> mechanism or class of drugs; adds a column, and attrs["mechanisms"], the mechanisms by
        the mean similarity of their perturbations.

    Returns a DataFrame by perturbation, the most alike first: rank; similarity, the Pearson correlation of the changes
    over shared genes but the targets', mean over `n_splits`; similarity_vs_mean, of what is left beyond the mean of all
    perturbations; half_correlation, how far its own change repeats itself (below 0.2 it cannot be recognized); n_cells.
    attrs["chance_rank"]: the mean rank of the right perturbation if nothing is known; attrs["notes"]: what was assumed.

    Raises DataError for a profile that shares fewer than two genes with `adata` or does not vary.
    """
    check_arguments(n_splits=n_splits)
    if mechanisms is not None and not isinstance(mechanisms, Mapping):
        raise OptionError(f"option 'mechanisms' cannot be {mechanisms!r}", "it maps perturbations to mechanisms")
    screen = read_screen(adata, perturbation_key, control, None, batch_key, None, layer, total_key)
    warn_of_few(screen)
    genes, value = _profile(profile, screen)
    pairs = pairs_of(screen)
    splits = [split_of(screen, pairs, seed_of(seed) + i) for i in range(n_splits)]
    of_cells = isinstance(profile, AnnData)
    found = np.array([_alike(screen, pairs, split, genes, value, of_cells) for split in splits])
    repeats = np.array([[_r(*(half[i] for half in split.halves)) for i in range(len(pairs.n))] for split in splits])
    names = screen.names()
    table = pd.DataFrame(
        {
            "similarity": _mean(found[:, 0]),
            "similarity_vs_mean": _mean(found[:, 1]),
            "half_correlation": _mean(repeats),
            "n_cells": pairs.n,
        },
        index=pd.Index([names[i] for i in pairs.target], name="perturbation"),
    ).sort_values("similarity", ascending=False, kind="stable")
    table.insert(0, "rank", np.arange(1, len(table) + 1))
    table["measurable"] = table["half_correlation"] >= MEASURABLE
    table.attrs |= {"chance_rank": (len(table) + 1) / 2, "n_genes": len(genes), "notes": screen.notes}
    return table if mechanisms is None else _with_mechanisms(table, mechanisms, screen)


def _profile(profile: Any, screen: Screen) -> tuple[np.ndarray, Float[np.ndarray, " gene"]]:
    """Columns of the screen, and the change or the mean expression of these genes."""
    if isinstance(profile, AnnData):
        values = np.asarray(log_normalized(locate_main(profile, None).values).mean(0)).ravel()
        given = pd.Series(values, profile.var_names.astype(str))
    else:
        try:
            given = pd.Series(profile, dtype=float)
        except (TypeError, ValueError):
            raise DataError("the profile holds values that are no numbers", "give a change for each gene") from None
    if not given.index.is_unique:
        raise DataError(f"genes of the profile repeat: {some(given.index[given.index.duplicated()])}", "one value each")
    shared = screen.genes.isin(given.index.astype(str))
    value = given.set_axis(given.index.astype(str)).reindex(screen.genes[shared]).to_numpy()
    if shared.sum() < 2:
        raise DataError(f"the profile shares {shared.sum()} genes with adata", f"it has {some(given.index)}")
    if not np.isfinite(value).all() or np.ptp(value) == 0:
        raise DataError("the profile has missing values, or is the same for all genes", "give a change for each gene")
    return np.flatnonzero(shared), value


def _alike(screen: Screen, pairs: Pairs, split: Split, genes: np.ndarray, value: np.ndarray, of_cells: bool):
    """Correlations with each perturbation, of the changes and of what is beyond their mean: (2, pair)."""
    own = value - split.truth.of_context[0][genes] if of_cells else value
    change = (pairs.observed - split.seen.matched)[:, genes]
    mean = change.mean(0)
    rows = []
    for i, known in enumerate(change):
        kept = ~screen.genes[genes].isin(screen.targets[pairs.target[i]])
        rows.append((_r(own[kept], known[kept]), _r((own - mean)[kept], (known - mean)[kept])))
    return np.array(rows).T


def _r(a: np.ndarray, b: np.ndarray) -> float:
    try:
        return metrics.pearson(a, b)
    except Undefined:
        return np.nan


def _mean(values: np.ndarray) -> np.ndarray:
    """Over splits; NaN only where all are."""
    n = np.isfinite(values).sum(0)
    return np.where(n > 0, np.nansum(values, 0) / np.maximum(n, 1), np.nan)


def _with_mechanisms(table: pd.DataFrame, mechanisms: Mapping[str, str], screen: Screen) -> pd.DataFrame:
    known = {"+".join(screen.grammar.target(name)): str(kind) for name, kind in mechanisms.items()}
    table["mechanism"] = [known.get(name) for name in table.index]
    if table["mechanism"].isna().all():
        raise DataError(f"mechanisms names none of {some(table.index)}", "map perturbations to mechanisms")
    groups = table.groupby("mechanism")
    by_kind = pd.DataFrame(
        {"similarity": groups["similarity"].mean(), "best_rank": groups["rank"].min(), "n": groups.size()}
    ).sort_values("similarity", ascending=False)
    by_kind.insert(0, "rank", np.arange(1, len(by_kind) + 1))
    table.attrs["mechanisms"] = by_kind
    return table
