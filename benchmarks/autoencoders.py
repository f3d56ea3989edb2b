"""Flavors of the autoencoder on sorted PBMC: held-out molecules and the embedding, beside the PCA.

python benchmarks/autoencoders.py ../shared/data [seeds] [epochs]

1,500 cells, their 1,500 most variable genes, a tenth of the molecules held out. Columns: D2 of the held-out molecules
(0: gene mean x depth), ARI of k-means (k = 5) with five coarse types, their silhouette, accuracy of a logistic
regression of the embedding for ten sorted types (3-fold), mean |r| of two latent dimensions. Means over seeds, and the
range of D2.
"""

import sys
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score, silhouette_score
from sklearn.model_selection import cross_val_score

import scduet as sd
from scduet.errors import ScduetWarning
from scduet.events import silent
from scduet.metrics.imputation import held_out_scores, split_molecules

FLAVORS = {
    "plain": {"variational": False},
    "stacked (256, 64)": {"variational": False, "layers": (256, 64)},
    "sparse, L1 1": {"variational": False, "sparsity": 1.0},
    "denoising, mask .3": {"variational": False, "corruption": "mask"},
    "denoising, thin .5": {"variational": False, "corruption": "thin", "corruption_rate": 0.5},
    "denoising, noise .3": {"variational": False, "corruption": "noise"},
    "variational": {},
    "variational, thin .3": {"corruption": "thin"},
    "beta 4": {"max_kl_weight": 4.0},
    "beta 0.1": {"max_kl_weight": 0.1},
    "beta-TC, + 5": {"total_correlation": 5.0},
    "MMD": {"variational": False, "prior": "mmd"},
    "adversarial": {"variational": False, "prior": "adversarial"},
    "variational, Poisson": {"gene_likelihood": "poisson"},
}


def main(folder: Path, seeds: int, epochs: int) -> None:
    warnings.simplefilter("ignore")
    warnings.simplefilter("ignore", ScduetWarning)
    rows = []
    for seed in range(seeds):
        adata, molecules = cells(folder, seed)
        began = time.process_time()
        logs = sp.csr_matrix(adata.X, dtype=np.float64)
        logs.data = np.log1p(logs.data * np.repeat(1e4 / adata.obs["total"], np.diff(logs.indptr)))
        rows.append(judged("PCA", sc.pp.pca(logs.toarray(), 10), adata, np.nan, began))
        for name, options in FLAVORS.items():
            began = time.process_time()
            model = sd.fit(adata, "autoencoder", seed=seed, max_epochs=epochs, callback=silent, **options)
            z = model.embed()
            share = sd.decode_states(model, z).to_numpy()
            d2 = held_out_scores(molecules, share * adata.obs["total"].to_numpy()[:, None]).d2
            rows.append(judged(name, z, adata, d2, began))
            print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    means = table.groupby("flavor", sort=False).mean()
    d2 = table.groupby("flavor", sort=False)["D2"]
    means.insert(1, "D2 range", [f"{low:.3f}-{high:.3f}" for low, high in zip(d2.min(), d2.max(), strict=True)])
    print(means.round(3).to_string())


def cells(folder: Path, seed: int):
    """1,500 cells and genes, with the molecules that are shown."""
    adata = ad.read_h5ad(folder / "pbmc_purified_facs10.h5ad")
    adata = adata[np.sort(np.random.default_rng(0).choice(adata.n_obs, 1500, replace=False))].copy()
    sc.pp.filter_genes(adata, min_cells=10)
    logged = adata.copy()
    sc.pp.normalize_total(logged, target_sum=1e4)
    sc.pp.log1p(logged)
    sc.pp.highly_variable_genes(logged, n_top_genes=1500)
    adata = adata[:, logged.var["highly_variable"]].copy()
    molecules = split_molecules(adata.X, 0.9, seed)
    adata = adata[molecules.cells, molecules.genes].copy()
    adata.X = molecules.shown.astype(np.float32)
    adata.obs["total"] = np.asarray(adata.X.sum(1)).ravel()
    return adata, molecules


def judged(name: str, z: np.ndarray, adata: ad.AnnData, d2: float, began: float) -> dict:
    coarse, fine = adata.obs["cell_type_coarse"].to_numpy(str), adata.obs["cell_type"].to_numpy(str)
    found = KMeans(5, n_init=5, random_state=0).fit_predict(z)
    scaled = (z - z.mean(0)) / (z.std(0) + 1e-9)
    r = np.abs(np.corrcoef(z.T)[np.triu_indices(z.shape[1], 1)])
    return {
        "flavor": name,
        "D2": d2,
        "ARI": adjusted_rand_score(coarse, found),
        "silhouette": silhouette_score(z, coarse),
        "probe": cross_val_score(LogisticRegression(max_iter=500), scaled, fine, cv=3).mean(),
        "|r|": np.nanmean(r),
        "CPU s": time.process_time() - began,
    }


if __name__ == "__main__":
    numbers = [int(number) for number in sys.argv[2:]]
    main(Path(sys.argv[1]), *(numbers + [3, 60][len(numbers) :]))
