"""Which cells of one modality go with which of another, and how often such matches are right."""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float, Int

from scduet.api import Model
from scduet.data import checks
from scduet.data.loader import minibatches
from scduet.data.samplers import sequential
from scduet.data.sources import Cells, gathered
from scduet.errors import DataError, OptionError, some
from scduet.metrics.matching import foscttm, match_probability, top_k_accuracy
from scduet.options import check_arguments
from scduet.tasks.multimodal.cca import CCA, Reduced
from scduet.tasks.multimodal.trained_cells import encoded, rows_of_training, trained_cells
from scduet.tasks.posterior.latent import BATCH_SIZE, modality_of

USES, METHODS = ("model", "cca", "best"), ("neighbors", "bipartite")
N_NEIGHBORS = 10
LARGEST = 10_000  # cells of a batch that are assigned one to one: the time grows with the third power
K = 5  # of top_k_accuracy in the table

Embedding = Float[np.ndarray, "cell dim"]


@dataclass(frozen=True)
class Matches:
    """Matches of cells."""

    weights: sp.csr_matrix  # (cell of a, cell of b); a row sums to 1
    cells: tuple[pd.Index, pd.Index]  # names of the cells of a, and of b
    table: pd.DataFrame  # one row a method: foscttm, top_5_accuracy and match_probability of cells held out
    used: str  # the method whose matches these are

    def best(self) -> pd.DataFrame:
        """For each cell of a the cell of b with the largest weight, and that: columns "match" and "weight"."""
        column, top = self.weights.argmax(1), self.weights.max(1).toarray().ravel()
        names = self.cells[1].to_numpy(object)[np.asarray(column).ravel()]
        return pd.DataFrame({"match": np.where(top > 0, names, None), "weight": top}, self.cells[0])


def match_cells(
    a,
    b,
    model: Model,
    *,
    modalities: Sequence[str] | None = None,
    reference=None,
    use: str = "model",
    method: str = "neighbors",
    n_neighbors: int = N_NEIGHBORS,
) -> Matches:
    """Match cells measured by one modality with cells measured by another, by a model of both.

    a, b: AnnData or MuData; of a only the first modality is used, of b only the second. Cells are matched within
        batches, where the model was trained with batch_key.
    model: embeds modalities apart, such as mmvae or multivi, and was trained on some cells that have both.
    modalities: those of a and of b, as the model calls them; None for its first two.
    reference: the cells that the model was trained on, as they were then; None if it was trained in this session.
    use: whose matches are returned: "model", "cca" (canonical correlation of principal components), or "best", the one
        with the lowest foscttm.
    method: "neighbors" weights pairs by the share of neighbors that they have in common, among the cells of both
        (Jaccard index; Tu et al. 2022); "bipartite" assigns each cell one other, with the least sum of distances.
    n_neighbors: of a cell, among the cells of a and among those of b.

    Returns Matches, whose `table` is about the cells with both modalities that were held out when the model was
    trained: foscttm (0 is perfect, 0.5 chance), top_5_accuracy and match_probability (by neighbors in common), each the
    mean over batches, beside CCA's and chance.

    Raises OptionError for a model without embeddings of modalities, or modalities that it lacks, DataError for cells
    without the modality, where a and b share no batch, or too few cells with both were held out.

    Sources: Tu et al. 2022, NeurIPS 35; Lance et al. 2022, PMLR 176:162.
    """
    for name, value, known in (("use", use, USES), ("method", method, METHODS)):
        if value not in known:
            raise OptionError(f"{name}={value!r}", f"it takes {some(known, 9)}")
    check_arguments(n_neighbors=n_neighbors)
    names = _modalities(model, modalities)
    sides = [_measured(model, data, name, which) for data, name, which in zip((a, b), names, "ab", strict=True)]
    _check_batches(model, *sides)
    known = trained_cells(model, reference)
    both = np.flatnonzero(_has(model, known, names[0]) & _has(model, known, names[1]))
    shown, held_out = rows_of_training(model, both, f"both {names[0]!r} and {names[1]!r}")
    embedders = {model.name: _ByModel(model, names), "cca": _ByCCA.of(model, names, known, shown)}
    table = pd.DataFrame({name: _judged(known, held_out, by, n_neighbors) for name, by in embedders.items()}).T
    table = pd.concat([table, _chance(known, held_out)]).rename_axis("method").astype({"n_cells": int})
    used = model.name if use == "model" else use
    used = str(table["foscttm"].drop("chance").idxmin()) if use == "best" else used
    x, y = (embedders[used].embed(cells, side) for side, cells in enumerate(sides))
    made = _shared if method == "neighbors" else _assigned
    parts = [(rows, columns, made(x[rows], y[columns], n_neighbors)) for rows, columns in _pairs_of_batches(*sides)]
    weights = _whole(parts, (len(sides[0]), len(sides[1])))
    return Matches(weights, (a.obs_names, b.obs_names), table, used)


