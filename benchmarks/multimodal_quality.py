"""How well proteins are predicted, and types kept, by totalVI and PeakVI beside simple methods, on real data.

    python benchmarks/multimodal_quality.py [proteins] [neighbors] [peaks] [--model FOLDER]

proteins: 6,661 PBMCs with 14 proteins (cite_pbmc10k_6661_1000g), those of half the cells hidden from every method.
neighbors: of the other half, the share of the 30 nearest cells that are of the same type, by each embedding and by
weighted neighbors. peaks: the same of A549 cells after three times of treatment (multiome_scicar_a549_atac_binary).
--model: a totalVI trained here before (`proteins` writes it to that folder if it is not there).
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

import scduet as sd
from scduet.events import silent
from scduet.metrics.core.neighbors import nearest_neighbors
from scduet.tasks.quality.baselines import principal_components, unintegrated_pca

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"
SAME = 31  # neighbors, with the cell itself


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["proteins", "neighbors", "peaks"])
    parser.add_argument("--model", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    for part in options.parts:
        {"proteins": proteins, "neighbors": neighbors, "peaks": peaks}[part](options.model)


def cells() -> tuple[anndata.AnnData, np.ndarray]:
    """The cells, proteins of half of them missing, and which half that is."""
    adata = anndata.read_h5ad(DATA / "cite_pbmc10k_6661_1000g.h5ad")
    hidden = np.sort(np.random.default_rng(0).permutation(adata.n_obs)[: adata.n_obs // 2])
    shown = adata.obsm["protein_counts"].astype(np.float32)
    shown.iloc[hidden] = np.nan
    adata.obsm["protein"] = shown
    return adata, hidden


def trained(adata: anndata.AnnData, folder: Path | None) -> sd.Model:
    if folder is not None and folder.is_dir():
        return sd.load(folder)
    start = time.process_time()
    model = sd.fit(adata, "totalvi", protein_key="protein", callback=silent)
    print(f"totalVI trained in {time.process_time() - start:.0f} CPU seconds")
    if folder is not None:
        model.save(folder)
    return model


def proteins(folder: Path | None) -> None:
    adata, hidden = cells()
    model, query, rows = trained(adata, folder), adata[hidden].copy(), {}
    truth = np.log1p(query.obsm["protein_counts"].to_numpy(float))
    for use in ("model", "knn", "ridge", "kernel_ridge"):
        sd.predict_modality(model, query, reference=adata, use=use)
        rows[use] = judged(query.obsm["predicted_protein"].to_numpy(float), truth)
    options = {"modality": "protein", "n_samples": 25, "include_protein_background": True}
    expected = sd.normalized_expression(model, query, **options).to_numpy()
    rows["normalized_expression, 25 draws"] = judged(np.log1p(expected), truth)
    print(pd.DataFrame(rows, ["pearson", "rmse"]).T.round(3))
    print(sd.predict_modality(model, query, reference=adata).round(3))


def judged(found: np.ndarray, truth: np.ndarray) -> list[float]:
    each = [np.corrcoef(found[:, j], truth[:, j])[0, 1] for j in range(truth.shape[1])]
    return [float(np.mean(each)), float(np.sqrt(np.square(found - truth).mean()))]


def neighbors(folder: Path | None) -> None:
    adata, hidden = cells()
    model = trained(adata, folder)
    adata = adata[np.setdiff1d(np.arange(adata.n_obs), hidden)].copy()
    counts = np.log1p(adata.obsm["protein"].to_numpy(float))
    adata.obsm["X_pca"] = unintegrated_pca(adata)
    adata.obsm["X_apca"] = principal_components(counts - counts.mean(1, keepdims=True))
    adata.obsm["X_totalVI"] = model.embed(adata)
    weights = sd.weighted_neighbors(adata, ["X_pca", "X_apca"])
    kind = adata.obs["cell_type"]
    found = {
        key: same(kind, nearest_neighbors(adata.obsm[key], SAME).index) for key in ("X_pca", "X_apca", "X_totalVI")
    }
    sd.weighted_neighbors(adata, ["X_pca", "X_apca"], n_neighbors=SAME - 1)
    found["WNN of X_pca and X_apca"] = same(kind, graph(adata))
    print(pd.Series(found, name="same type").round(3))
    print(weights.groupby(kind.to_numpy()).mean().round(2))


def graph(adata: anndata.AnnData) -> np.ndarray:
    distances = adata.obsp["wnn_distances"]
    return distances.indices.reshape(adata.n_obs, -1)


def same(labels, index: np.ndarray) -> float:
    labels = np.asarray(labels)
    return float((labels[index] == labels[:, None]).mean())


def peaks(_: Path | None) -> None:
    adata = anndata.read_h5ad(DATA / "multiome_scicar_a549_atac_binary.h5ad")
    key = next(name for name in ("condition", "cell_type", "label", "treatment_time") if name in adata.obs)
    x = sp.csr_matrix(adata.X, dtype=np.float64)
    share = sp.diags(1 / x.sum(1).A1) @ x @ sp.diags(adata.n_obs / np.maximum(x.sum(0).A1, 1))
    lsi = principal_components((1e4 * share).log1p().tocsr())[:, 1:30]
    start = time.process_time()
    model = sd.fit(adata, "peakvi", callback=silent)
    print(f"PeakVI trained in {time.process_time() - start:.0f} CPU seconds, {len(model.history)} epochs")
    most = pd.Series(adata.obs[key]).value_counts(normalize=True)
    found = {"PeakVI": model.embed(), "LSI": lsi}
    table = {name: same(adata.obs[key], nearest_neighbors(z, SAME).index) for name, z in found.items()}
    print(pd.Series({**table, "chance": float(np.square(most).sum())}, name=f"same {key}").round(3))


if __name__ == "__main__":
    main()
