"""Which genes go together according to a model, always beside their co-expression in the same cells."""

from __future__ import annotations

import scduet._torch  # noqa: F401

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float, Int

from scduet.capabilities import TrainedModel
from scduet.data import checks
from scduet.data.levels import coded, places_of
from scduet.data.locate import locate_main
from scduet.data.main_matrix import with_layer
from scduet.errors import DataError, OptionError, some
from scduet.metrics.integration.genes import variable_genes
from scduet.options import check_arguments, listed
from scduet.tasks.genes.gene_vectors import (
    MIN_CELLS,
    check_method,
    known_genes,
    learned_vectors,
    mean_states,
    model_of,
)
from scduet.tasks.quality.baselines import log_normalized
from scduet.transformers.inference.attention import attention

Method = Literal["embedding", "contextual", "attention"]
N_GENES = 2_000  # variable genes of a network where none are asked for
ALL_CELLS = "all cells"


def gene_network(
    model: TrainedModel | str | Path,
    adata,
    *,
    genes=None,
    method: Method = "embedding",
    groupby: str | None = None,
    control: str | None = None,
    n_neighbors: int | None = 15,
    layer: str | None = None,
    accelerator: str = "auto",
    **options,
) -> pd.DataFrame:
    """The strongest links between genes by a model, and by co-expression, which is what the model must beat.

    model: a fitted model (scvi, scanvi, ldvae, ...), a transformer, fine-tuned or not, or the folder of one. adata:
    cells with raw counts in X (or `layer`), genes named as in the model or as its checkpoint knows them.
    genes: names in adata.var_names; None for var["highly_variable"] if it is there, else the 2,000 most variable.
    method: "embedding": cosine of the vectors that the model learned for genes (of a fitted VAE: the weights of the
    decoder's last layer, of ldvae the loadings), about their mean. "contextual": the same of the mean states of genes
    in the cells (transformers). "attention": mean rank of one gene's attention to another, 0 to 1 (transformers).
    groupby: column of obs; one network for each of its values ("contextual" and "attention").
    control: value of `groupby` that the others are compared with: the links kept are those that differ most from it.
    n_neighbors: links kept of each gene; None for all pairs. options: those of a transformer's `embed` (precision,
    max_length, gene_column, ...), and for attention `block` (-1: the last).

    Returns a DataFrame, one row a link, the strongest first: group, gene, other, weight (-1 to 1, or 0 to 1),
    coexpression (Pearson, of log-normalized counts), by_model and by_coexpression (is `other` among the strongest of
    `gene`, or the other way round, by either measure?); with `control` also difference and coexpression_difference.
    Attention has a direction: `gene` looks at `other`. Memory: a few matrices of gene x gene.

    Raises DataError for genes, groups or cells that do not fit, OptionError for methods that the model lacks.
    Source: Cui et al., Nature Methods 2024 (scGPT), networks from embeddings and attention.
    """
    if n_neighbors is not None:
        check_arguments(n_neighbors=n_neighbors)
    checks.check_matrix(adata)
    model, (adata, layer) = model_of(model), with_layer(adata, layer)
    groups = _groups(adata, groupby, control)
    place = _chosen(adata, genes, layer)
    if method not in _METHODS:
        raise OptionError(f"method cannot be {method!r}", f"it is one of {some(_METHODS)}")
    how = check_method(model, method, {"layer": layer, "accelerator": accelerator, **options})
    place, row = known_genes(model, adata, place, how)
    weights = _METHODS[method](model, adata, row, groups, how)
    x = log_normalized(locate_main(adata, layer).values)[:, place]
    links = _Links(adata.var_names[place].to_numpy(str), n_neighbors, method == "attention")
    together = (correlation(x[groups.code == code]) for code in range(len(groups.names)))
    table = _table(links, weights, together, groups)
    table.attrs |= {"model": model.name, "method": method, "n_genes": len(place), "groupby": groupby or ""}
    return table


def correlation(x) -> Float[np.ndarray, "gene gene"]:
    """Pearson correlation of the columns of a sparse or dense (cell, gene); 0 for a column that does not vary."""
    mean = np.asarray(x.mean(0), dtype=np.float64).ravel()
    products = np.zeros((x.shape[1], x.shape[1]))
    for start in range(0, x.shape[0], 4096):
        piece = x[start : start + 4096]
        piece = (piece.toarray() if sp.issparse(piece) else piece) - mean
        products += piece.T @ piece
    spread = np.sqrt(np.diag(products))
    return products / np.outer(np.where(spread > 0, spread, np.inf), np.where(spread > 0, spread, np.inf))


def cosines(vectors: Float[np.ndarray, "gene width"]) -> Float[np.ndarray, "gene gene"]:
    """Cosine of each pair of vectors about their mean; a softmax over genes does not see what all genes share."""
    centered = vectors - vectors.mean(0)
    length = np.linalg.norm(centered, axis=1, keepdims=True)
    unit = centered / np.where(length > 0, length, 1)
    return unit @ unit.T


# ---------------------------------------------------------------------------------------------------------- weights


@dataclass(frozen=True)
class _Groups:
    """The cells by group. Without `groupby` they are one."""

    names: tuple[str, ...]
    code: Int[np.ndarray, " cell"]  # -1: in none
    control: int | None


def _learned(model: TrainedModel, adata, token, groups: _Groups, how: dict):
    _refuse_groups(groups, "embedding")
    yield cosines(learned_vectors(model, token))