@dataclass(frozen=True)
class _ByModel:
    model: Model
    names: tuple[str, str]

    def embed(self, cells: Cells, side: int, rows: np.ndarray | None = None) -> Embedding:
        rows = sequential(len(cells)) if rows is None else rows
        parts = minibatches(cells, rows, BATCH_SIZE)
        with torch.inference_mode():
            embed, device = self.model.module.eval().embed, self.model.device
            found = [embed(part.to(device), modality=self.names[side]).double().cpu() for part in parts]
        return torch.cat(found).numpy()


@dataclass(frozen=True)
class _ByCCA:
    model: Model
    names: tuple[str, str]
    reduced: tuple[Reduced, Reduced]
    cca: CCA

    @classmethod
    def of(cls, model: Model, names: tuple[str, str], known: Cells, shown: np.ndarray) -> _ByCCA:
        matrices = [gathered(modality_of(model, name).source(known))[shown] for name in names]
        reduced = tuple(Reduced.of(x, name) for x, name in zip(matrices, names, strict=True))
        cca = CCA.of(*(one.scores(x) for one, x in zip(reduced, matrices, strict=True)))
        return cls(model, names, reduced, cca)  # pyright: ignore[reportArgumentType]

    def embed(self, cells: Cells, side: int, rows: np.ndarray | None = None) -> Embedding:
        x = gathered(modality_of(self.model, self.names[side]).source(cells))
        return self.cca.project(self.reduced[side].scores(x if rows is None else x[rows]), side)


def _modalities(model: Model, names: Sequence[str] | None) -> tuple[str, str]:
    known = getattr(model.module, "modalities", ())
    if len(known) < 2:
        raise OptionError(f"{model.name!r} has one modality", "use a model of several, e.g. mmvae")
    first, *rest = known[:2] if names is None else [names] if isinstance(names, str) else names
    if len(rest) != 1 or first == rest[0]:
        raise OptionError(f"modalities={names!r}", "name two different ones, that of a and that of b")
    for name in (first, rest[0]):
        model._of_modality(name)  # raises OptionError for one that the model does not embed
    return first, rest[0]


def _measured(model: Model, data, name: str, which: str) -> Cells:
    """The cells. Raises DataError where one of them lacks the modality."""
    checks.check_cells(data)
    cells = encoded(model, data)
    lacking = ~_has(model, cells, name)
    if lacking.any():
        text = f"{int(lacking.sum())} cells of {which} have no counts of {name!r}: {some(data.obs_names[lacking])}"
        raise DataError(text, "match the cells that have it")
    return cells


def _has(model: Model, cells: Cells, name: str) -> np.ndarray:
    """Which cells have any count of a modality."""
    source = modality_of(model, name).source(cells)
    return np.nan_to_num(source.totals()) > 0


def _check_batches(model: Model, a: Cells, b: Cells) -> None:
    if np.intersect1d(a.batch, b.batch).size:
        return
    key = model.schema.fields.batch_key
    levels = np.array(model.schema.levels[key], object)  # type: ignore[index]
    there = [some(levels[np.unique(cells.batch)]) for cells in (a, b)]
    text = f"the cells share no {key!r}: a has {there[0]}, b {there[1]}"
    raise DataError(text, "cells are matched within batches: train a model without batch_key= to match across them")


def _pairs_of_batches(a: Cells, b: Cells) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for batch in np.intersect1d(a.batch, b.batch):
        yield np.flatnonzero(a.batch == batch), np.flatnonzero(b.batch == batch)


