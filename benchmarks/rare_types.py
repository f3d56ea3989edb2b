"""Do made-up cells teach a classifier a rare type?: python benchmarks/rare_types.py pbmc_purified_facs10.h5ad

Sorted PBMC; 10 labeled cells of one type and 60 of each other train a logistic regression, all other cells test it.
Rows: weights of types, cells made in several ways until the type has 60, and the same regression on scVI's latent
states of all cells, which needs no labels. Genes are the most variable of the training cells.
"""

import sys

import anndata
import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, precision_score, recall_score

import scduet as sd

RARE, FEW, MANY, N_GENES = ("CD14+ Monocyte", "CD4+/CD25 T Reg"), 10, 60, 1500
SILENT = {"callback": lambda event: None}


def main(path: str) -> None:
    adata = anndata.read_h5ad(path)
    labels, rows = adata.obs["cell_type"].to_numpy(str), {}
    for rare in RARE:
        draw = np.random.default_rng(0)
        n = {label: FEW if label == rare else MANY for label in np.unique(labels)}
        train = np.concatenate([draw.choice(np.flatnonzero(labels == name), k, replace=False) for name, k in n.items()])
        test = np.setdiff1d(np.arange(adata.n_obs), train)
        logged = sc.pp.log1p(sc.pp.normalize_total(adata[train], target_sum=1e4, copy=True), copy=True)
        top = sc.pp.highly_variable_genes(logged, n_top_genes=N_GENES, inplace=False).highly_variable.to_numpy()
        cells = anndata.AnnData(sp.csr_matrix(adata.X[:, top]).astype(np.float32), obs=adata.obs[["cell_type"]].copy())
        for name, predicted in methods(cells, labels, train, test, rare, draw):
            rows[rare, name] = scores(labels[test], predicted, rare)
            print(rare, name, rows[rare, name], flush=True)
    print(pd.DataFrame(rows).T.round(3).to_string())


def methods(cells, labels, train, test, rare, draw):
    """Each way to learn the rare type, and the types it gives the test cells."""
    known, own = labels[train], cells[train][labels[train] == rare].copy()
    counts = own.X.toarray()
    first, second = draw.integers(0, FEW, (2, MANY - FEW))
    part = draw.random((MANY - FEW, 1))
    share = counts.sum(0, dtype=float) / counts.sum()
    small = sd.fit(cells[train].copy(), "scvi", labels_key="cell_type", gene_likelihood="nb", max_epochs=120, **SILENT)
    made = {
        "copies of the rare cells": counts[first],
        "mean of the type, multinomial": draw.multinomial(counts.sum(1)[first].astype(int), share),
        "mixtures of two rare cells (SMOTE)": counts[first] * part + counts[second] * (1 - part),
        "scVI, generate_cells": sd.generate_cells(small, MANY - FEW, label=rare).X.toarray(),
    }
    x, there = logged_of(cells[train].X.toarray()), logged_of(cells[test].X.toarray())
    yield "as it is", classified(x, known, there)
    yield "balanced weights", classified(x, known, there, weight="balanced")
    for name, more in made.items():
        yield name, classified(np.r_[x, logged_of(more)], np.r_[known, [rare] * len(more)], there)
    states = sd.fit(cells, "scvi", gene_likelihood="nb", max_epochs=60, **SILENT).embed()
    yield (
        "balanced weights, scVI's states of all cells",
        classified(states[train], known, states[test], 1.0, "balanced"),
    )


def classified(x, labels, there, c=0.02, weight=None):
    return LogisticRegression(C=c, max_iter=500, class_weight=weight).fit(x, labels).predict(there)


def logged_of(x):
    return np.log1p(x / np.maximum(x.sum(1, keepdims=True), 1) * 1e4)


def scores(truth, predicted, rare):
    pair = truth == rare, predicted == rare
    own = [f(*pair, zero_division=0) for f in (recall_score, precision_score, f1_score)]
    return dict(
        zip(("recall", "precision", "F1"), own, strict=True), macro_F1=f1_score(truth, predicted, average="macro")
    )


if __name__ == "__main__":
    main(sys.argv[1])
