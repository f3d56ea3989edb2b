"""Genes that spatial data lack, predicted from single cells that have them, and how well that works."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scduet.data.checks import check_names
from scduet.data.counts import counts_of
from scduet.errors import DataError, OptionError, ScduetWarning, some
from scduet.options import check_arguments, listed, options_of, refuse_unknown, seed_of
from scduet.tasks.spatial import genes as gene_choice
from scduet.tasks.spatial.imputers import CHANCE, IMPUTERS, Imputer, Panel, Target, Values, log_shares

DEEP = "gimvi"
OF_FIT = ("callback",)  # argument of `fit` beside its options
FEWEST_GENES, FEWEST_CELLS = 10, 10
MOST_SHARED = 2000  # of the shared genes, those that vary most
MOST_JUDGED = 5000  # cells in which held-out genes are predicted
CHANCE_LEVEL, WEAK, GOOD = 0.05, 0.1, 0.3  # of correlations beyond depth: medians that are warned of, and a useful one
FLAT = 1e-5  # range of values that do not vary, but for rounding


@dataclass(frozen=True, repr=False)
class Imputation:
    """Genes predicted for the cells of spatial data, and how well the measured genes are predicted.

    values: AnnData (cell, imputed gene) of log(1 + counts per 10,000) as the single cells would show it, with obs, obsm
        and uns["spatial"] of the spatial data.
    table: by method, on shared genes that were held out: spearman, beyond_depth, pearson (medians over genes) and rmse
        (mean over genes). The last two rows are what has to be beaten: "depth", the total count of a cell alone, and
        "mean", that of each gene. beyond_depth is Spearman's partial correlation given the total count: log shares
        depend on it in both data sets, so that a cell's total alone can give a high correlation.
    scores: the same by method and gene. NaN for a gene that does not vary in the spatial data.
    notes: what to know before looking at the values, in sentences.
    model: the method that the values are from.
    """

    values: AnnData
    table: pd.DataFrame
    scores: pd.DataFrame
    notes: tuple[str, ...]
    model: str

    def __repr__(self) -> str:
        head = (
            f"{self.values.n_vars} genes imputed in {self.values.n_obs} cells by {self.model}; held-out shared genes:"
        )
        return "\n".join([head, self.table.to_string(float_format=lambda value: f"{value:.3f}"), *self.notes])


def impute_genes(
    spatial: AnnData,
    single_cell: AnnData,
    genes: Sequence[str] | None = None,
    *,
    model: str = "auto",
    layer: str | None = None,
    reference_layer: str | None = None,
    n_genes: int = 2000,
    n_folds: int = 5,
    seed: int = 0,
    **options: Any,
) -> Imputation:
    """Predict genes that spatial data lack from single cells that have them, and judge it on genes that both have.

    spatial: AnnData with raw counts (cell or spot, gene). It is not changed.
    single_cell: AnnData with raw counts of cells of the same tissue. Genes are matched by name.
    genes: names of genes to predict. None for the `n_genes` that vary most in the single cells and that the spatial
        data lack.
    model: "ridge": regression on z-scored log shares of the shared genes, with the number of cells as penalty. "knn",
        "knn_10": the mean of the 50 or 10 cells with the highest cosine of these. "gimvi": a deep model of both
        data sets, see `scduet.models.spatial.gimvi`, trained once for each fold and once for the result. "auto": the
        one of the others that predicts held-out genes best.
    n_folds: the shared genes are held out in as many parts, each predicted from the other genes. At most 2,000 shared
        genes, those that vary most, and 5,000 cells are used for that.

    options: of gimVI and of its training, e.g. max_epochs, accelerator, callback.

    All methods (gimVI where it is the model) are always judged, beside the total count of a cell alone ("depth") and
    the mean of each gene. Read beyond_depth, by which "auto" chooses: the correlation that is left when the total count
    is accounted for.

    Raises DataError for data without raw counts or with empty cells, fewer than 10 cells or shared genes, and genes
    that the single cells lack or the spatial data have; OptionError. Warns where genes are predicted hardly better than
    by chance.

    Returns an `Imputation`: values, table, scores, notes, model.
    """
    if model not in ("auto", *IMPUTERS, DEEP):
        raise OptionError(f"model={model!r}", f"choose from auto, {', '.join(IMPUTERS)}, {DEEP}")
    check_arguments(n_folds=n_folds, n_genes=n_genes)
    seed = seed_of(seed)
    methods = _methods(model, seed, options)
    _check_cells("spatial", spatial)
    _check_cells("single_cell", single_cell)
    every = single_cell.var_names
    shared = gene_choice.shared(spatial.var_names, every, "spatial data", FEWEST_GENES)
    asked = _asked(genes, spatial.var_names, every)
    _, measured = counts_of(spatial, layer, list(shared))
    _, counts = counts_of(single_cell, reference_layer, tuple(every))
    logged = log_shares(counts, np.asarray(counts.sum(1), np.float64).ravel())
    informative = np.asarray(counts[:, every.get_indexer(shared)].sum(1)).ravel() > 0
    if informative.sum() < FEWEST_CELLS:
        there = f"{informative.sum()} cells of single_cell have counts in the genes that spatial has"
        raise DataError(there, f"at least {FEWEST_CELLS} are needed")
    used = _most_variable(logged, every.get_indexer(shared), MOST_SHARED)
    known = Panel(counts[informative][:, used])
    new = Panel(measured[:, shared.get_indexer(every[used])])
    scores = _judged(methods, known, new, every[used], n_folds, seed)
    table = _summary(scores, list(methods))
    chosen = str(table["beyond_depth"][list(IMPUTERS)].fillna(-1).idxmax()) if model == "auto" else model
    columns = every.get_indexer(asked)
    if genes is None:
        columns = _most_variable(logged, columns, n_genes)
    total = np.asarray(counts.sum(1), np.float64).ravel()[informative]
    values = methods[chosen](known, Target(counts[informative][:, columns], total), new)
    notes = _notes(table, scores.loc[chosen].dropna(), chosen, int((~informative).sum()))
    return Imputation(_as_anndata(values, spatial, every[columns]), table, scores, notes, chosen)


def _check_cells(name: str, cells: Any) -> None:
    if not isinstance(cells, AnnData) or cells.isbacked:
        raise DataError(f"{name} is {type(cells).__name__}", "pass an AnnData in memory, with raw counts")
    if cells.n_obs < FEWEST_CELLS:
        raise DataError(f"{name} has {cells.n_obs} cells", f"at least {FEWEST_CELLS} are needed")


def _asked(genes: Sequence[str] | None, spatial: pd.Index, reference: pd.Index) -> pd.Index:
    """The genes to predict, or to choose from. Raises DataError for those that cannot or need not be."""
    lacking = reference[~reference.isin(spatial)]
    if genes is None:
        if not len(lacking):
            raise DataError("the spatial data have all genes of the single cells", "there is nothing to impute")
        return lacking
    asked = pd.Index([str(name) for name in listed("genes", genes)])
    if not len(asked):
        raise OptionError("genes=[] names no gene", "name some, or leave genes= out for the most variable ones")
    check_names(asked, "gene")
    absent, there = asked[~asked.isin(reference)], asked[asked.isin(spatial)]
    if len(absent):
        remedy = f"it has {some(lacking)}" if len(lacking) else "it has no gene that spatial lacks"
        raise DataError(f"genes={some(absent)} are not in single_cell", remedy)
    if len(there):
        raise DataError(f"genes={some(there)} are measured in spatial", "leave them out; `scores` has how well they do")
    return asked


def _most_variable(logged: sp.csr_matrix, columns: np.ndarray, n_genes: int) -> np.ndarray:
    """Those of `columns` with the largest variance, in their order."""
    part = logged[:, columns]
    variance = np.asarray(part.multiply(part).mean(0) - np.square(part.mean(0))).ravel()
    return columns[np.sort(np.argsort(-variance, kind="stable")[:n_genes])]


def _methods(model: str, seed: int, options: dict[str, Any]) -> dict[str, Imputer]:
    """What is judged, and may be used: gimVI where it is asked for, which takes longer. Raises OptionError."""
    if model != DEEP:
        refuse_unknown(options, [], f"model {model!r}")
        return dict(IMPUTERS)
    from scduet.tasks.spatial.impute_gimvi import gimvi

    refuse_unknown(
        options, [*OF_FIT, *(one.name for one in options_of(DEEP) if one.group != "data")], f"model {DEEP!r}"
    )
    return {**IMPUTERS, DEEP: partial(gimvi, seed=seed, **options)}


def _judged(
    methods: Mapping[str, Imputer], known: Panel, new: Panel, genes: pd.Index, n_folds: int, seed: int
) -> pd.DataFrame:
    """Scores of each method and gene, when the gene is predicted from the genes of the other folds.

    Shares are of the genes shown, so that nothing of a hidden gene is in them.
    """
    rng = np.random.default_rng(seed)
    fold_of = rng.permutation(len(genes)) % min(n_folds, len(genes))
    rows = np.sort(rng.permutation(len(new.total))[:MOST_JUDGED])
    found = []
    for fold in np.unique(fold_of):
        hidden, shown = np.flatnonzero(fold_of == fold), np.flatnonzero(fold_of != fold)
        knows, sees = Panel(known.counts[:, shown]), Panel(new.counts[rows][:, shown])
        target = Target(known.counts[:, hidden], knows.total)
        truth = log_shares(new.counts[rows][:, hidden], sees.total).toarray()
        for name, impute in {**methods, **CHANCE}.items():
            scores = held_out_scores(truth, impute(knows, target, sees), sees.total)
            found.append(scores.assign(method=name, gene=genes[hidden]))
    return pd.concat(found).set_index(["method", "gene"]).sort_index()


def held_out_scores(truth: Values, predicted: Values, total: np.ndarray) -> pd.DataFrame:
    """By gene: spearman, the same beyond the total count of a cell, pearson and rmse, over cells."""
    from scipy.stats import rankdata

    ranks, places, depth = rankdata(truth, axis=0), rankdata(predicted, axis=0), rankdata(total)[:, None]
    found = {
        "spearman": _correlations(ranks, places),
        "beyond_depth": _correlations(_without(ranks, depth), _without(places, depth)),
        "pearson": _correlations(truth, predicted),
        "rmse": np.sqrt(np.square(truth - predicted).mean(0)),
    }
    return pd.DataFrame(found)


def _without(x: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """What is left of each column when its regression on the rank of the total count is taken out."""
    x, depth = x - x.mean(0), depth - depth.mean()
    return x - depth * (depth.T @ x) / max(float(np.square(depth).sum()), 1.0)


def _correlations(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Pearson's by column: NaN where the truth does not vary, 0 where only the prediction does not."""
    a, b = (x.astype(np.float64) - x.mean(0, dtype=np.float64) for x in (truth, predicted))
    varies, told = np.ptp(truth, axis=0) > FLAT, np.ptp(predicted, axis=0) > FLAT
    size = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0)
    return np.where(varies, np.where(told, (a * b).sum(0) / np.where(varies & told, size, 1), 0), np.nan)


