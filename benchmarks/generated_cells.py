"""Cells that models make, judged beside real ones: python benchmarks/generated_cells.py pbmc3k_seurat_labels.h5ad

Half of the cells train scVI and a GAN; the others, which neither sees, are what generated cells are compared with.
Beside states of real cells (`generate_cells`): states drawn from the prior, and the mean of each type with Poisson
noise.
"""

import sys
import time

import anndata
import numpy as np
import pandas as pd
import scanpy as sc

import scduet as sd

N_GENES, N_LATENT = 600, 10


def main(path: str) -> None:
    adata = anndata.read_h5ad(path)
    adata = adata[~adata.obs["cell_type"].astype(str).isin(["unknown", "nan", "Platelet"])].copy()
    draw = np.random.default_rng(0)
    order = draw.permutation(adata.n_obs)
    rows, held = order[: len(order) // 2], order[len(order) // 2 :]
    logged = sc.pp.log1p(sc.pp.normalize_total(adata[rows], target_sum=1e4, copy=True), copy=True)
    top = sc.pp.highly_variable_genes(logged, n_top_genes=N_GENES, inplace=False).highly_variable.to_numpy()
    adata = adata[:, top].copy()
    filled = np.asarray(adata.X.sum(1)).ravel() >= 20
    training, held_out = adata[rows[filled[rows]]].copy(), adata[held[filled[held]]].copy()
    begun = time.process_time()
    options = {"labels_key": "cell_type", "n_latent": N_LATENT, "gene_likelihood": "nb", "max_epochs": 100}
    model = sd.fit(training, "scvi", **options)
    print(f"scVI: {time.process_time() - begun:.0f} s of CPU for {training.n_obs} cells")
    n = held_out.n_obs
    sets = {"scVI, states of cells": sd.generate_cells(model, n)}
    prior = draw.normal(size=(n, N_LATENT)).astype(np.float32)
    source = training[draw.choice(training.n_obs, n)]
    library = np.asarray(source.X.sum(1)).ravel()
    counts = sd.sample_states(model, prior, library)
    near = np.linalg.norm(model.embed()[:, None] - prior[None], axis=2).argmin(0)
    labels = training.obs["cell_type"].to_numpy()
    sets["scVI, states of the prior"] = made(counts, labels[near], training)
    types = {name: np.asarray(training[labels == name].X.sum(0)).ravel() for name in np.unique(labels)}
    share = np.array([types[name] / types[name].sum() for name in source.obs["cell_type"]])
    sets["mean of the type, Poisson"] = made(draw.poisson(library[:, None] * share), source.obs["cell_type"], training)
    begun = time.process_time()
    gan = sd.fit(training, "gan", labels_key="cell_type")
    print(f"GAN: {time.process_time() - begun:.0f} s of CPU, {len(gan.history)} epochs")
    sets["GAN"] = sd.generate_cells(gan, n)
    table = sd.score_generated(sets, held_out, training=training, labels_key="cell_type")
    print(table.round(3).to_string(), table.attrs)


def made(counts, labels, training):
    obs = pd.DataFrame({"cell_type": np.asarray(labels)}, index=[f"cell{i}" for i in range(len(labels))])
    return anndata.AnnData(counts.astype(np.float32), obs=obs, var=training.var[[]])


if __name__ == "__main__":
    main(sys.argv[1])
