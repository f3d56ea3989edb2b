"""Genes mapped to proteins without pairs: python benchmarks/magan.py cite_pbmc10k_6661_1000g.h5ad [n_seeds] [epochs]

PBMCs with 14 proteins, their 200 most variable genes and 5 genes whose proteins were measured. 1,000 cells are held
out with both; of the others half keep their genes and half their proteins. Prints foscttm (0.5 is chance) and the share
of held-out cells whose nearest other cell, by proteins, is of their type; beside MAGAN simple methods with as much to
go by, and ridge regression, which knows the pairs.
"""

import sys

import anndata
import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import NearestNeighbors

import scduet as sd
from scduet.metrics import foscttm

SHARED = pd.DataFrame({"gene": ["CD8A", "CD14", "FCGR3A", "CD19", "IL7R"]})
SHARED["protein"] = ["CD8a", "CD14", "CD16", "CD19", "CD127"]
N_GENES, N_HELD_OUT = 200, 1000


def main(path: str, n_seeds: int = 3, epochs: int | None = None) -> None:
    adata, rows = chosen(anndata.read_h5ad(path)), []
    for seed in range(n_seeds):
        order = np.random.default_rng(seed).permutation(adata.n_obs)
        test, rest = order[:N_HELD_OUT], order[N_HELD_OUT:]
        sides = rest[::2], rest[1::2]
        kind = adata.obs["cell_type"].to_numpy(str)[test]
        for name, (x, y) in methods(adata, test, rest, sides, seed, epochs):
            near = NearestNeighbors(n_neighbors=2).fit(y).kneighbors(x, return_distance=False)
            other = np.where(near[:, 0] == np.arange(len(test)), near[:, 1], near[:, 0])
            rows.append({"method": name, "foscttm": foscttm(x, y), "type": (kind[other] == kind).mean()})
            print(seed, rows[-1], flush=True)
    table = pd.DataFrame(rows).groupby("method", sort=False)
    print(table.agg(["mean", "std"]).round(3).to_string())


def chosen(adata: anndata.AnnData) -> anndata.AnnData:
    logged = sc.pp.log1p(sc.pp.normalize_total(adata, target_sum=1e4, copy=True), copy=True)
    sc.pp.highly_variable_genes(logged, n_top_genes=N_GENES)
    return adata[:, logged.var["highly_variable"] | adata.var_names.isin(SHARED["gene"])].copy()


def methods(adata, test, rest, sides, seed, epochs):
    """Places of the held-out cells by their genes and by their proteins, by each method."""
    genes = sc.pp.log1p(sc.pp.normalize_total(adata, target_sum=1e4, copy=True), copy=True).X.toarray()
    proteins = np.log1p(adata.obsm["protein_counts"].to_numpy(float))
    x, y = ((v - v[rows].mean(0)) / (v[rows].std(0) + 1e-9) for v, rows in zip((genes, proteins), sides, strict=True))
    columns = [
        adata.var_names.get_indexer(SHARED["gene"]),
        adata.obsm["protein_counts"].columns.get_indexer(SHARED["protein"]),
    ]
    kind = adata.obs["cell_type"].to_numpy(str)
    yield "shared features, standardized", (x[test][:, columns[0]], y[test][:, columns[1]])
    types = LogisticRegression(C=0.1, max_iter=300).fit(x[sides[0]], kind[sides[0]])
    means = np.stack([y[sides[1]][kind[sides[1]] == name].mean(0) for name in types.classes_])
    yield "mean proteins of the predicted type", (types.predict_proba(x[test]) @ means, y[test])
    for tie, options in (("features", {"shared_features": SHARED}), ("labels", {"labels_key": "cell_type"})):
        apart = adata.copy()
        keeps = np.ones(adata.n_obs)
        keeps[sides[1]] = 0
        apart.X = (sp.diags(keeps) @ adata.X).tocsr().astype(np.float32)
        apart.obsm["protein"] = adata.obsm["protein_counts"].astype(np.float32)
        apart.obsm["protein"].iloc[sides[0]] = np.nan
        known = apart[rest].copy()
        silent = {"callback": lambda event: None, "seed": seed, "train_size": 1.0, "max_epochs": epochs}
        model = sd.fit(known, "magan", protein_key="protein", **options, **silent)
        yield f"MAGAN, {tie}", tuple(model.embed(apart[test].copy(), modality=name) for name in ("rna", "protein"))
    yield "ridge regression, with pairs", (Ridge(100).fit(x[rest], y[rest]).predict(x[test]), y[test])


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