def _judged(known: Cells, held_out: np.ndarray, by, n_neighbors: int) -> dict[str, float]:
    """How well the cells held out are matched with themselves, a mean over batches of two cells or more."""
    x, y = (by.embed(known, side, held_out) for side in (0, 1))
    found = []
    for rows in _within(known, held_out):
        first, second = x[rows], y[rows]
        shared = match_probability(_shared(first, second, n_neighbors))
        found.append([foscttm(first, second), top_k_accuracy(first, second, K), shared])
    return {**dict(zip(_COLUMNS, np.mean(found, 0), strict=True)), "n_cells": len(held_out)}


_COLUMNS = ("foscttm", f"top_{K}_accuracy", "match_probability")


def _chance(known: Cells, held_out: np.ndarray) -> pd.DataFrame:
    sizes = np.array([len(rows) for rows in _within(known, held_out)])
    values = (0.5, np.minimum(K / sizes, 1).mean(), (1 / sizes).mean(), len(held_out))
    return pd.DataFrame([values], ["chance"], [*_COLUMNS, "n_cells"])


def _within(known: Cells, held_out: np.ndarray) -> list[np.ndarray]:
    batch = known.batch[held_out]
    found = [np.flatnonzero(batch == one) for one in np.unique(batch)]
    kept = [rows for rows in found if len(rows) > 1]
    if not kept:
        raise DataError("each cell held out is alone in its batch", "there is nothing to judge matches by")
    return kept


def _shared(x: Embedding, y: Embedding, n_neighbors: int) -> sp.csr_matrix:
    """Jaccard index of the neighbors of each cell of x and each of y, among both; a row sums to 1."""
    first = sp.hstack([_nearest(x, x, n_neighbors), _nearest(x, y, n_neighbors)], "csr")
    second = sp.hstack([_nearest(y, x, n_neighbors), _nearest(y, y, n_neighbors)], "csr")
    common = (first @ second.T).tocoo()
    sizes = np.asarray(first.sum(1)).ravel(), np.asarray(second.sum(1)).ravel()
    index = common.data / (sizes[0][common.row] + sizes[1][common.col] - common.data)
    found = sp.csr_matrix((index, (common.row, common.col)), common.shape)
    total = np.asarray(found.sum(1)).ravel()
    alone = np.flatnonzero(total == 0)  # no neighbor in common with any: the nearest cell
    nearest = sp.csr_matrix((np.ones(len(alone)), (alone, _indices(x[alone], y, 1).ravel())), found.shape)
    return (sp.diags(1 / np.where(total > 0, total, 1)) @ found + nearest).tocsr()


def _nearest(x: Embedding, y: Embedding, n_neighbors: int) -> sp.csr_matrix:
    index = _indices(x, y, n_neighbors)
    rows = np.repeat(np.arange(len(x)), index.shape[1])
    return sp.csr_matrix((np.ones(index.size), (rows, index.ravel())), (len(x), len(y)))


def _indices(x: Embedding, y: Embedding, n_neighbors: int) -> Int[np.ndarray, "cell neighbor"]:
    from sklearn.neighbors import NearestNeighbors

    n = min(n_neighbors, len(y))
    if not len(x):
        return np.zeros((0, n), np.int64)
    return NearestNeighbors(n_neighbors=n, algorithm="brute").fit(y).kneighbors(x, return_distance=False)


def _assigned(x: Embedding, y: Embedding, n_neighbors: int) -> sp.csr_matrix:
    """One cell of y for each of x, or for as many as there are, with the least sum of squared distances."""
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    if max(len(x), len(y)) > LARGEST:
        text = f"method='bipartite': a batch has {max(len(x), len(y))} cells, more than {LARGEST}"
        raise OptionError(text, "use method='neighbors'")
    rows, columns = linear_sum_assignment(cdist(x, y, "sqeuclidean"))
    return sp.csr_matrix((np.ones(len(rows)), (rows, columns)), (len(x), len(y)))


def _whole(parts: list[tuple[np.ndarray, np.ndarray, sp.csr_matrix]], shape: tuple[int, int]) -> sp.csr_matrix:
    """The matches of all batches in one matrix."""
    found = [
        (rows[part.row], columns[part.col], part.data)
        for rows, columns, part in ((r, c, p.tocoo()) for r, c, p in parts)
    ]
    row, column, value = (np.concatenate(each) for each in zip(*found, strict=True))
    return sp.csr_matrix((value.astype(np.float32), (row, column)), shape)
