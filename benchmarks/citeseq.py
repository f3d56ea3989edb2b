"""totalVI here and in scvi-tools on the same cells: hidden proteins predicted, and two batches integrated.

    python benchmarks/citeseq.py [hidden] [batches] [--seeds 0 1] [--epochs 200]

hidden: 6,661 PBMCs with 14 proteins (cite_pbmc10k_6661_1000g), those of a random half of the cells hidden, another
half for each seed. Both tools train on the same cells for the same number of epochs, with the half as `batch_key`
(scvi-tools takes a protein for missing where a batch has only zeros), and predict log(1 + normalized expression), 25
draws, with the background, as if measured in the other half. Below them: `fit` and `predict_modality` as they are,
without a batch, and simple regressions. Judged in the hidden half: correlation and root mean square error of each
protein, means over proteins.
batches: 400 PBMCs of two experiments (cite_pbmc5k_10k_400), the 2,000 most variable genes, and three ways to train,
which differ in how long the KL terms warm up. iLISI of the batches, and of the 20 nearest cells by proteins within a
batch (centered log ratios), the share among the 20 nearest by the embedding.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from multimodal_quality import judged

import scduet as sd
from scduet.events import silent
from scduet.metrics import ilisi, knn_overlap
from scduet.tasks.quality.baselines import unintegrated_pca

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"
DENOISED = {"n_samples": 25, "include_protein_background": True}
N_NEIGHBORS, N_GENES = 20, 2000
TRAINING = {  # of batches
    "totalVI": {},
    "totalVI, warm-up of 20 epochs": {"kl_warmup_epochs": 20},
    "totalVI, recipe of scvi-tools": {"recipe": "scvi-tools"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(PARTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=200)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    for part in options.parts:
        rows = [PARTS[part](seed, options.epochs) for seed in options.seeds]
        table = pd.concat(rows, keys=options.seeds, names=["seed", "method"])
        print(table.round(3).to_string())
        if len(rows) > 1:
            print(table.groupby("method", sort=False).agg(["mean", "min", "max"]).round(3).to_string(), flush=True)


def hidden(seed: int, epochs: int) -> pd.DataFrame:
    adata = anndata.read_h5ad(DATA / "cite_pbmc10k_6661_1000g.h5ad")
    adata.X = adata.X.astype(np.float32)
    proteins = adata.obsm["protein_counts"].astype(np.float32)
    lost = np.random.default_rng(seed).permutation(adata.n_obs) < adata.n_obs // 2
    adata.obs["half"] = np.where(lost, "hidden", "shown")
    truth, rows = np.log1p(proteins[lost].to_numpy(float)), {}
    for name, method in {"scvi-tools": in_scvi_tools, "same recipe": as_there, "scduet": by_default}.items():
        start = time.process_time()
        for row, found in method(adata, proteins, lost, seed, epochs).items():
            rows[row] = judged(np.asarray(found, float), truth)
            print(f"seed {seed}: {row}", *np.round(rows[row], 3), flush=True)
        print(f"seed {seed}: {name}, {time.process_time() - start:.0f} CPU seconds", flush=True)
    return pd.DataFrame(rows, ["pearson", "rmse"]).T


def in_scvi_tools(adata, proteins, lost, seed, epochs) -> dict[str, np.ndarray]:
    import logging

    import scvi

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    adata = adata.copy()
    adata.obsm["protein"] = masked(proteins, lost, 0.0)
    scvi.settings.seed = seed
    scvi.model.TOTALVI.setup_anndata(adata, "protein", batch_key="half")
    model = scvi.model.TOTALVI(adata)
    model.train(epochs, accelerator="cpu", enable_progress_bar=False)
    _, found = model.get_normalized_expression(indices=np.flatnonzero(lost), transform_batch="shown", **DENOISED)
    return {"scvi-tools, denoised": np.log1p(found)}


def as_there(adata, proteins, lost, seed, epochs) -> dict[str, np.ndarray]:
    adata = adata.copy()
    adata.obsm["protein"] = masked(proteins, lost, np.nan)
    options = {"recipe": "scvi-tools", "max_epochs": epochs, "seed": seed, "callback": silent}
    model = sd.fit(adata, "totalvi", protein_key="protein", batch_key="half", **options)
    return {"scduet, same recipe, denoised": denoised(model, adata[lost].copy(), transform_batch="shown")}


def by_default(adata, proteins, lost, seed, epochs) -> dict[str, np.ndarray]:
    adata = adata.copy()
    adata.obsm["protein"] = masked(proteins, lost, np.nan)
    model = sd.fit(adata, "totalvi", protein_key="protein", seed=seed, callback=silent)
    query = adata[lost].copy()
    found = {"scduet, denoised": denoised(model, query)}
    for use in ("model", "knn", "ridge", "kernel_ridge"):
        sd.predict_modality(model, query, reference=adata, use=use)
        found[f"predict_modality, {use}"] = query.obsm["predicted_protein"].to_numpy(float)
    return found


def masked(proteins: pd.DataFrame, lost: np.ndarray, value: float) -> pd.DataFrame:
    proteins = proteins.copy()
    proteins.iloc[lost] = value
    return proteins


def denoised(model: sd.Model, query: anndata.AnnData, **options) -> np.ndarray:
    return np.log1p(sd.normalized_expression(model, query, modality="protein", **DENOISED, **options).to_numpy(float))


def batches(seed: int, epochs: int) -> pd.DataFrame:
    adata = anndata.read_h5ad(DATA / "cite_pbmc5k_10k_400.h5ad")
    proteins = adata.obsm["protein"] = adata.obsm["protein_counts"].astype(np.float32)
    options = {"protein_key": "protein", "batch_key": "batch", "seed": seed, "callback": silent, "max_epochs": epochs}
    found = {}
    for name, further in TRAINING.items():
        sd.integrate(adata, "totalvi", n_top_genes=N_GENES, **options, **further)
        found[name] = adata.obsm["X_totalVI"]
    adata = adata[:, adata.var["highly_variable"]].copy()
    rows = {"PCA of RNA": unintegrated_pca(adata), **found}
    return pd.DataFrame({name: mixed(z, adata, proteins) for name, z in rows.items()}, ["iLISI", "kNN"]).T


def mixed(z: np.ndarray, adata: anndata.AnnData, proteins: pd.DataFrame) -> list[float]:
    """How well batches mix, and how well the neighbors by proteins within each batch are kept."""
    log_counts = np.log1p(proteins.to_numpy(float))
    ratios, batch = log_counts - log_counts.mean(1, keepdims=True), adata.obs["batch"].to_numpy()
    kept = [knn_overlap(z[batch == b], ratios[batch == b], N_NEIGHBORS) for b in np.unique(batch)]
    return [ilisi(z, batch), float(np.mean(kept))]


PARTS = {"hidden": hidden, "batches": batches}

if __name__ == "__main__":
    main()