def _summary(scores: pd.DataFrame, methods: list[str]) -> pd.DataFrame:
    by_method = scores.dropna().groupby(level="method")
    table = by_method.agg({"spearman": "median", "beyond_depth": "median", "pearson": "median", "rmse": "mean"})
    table["n_genes"] = by_method.size()
    return table.reindex([*methods, *CHANCE])


def _notes(table: pd.DataFrame, own: pd.DataFrame, chosen: str, n_silent: int) -> tuple[str, ...]:
    """Sentences; the first, where genes are predicted badly, is also warned."""
    notes, best, (n, good) = [], table.loc[chosen, "beyond_depth"], (len(own), int((own["beyond_depth"] > GOOD).sum()))
    told = f"median Spearman beyond the total count {best:.2f}, above {GOOD} for {good} of {n} genes"
    if not table["beyond_depth"].max() >= CHANCE_LEVEL:
        notes.append(
            f"No method predicts held-out genes better than chance and the total count of a cell do ({chosen}: {told}):"
            " do not use the imputed values."
        )
    elif best < WEAK:
        notes.append(f"{chosen} predicts most held-out genes hardly better than chance ({told}): see `scores`.")
    if notes:
        warnings.warn(notes[0], ScduetWarning, stacklevel=3)
    if table.loc[chosen, "rmse"] >= table.loc["mean", "rmse"]:
        notes.append(
            f"The mean of each gene is as near to the held-out values as {chosen} (RMSE {table.loc['mean', 'rmse']:.2f}"
            f" and {table.loc[chosen, 'rmse']:.2f}): compare cells, do not read sizes."
        )
    if n_silent:
        notes.append(f"{n_silent} single cells without a count in the shared genes were not used.")
    return tuple(notes)


def _as_anndata(values: Values, spatial: AnnData, genes: pd.Index) -> AnnData:
    uns = {"spatial": spatial.uns["spatial"]} if "spatial" in spatial.uns else {}
    return AnnData(
        np.asarray(values, np.float32), spatial.obs.copy(), pd.DataFrame(index=genes), uns, obsm=dict(spatial.obsm)
    )
