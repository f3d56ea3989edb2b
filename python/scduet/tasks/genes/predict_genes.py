"""What a model's vectors of genes know of genes: classes or numbers, predicted beside what expression alone says."""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float, Int
from scipy.stats import rankdata, spearmanr

from scduet.capabilities import ReadsTokens, TrainedModel
from scduet.data import checks
from scduet.data.locate import locate_main
from scduet.data.main_matrix import with_layer
from scduet.errors import DataError, OptionError, some
from scduet.metrics.integration.genes import mean_and_variance
from scduet.metrics.transfer import accuracy, macro_f1
from scduet.options import check_arguments, seed_of
from scduet.tasks.genes.gene_vectors import (
    check_method,
    encoder_of,
    known_genes,
    learned_vectors,
    mean_states,
    model_of,
)
from scduet.tasks.quality.attached import Attached
from scduet.tasks.quality.baselines import log_normalized
from scduet.transformers.objectives.gene_heads import NUMBER, Goal, classes, cross_validated, fitted

N_COMPONENTS = 50  # of the baseline "expression pca"


def predict_genes(
    model: TrainedModel | str | Path,
    known: pd.Series | Mapping[str, object],
    adata,
    *,
    method: Literal["contextual", "embedding"] | None = None,
    n_folds: int = 5,
    seed: int = 0,
    layer: str | None = None,
    accelerator: str = "auto",
    **options,
) -> pd.DataFrame:
    """Tell the class (text) or predict the number of genes by a linear head on the model's vectors of them.

    model: a transformer, its folder, or a fitted VAE; it is not changed. known: gene (named as in adata.var_names) ->
    class or number. adata: raw counts in X or `layer`.
    method: "contextual", mean states of the genes in these cells, the default for transformers; "embedding", the
    vectors that were learned. n_folds: of the cross-validation over genes. options: those of a transformer's `embed`.

    Returns a DataFrame, one row a method: the model; "expression level" (mean, share of cells, variance, mean where
    counted) and "expression pca" (loadings of 50 components), the same head on what these cells say without a model;
    and "constant". Columns for classes: accuracy, macro_f1, auc (one against the rest, mean over classes); for numbers:
    r2, spearman; n_genes. All on genes that the head was not fitted on. attrs["genes"]: what the model's head says of
    every gene of adata that it has a vector for: of known ones by cross-validation, of others fitted on all known.

    Genes of one family are alike in sequence, expression and class: with them in different folds all rows flatter.
    Raises DataError for one class, a class with fewer genes than folds, or too few genes that the model knows.
    Source: Theodoris et al., Nature 2023 (gene classification), with vectors kept as they are.
    """
    checks.check_matrix(adata)
    check_arguments(n_folds=n_folds)
    model, seed, (adata, layer) = model_of(model), seed_of(seed), with_layer(adata, layer)
    place, vectors = _vectors(model, adata, method, {"layer": layer, "accelerator": accelerator, **options})
    task = _task(known, adata.var_names[place], n_folds, seed)
    logged = log_normalized(locate_main(adata, layer).values)[:, place[task.row]]
    features = {model.name: vectors[task.row], "expression level": _levels(logged), "expression pca": _loadings(logged)}
    said = {name: cross_validated(x, task.target, task.fold, task.goal, seed) for name, x in features.items()}
    rows = {name: task.scores(out) for name, out in said.items()} | {"constant": task.scores(task.constant())}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("method").assign(n_genes=len(task.row))
    genes = _everywhere(task, said[model.name], vectors, adata.var_names[place], seed)
    table.attrs["genes"] = Attached(genes)
    return table


@dataclass(frozen=True)
class _Task:
    """Genes whose class or number is known, and the fold of each."""

    row: Int[np.ndarray, " known"]  # among the genes with a vector
    target: np.ndarray  # codes, or numbers
    fold: Int[np.ndarray, " known"]
    names: tuple[str, ...]  # of the classes; none for numbers

    @property
    def goal(self) -> Goal:
        return classes(len(self.names)) if self.names else NUMBER

    def constant(self) -> Float[np.ndarray, "known out"]:
        """The commonest class or the mean of the other folds."""
        out = np.zeros((len(self.row), max(len(self.names), 1)))
        for number in np.unique(self.fold):
            others = self.target[self.fold != number]
            said = np.bincount(others, minlength=len(self.names)) if self.names else others.mean()
            out[self.fold == number] = said
        return out

    def scores(self, out: Float[np.ndarray, "known out"]) -> dict[str, float]:
        if not self.names:
            wrong = np.square(self.target - out[:, 0]).sum()
            varies = np.ptp(out) > 0
            rank = float(spearmanr(self.target, out[:, 0])[0]) if varies else 0.0  # pyright: ignore
            return {"r2": 1 - wrong / np.square(self.target - self.target.mean()).sum(), "spearman": rank}
        guess = out.argmax(1)
        auc = np.mean([_auc(self.target == code, _shares(out)[:, code]) for code in range(len(self.names))])
        return {"accuracy": accuracy(self.target, guess), "macro_f1": macro_f1(self.target, guess), "auc": float(auc)}


