"""Spliced and unspliced counts of an AnnData, checked, filtered, normalized and smoothed."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from jaxtyping import Float

from scduet.contract import Input
from scduet.data import checks, locate
from scduet.data.feature_names import places_of
from scduet.data.schema import Fields, Schema
from scduet.data.sources import gathered
from scduet.errors import DataError, OptionError, ScduetWarning, some
from scduet.metrics.core.inputs import Undefined
from scduet.metrics.core.neighbors import nearest_neighbors
from scduet.options import build, check_arguments
from scduet.tasks.genes.variable_genes import choose_genes
from scduet.tasks.quality.baselines import principal_components
from scduet.tasks.velocity import moments
from scduet.tasks.velocity.moments import Dense, Index
from scduet.tasks.velocity.steady_state import MIN_GAMMA, MIN_R2, steady_state

FEWEST_CELLS = 100  # the mean over 30 neighbors of fewer is a mean over clusters
FEWEST_SHARED = 20  # molecules of a gene in cells with both kinds
HINT = "pass spliced= and unspliced= with layers of raw counts, as velocyto, STARsolo and alevin-fry write them"


@dataclass(frozen=True)
class Moments:
    """The genes of which there is enough, normalized and smoothed."""

    cells: pd.Index
    genes: list[str]
    s: sp.csr_matrix  # normalized spliced counts
    u: sp.csr_matrix
    average: sp.csr_matrix
    ms: Dense
    mu: Dense
    index: Index  # neighbors of each cell
    pca: Float[np.ndarray, "cell component"]
    unspliced_share: float  # of all molecules


def moments_of(
    adata: AnnData,
    spliced: str = "spliced",
    unspliced: str = "unspliced",
    genes: Any = None,
    n_top_genes: int = 2000,
    n_neighbors: int = 30,
    n_pcs: int = 30,
) -> Moments:
    """See `velocity_moments`."""
    check_arguments(n_neighbors=n_neighbors, n_top_genes=n_top_genes, n_pcs=n_pcs)
    names, s, u = counts_of(adata, spliced, unspliced)
    totals = [np.asarray(x.sum(1)).ravel() for x in (s, u)]
    kept = moments.shared_counts(s, u) >= FEWEST_SHARED
    if not kept.any():
        remedy = "are these whole data, and the right layers? velocity needs genes with both kinds of counts"
        raise DataError(f"no gene has {FEWEST_SHARED} molecules in cells with spliced and unspliced counts", remedy)
    chosen = _chosen(adata, names, s, kept, genes, n_top_genes)
    if len(chosen) < 2:
        few = f"{len(chosen)} genes with {FEWEST_SHARED} molecules in cells with spliced and unspliced counts"
        raise DataError(f"only {few}", "a velocity takes two or more")
    s, u = (moments.normalized(sp.csr_matrix(x[:, chosen]), total) for x, total in zip((s, u), totals, strict=True))
    pca = principal_components(s.log1p(), n_pcs)
    index = neighbors_of(pca, n_neighbors)
    average = moments.averaging(moments.connected(index))
    ms, mu = (moments.mean_over(average, x) for x in (s, u))
    share = float(totals[1].sum() / (totals[0].sum() + totals[1].sum()))
    return Moments(adata.obs_names, [names[i] for i in chosen], s, u, average, ms, mu, index, pca, share)


def velocity_moments(
    adata: AnnData,
    spliced: str = "spliced",
    unspliced: str = "unspliced",
    *,
    genes: Any = None,
    n_top_genes: int = 2000,
    n_neighbors: int = 30,
    n_pcs: int = 30,
    scale: bool = False,
) -> AnnData:
    """Filter, normalize and smooth spliced and unspliced counts: the first part of `velocity`, for use on its own.

    adata: AnnData with raw counts of both kinds (cell, gene); not modified. spliced, unspliced: their layers, or other
        places such as "X".
    genes: names, or a boolean column of var; None for var["highly_variable"], else the `n_top_genes` most variable.
        Of these, genes with 20 molecules or more in cells that have both kinds are used.
    n_neighbors, n_pcs: each cell is averaged with its neighbors (itself counted) among principal components of the
        log-normalized spliced counts.
    scale: each gene from 0 to 1, of genes with a steady state: what `fit(..., "velovi")` reads.

    Returns the cells with these genes: layers "spliced" and "unspliced" (normalized to the median total), "Ms" and "Mu"
    (their moments), obsm["X_pca"], obsp["connectivities"].
    Raises DataError for values that are no counts, a missing layer, fewer than 100 cells, and if no gene has both kinds
    of counts. Source: Bergen et al. 2020, scVelo.
    """
    found = moments_of(adata, spliced, unspliced, genes, n_top_genes, n_neighbors, n_pcs)
    ms, mu, keep = found.ms, found.mu, np.ones(len(found.genes), bool)
    if scale:
        keep, ms, mu, _ = scaled_genes(found)
    layers = {"spliced": found.s[:, keep], "unspliced": found.u[:, keep], "Ms": ms[:, keep], "Mu": mu[:, keep]}
    made = AnnData(
        layers["spliced"].copy(), adata.obs.copy(), adata.var.reindex(np.array(found.genes)[keep]), layers=layers
    )
    made.obsm, made.obsm["X_pca"] = dict(adata.obsm), found.pca  # type: ignore[assignment]
    made.obsp["connectivities"] = (found.average > 0).astype(np.float32)
    return made


def scaled_genes(found: Moments) -> tuple[np.ndarray, Dense, Dense, np.ndarray]:
    """Genes with a steady state once scaled, the scaled moments, and the ranges of the spliced ones."""
    (ms, span), (mu, _) = moments.scaled(found.ms), moments.scaled(found.mu)
    fit = steady_state(ms, mu)
    keep = fit.genes & (span > 0)
    if not keep.any():
        remedy = "unspliced counts do not rise with spliced ones: these data support no velocity"
        raise DataError(f"no gene has a steady state (R² above {MIN_R2}, slope above {MIN_GAMMA})", remedy)
    return keep, ms, mu, span


def counts_of(adata: Any, spliced: str, unspliced: str) -> tuple[list[str], sp.csr_matrix, sp.csr_matrix]:
    """Names of the genes and both matrices of counts, every value checked."""
    if not isinstance(adata, AnnData) or adata.isbacked:
        raise OptionError(f"velocity needs cells in memory, not {type(adata).__name__}", "read the file first")
    checks.check_matrix(adata)
    if adata.n_obs < FEWEST_CELLS:
        raise DataError(f"{adata.n_obs} cells are too few for a velocity", f"use {FEWEST_CELLS} or more")
    if spliced == unspliced:
        raise OptionError(f"spliced and unspliced are both {spliced!r}", HINT)
    parts = [_located(adata, option, place) for option, place in (("spliced", spliced), ("unspliced", unspliced))]
    both = parts[0].columns.intersection(parts[1].columns, sort=False)
    if len(both) == 0:
        raise DataError(f"{spliced!r} and {unspliced!r} share no gene", "are their genes named alike?")
    s, u = (_counts(part, both, adata.obs_names) for part in parts)
    more = moments.mostly_unspliced(s, u)[np.asarray((s + u).sum(0)).ravel() > 0]
    if more.mean() > 0.5:
        text = f"{more.mean():.0%} of the genes have more unspliced than spliced counts: are the layers swapped? (In "
        warnings.warn(f"{text}nuclei it may be so.) spliced={spliced!r}, unspliced={unspliced!r}", ScduetWarning, 5)
    return list(both), s, u


def neighbors_of(pca: Float[np.ndarray, "cell component"], n_neighbors: int = 30) -> Index:
    """The nearest cells of each cell, itself left out."""
    try:
        return nearest_neighbors(pca, n_neighbors).index
    except Undefined as error:
        raise DataError(str(error), "look at how the data were filtered") from error


def _located(adata: AnnData, option: str, place: str) -> Any:
    if not isinstance(place, str):
        raise OptionError(f"option {option!r} cannot be {place!r}", HINT)
    given = Input(option, sparse=True, look_in=("layers", "obsm"))
    return locate.locate(adata, locate.resolve(adata, place, given))


def _counts(found: Any, genes: pd.Index, cells: pd.Index) -> sp.csr_matrix:
    source, _ = locate.as_source(found, cells, places_of(genes, found.columns), Input("spliced", sparse=True))
    values = gathered(source)
    remedy = "velocity smooths and normalizes itself: pass the raw counts"
    checks.check_values(values, cells, found.where, "counts", remedy=remedy)
    return values


def _chosen(adata: AnnData, names: list[str], s: sp.csr_matrix, kept: np.ndarray, genes: Any, n_top: int) -> np.ndarray:
    """Places of the genes to use."""
    if genes is None and "highly_variable" not in adata.var:
        if kept.sum() <= n_top:
            return np.flatnonzero(kept)
        some_counts = AnnData(s[:, kept], var=pd.DataFrame(index=np.array(names)[kept]))
        choose_genes(some_counts, n_top, {"allow_empty_cells": True})
        return np.flatnonzero(kept)[some_counts.var["highly_variable"].to_numpy()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScduetWarning)
        cells = AnnData(s, obs=adata.obs[[]], var=adata.var.reindex(names))
        wanted = Schema.learn(cells, build(Fields, {"genes": genes}), "any").genes
    place = places_of(pd.Index(wanted), pd.Index(names))
    if (place < 0).any():
        raise DataError(f"genes {some(np.array(wanted)[place < 0])} are not in the data", "see adata.var_names")
    return place[kept[place]]