def _contextual(model: TrainedModel, adata, token, groups: _Groups, how: dict):
    for code in range(len(groups.names)):
        vectors = mean_states(model, adata[groups.code == code], token, how)
        held = np.isfinite(vectors).all(1)
        weight = np.full((len(token), len(token)), np.nan)
        weight[np.ix_(held, held)] = cosines(vectors[held])
        yield weight


def _attended(model: Any, adata, token, groups: _Groups, how: dict):
    inside = groups.code >= 0
    found = attention(model, adata[inside], token, groups.code[inside], **how)
    for weight, cells in zip(found.weight, found.cells, strict=True):
        yield np.where(cells >= MIN_CELLS, weight, np.nan)


_METHODS: dict[str, Callable] = {"embedding": _learned, "contextual": _contextual, "attention": _attended}


# ------------------------------------------------------------------------------------------------------------ links


@dataclass(frozen=True)
class _Links:
    """How links are chosen among genes."""

    names: np.ndarray
    n_neighbors: int | None
    directed: bool

    def table(self, score, baseline, columns: dict[str, np.ndarray]) -> pd.DataFrame:
        """Pairs that `score` or `baseline` holds among the strongest, with their `columns` of gene x gene."""
        by = [self._strongest(matrix) for matrix in (score, baseline)]
        gene, other = np.nonzero(by[0] | by[1])
        flags = {"by_model": by[0][gene, other], "by_coexpression": by[1][gene, other]}
        values = {name: matrix[gene, other] for name, matrix in columns.items()}
        named = {"gene": self.names[gene], "other": self.names[other]}
        order = np.argsort(-score[gene, other], kind="stable")
        return pd.DataFrame({**named, **values, **flags}).iloc[order].reset_index(drop=True)

    def _strongest(self, score: Float[np.ndarray, "gene gene"]):
        """Is a pair among the strongest of either of its genes? Of an undirected pair one of two entries is True."""
        score = np.where(np.isfinite(score), score, -np.inf)
        np.fill_diagonal(score, -np.inf)
        chosen = score > -np.inf
        if self.n_neighbors is not None and self.n_neighbors < len(score) - 1:
            nearest = np.argpartition(-score, self.n_neighbors - 1, axis=1)[:, : self.n_neighbors]
            near = np.zeros_like(chosen)
            np.put_along_axis(near, nearest, True, axis=1)
            chosen &= near
        return chosen if self.directed else np.triu(chosen | chosen.T)


def _table(links: _Links, weights, together, groups: _Groups) -> pd.DataFrame:
    measured = [
        {"weight": weight, "coexpression": coexpression}
        for weight, coexpression in zip(weights, together, strict=True)
    ]  # fmt: skip
    parts = []
    for code, name in enumerate(groups.names):
        columns, score = measured[code], ("weight", "coexpression")
        if groups.control is not None:
            if code == groups.control:
                continue
            base = measured[groups.control]
            columns = columns | {"difference": columns["weight"] - base["weight"]}
            columns |= {"coexpression_difference": columns["coexpression"] - base["coexpression"]}
            score = ("difference", "coexpression_difference")
        part = links.table(*(_size(columns[key], groups.control) for key in score), columns)
        part.insert(0, "group", name)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _size(matrix, control):
    """What makes a link strong: its weight, or how much it differs from the control, either way."""
    return matrix if control is None else np.abs(matrix)


# ----------------------------------------------------------------------------------------------------------- checks


def _groups(adata, groupby: str | None, control: str | None) -> _Groups:
    if groupby is None:
        if control is not None:
            raise OptionError("control needs groupby", "name the column of obs with the conditions")
        return _Groups((ALL_CELLS,), np.zeros(adata.n_obs, np.int64), None)
    if groupby not in adata.obs:
        raise DataError(f"no column {groupby!r} in adata.obs", f"it has {some(adata.obs.columns, 12)}")
    column = coded(adata.obs[groupby], groupby)
    code, names = column.code, tuple(column.names)
    if not names:
        raise DataError(f"no cell has a value in obs[{groupby!r}]", "name another column, or fill it")
    small = [name for i, name in enumerate(names) if (code == i).sum() < MIN_CELLS]
    if small:
        raise DataError(f"groups with less than {MIN_CELLS} cells in {groupby!r}: {some(small)}", "leave them out")
    place = None if control is None else int(places_of([control], names)[0])
    if place is not None and (place < 0 or len(names) < 2):
        raise DataError(f"no group {control!r} to compare others with in {groupby!r}", f"it has {some(names, 9)}")
    return _Groups(names, code, place)


def _chosen(adata, genes, layer: str | None) -> Int[np.ndarray, " gene"]:
    """Columns of the genes asked for."""
    if genes is not None:
        names = pd.Index(listed("genes", genes)).drop_duplicates()
        place = adata.var_names.get_indexer(names)
        if (place < 0).any():
            raise DataError(f"no gene {some(names[place < 0])} in adata", f"it has {some(adata.var_names)}")
        return place
    if "highly_variable" in adata.var:
        return np.flatnonzero(checks.flags(adata.var, "highly_variable"))
    x = log_normalized(locate_main(adata, layer).values)
    return np.sort(variable_genes(x, N_GENES))


def _refuse_groups(groups: _Groups, method: str) -> None:
    if groups.names != (ALL_CELLS,):
        raise OptionError(f"vectors by method={method!r} are the same in all cells: groupby means nothing",
                          "use method='contextual' or 'attention' of a transformer")  # fmt: skip
