"""Classifiers on graphs beside plain ones: python benchmarks/reference_classifiers.py pbmc_purified_facs10.h5ad

Sorted PBMC, ten types; a tenth of the cells of each type is held out, three seeds. The plain methods take the 1,000
most variable genes, chosen on the training cells, as sigGCN does. scGCN reads the held-out cells without their labels.
"""

import sys

import anndata
import numpy as np
import pandas as pd
import scanpy as sc
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import LinearSVC

import scduet as sd

SEEDS, N_GENES, SILENT = (0, 1, 2), 1000, {"callback": lambda event: None}


def main(path: str) -> None:
    adata = anndata.read_h5ad(path)
    labels, rows = adata.obs["cell_type"].to_numpy(str), []
    for seed in SEEDS:
        draw = np.random.default_rng(seed)
        order = [draw.permutation(np.flatnonzero(labels == name)) for name in np.unique(labels)]
        test = np.concatenate([cells[: len(cells) // 10] for cells in order])
        train = np.setdiff1d(np.arange(adata.n_obs), test)
        for name, predicted in methods(adata, labels, train, test, seed):
            truth = labels[test]
            found = accuracy_score(truth, predicted), f1_score(truth, predicted, average="macro")
            rows.append({"method": name, "seed": seed, "accuracy": found[0], "macro F1": found[1]})
            print(rows[-1], flush=True)
    table = pd.DataFrame(rows).groupby("method", sort=False)[["accuracy", "macro F1"]]
    print(table.agg(["mean", "std"]).round(3).to_string())


def methods(adata, labels, train, test, seed):
    """The types that each method gives the test cells."""
    logged = sc.pp.log1p(sc.pp.normalize_total(adata, target_sum=1e4, copy=True), copy=True).X
    variance = np.asarray(logged[train].multiply(logged[train]).mean(0) - np.square(logged[train].mean(0))).ravel()
    x = logged[:, np.argsort(-variance)[:N_GENES]].toarray()
    axes = np.linalg.svd(x[train] - x[train].mean(0), full_matrices=False)[2][:50]
    plain = {
        "logistic regression": (x, LogisticRegression(C=0.1, max_iter=300)),
        "linear SVM": (x, LinearSVC(C=0.01)),
        "kNN (15) on 50 PCs": (x @ axes.T, KNeighborsClassifier(15)),
    }
    for name, (values, method) in plain.items():
        yield name, method.fit(values[train], labels[train]).predict(values[test])
    known, asked = adata[train].copy(), adata[test].copy()
    for name, permuted in (("sigGCN", False), ("sigGCN, permuted graph", True)):
        options = {"labels_key": "cell_type", "train_size": 1.0, "permute_graph": permuted, "seed": seed, **SILENT}
        yield name, sd.fit(known, "siggcn", **options).predict(asked).idxmax(axis=1).to_numpy()
    both = adata.copy()
    both.obs["shown"] = np.where(np.isin(np.arange(adata.n_obs), test), "Unknown", labels)
    for name, use_graph in (("scGCN", True), ("scGCN, no edges", False)):
        model = sd.fit(both, "scgcn", labels_key="shown", use_graph=use_graph, seed=seed, **SILENT)
        types = model.predict().columns.to_numpy()
        yield name, types[model.predict().to_numpy().argmax(1)][test]
        if use_graph:
            yield "vote over the edges of scGCN", types[model.map(model.module.vote).argmax(1).numpy()][test]


if __name__ == "__main__":
    main(sys.argv[1])