def _vectors(model: TrainedModel, adata, method, how: dict) -> tuple[np.ndarray, np.ndarray]:
    """Columns of adata with a vector, and their vectors."""
    method = method or ("contextual" if isinstance(encoder_of(model), ReadsTokens) else "embedding")
    if method not in ("contextual", "embedding"):
        raise OptionError(f"method cannot be {method!r}", "it is 'contextual' or 'embedding'")
    how = check_method(model, method, how)
    place, row = known_genes(model, adata, np.arange(adata.n_vars), how)
    vectors = learned_vectors(model, row) if method == "embedding" else mean_states(model, adata, row, how)
    held = np.isfinite(vectors).all(1)
    return place[held], vectors[held]


def _task(known, genes: pd.Index, n_folds: int, seed: int) -> _Task:
    """Raises DataError where there is too little to learn from."""
    known = pd.Series(known, dtype=None if isinstance(known, pd.Series) else object).infer_objects().dropna()
    known = known[~known.index.duplicated()]
    row = genes.get_indexer(known.index.astype(str))
    target, row = known[row >= 0], row[row >= 0]
    numbers = pd.api.types.is_numeric_dtype(target.dtype) and not pd.api.types.is_bool_dtype(target.dtype)
    if n_folds < 2 or len(row) < 2 * n_folds:
        message = f"{len(row)} of {len(known)} genes have a vector, for {n_folds} folds"
        raise DataError(message, "give more genes, named as in adata.var_names and expressed in 10 cells or more")
    if numbers:
        order = np.argsort(target.to_numpy(float), kind="stable")
        return _Task(row, target.to_numpy(float), _folds(order, n_folds, seed), ())
    names, codes = np.unique(target.astype(str).to_numpy(str), return_inverse=True)
    few = [str(name) for name, n in zip(names, np.bincount(codes), strict=True) if n < n_folds]
    if len(names) < 2 or few:
        message = f"classes with fewer than {n_folds} genes: {some(few)}" if few else f"one class only: {some(names)}"
        raise DataError(message, "give more genes of each, two classes at least, or fewer folds")
    return _Task(row, codes, _folds(np.argsort(codes, kind="stable"), n_folds, seed), tuple(map(str, names)))


def _folds(order: Int[np.ndarray, " gene"], n_folds: int, seed: int) -> Int[np.ndarray, " gene"]:
    """Folds alike in their targets: of every `n_folds` neighbors in `order` one goes to each, at random."""
    draw = np.random.default_rng(seed)
    rounds = [draw.permutation(n_folds) for _ in range(len(order) // n_folds + 1)]
    fold = np.empty(len(order), np.int64)
    fold[order] = np.concatenate(rounds)[: len(order)]
    return fold


def _levels(x) -> Float[np.ndarray, "gene 4"]:
    """What is seen of a gene without any model: mean, share of cells, log variance, mean where it is counted."""
    mean, variance = mean_and_variance(x)
    share = np.asarray((x > 0).mean(0), float).ravel()
    return np.stack([mean, share, np.log(variance + 1e-8), mean / np.maximum(share, 1e-12)], axis=1)


def _loadings(x) -> Float[np.ndarray, "gene component"]:
    """Loadings of the genes on the principal components of the cells, times the spread of these."""
    dense = x.toarray() if sp.issparse(x) else np.asarray(x)
    dense = dense - dense.mean(0)
    values, vectors = np.linalg.eigh(dense.T @ dense / len(dense))
    n = min(N_COMPONENTS, len(values))
    return vectors[:, -n:] * np.sqrt(np.maximum(values[-n:], 0))


def _shares(logits: Float[np.ndarray, "gene label"]) -> Float[np.ndarray, "gene label"]:
    return torch.from_numpy(logits).softmax(1).numpy()


def _auc(positive, score) -> float:
    """Chance that a gene of the class is ranked above another (Mann and Whitney)."""
    ranks, n = rankdata(score), int(positive.sum())
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * (len(positive) - n)))


def _everywhere(task: _Task, out, vectors, genes: pd.Index, seed: int) -> pd.DataFrame:
    """What the model's head says of every gene with a vector."""
    target = torch.from_numpy(task.target)
    x = torch.from_numpy(np.asarray(vectors, np.float64))
    said = fitted(x[task.row], target, task.goal, seed)(x).numpy()
    said[task.row] = out
    is_known = np.isin(np.arange(len(genes)), task.row)
    if not task.names:
        return pd.DataFrame({"predicted": said[:, 0], "known": is_known}, index=genes)
    share = pd.DataFrame(_shares(said), index=genes, columns=pd.Index(task.names))
    share.insert(0, "predicted", share.idxmax(axis=1))
    return share.assign(known=is_known)
