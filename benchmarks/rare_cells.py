"""Do made-up cells help to classify a rare type? Sorted PBMC, 10 labeled cells of the rare type, 60 of each other.

python benchmarks/rare_cells.py ../shared/data [seeds]

F1 of the rare type, and macro F1 in parentheses, of logistic regression on all cells that were not labeled; means.
"""

import sys
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

import scduet as sd
from scduet.events import silent

RARE = ("CD14+ Monocyte", "CD4+/CD25 T Reg")
N_RARE, N_OTHER = 10, 60


def main(folder: Path, seeds: int) -> None:
    warnings.simplefilter("ignore")
    adata = ad.read_h5ad(folder / "pbmc_purified_facs10.h5ad")
    sc.pp.filter_genes(adata, min_cells=10)
    logged = adata.copy()
    sc.pp.normalize_total(logged, target_sum=1e4)
    sc.pp.log1p(logged)
    sc.pp.highly_variable_genes(logged, n_top_genes=1500)
    adata = adata[:, logged.var["highly_variable"]].copy()
    rows = []
    for seed in range(seeds):
        latent = sd.fit(adata, "scvi", gene_likelihood="nb", max_epochs=60, seed=seed, callback=silent).embed()
        for rare in RARE:
            for method, scores in judged(adata, latent, rare, seed):
                rows.append({"rare": rare, "method": method, "f1": scores[0], "macro": scores[1]})
                print(rows[-1], flush=True)
    means = pd.DataFrame(rows).groupby(["method", "rare"], sort=False).mean()
    print(means.round(3).unstack())


def judged(adata: ad.AnnData, latent: np.ndarray, rare: str, seed: int):
    draw, kind = np.random.default_rng(seed), adata.obs["cell_type"].to_numpy(str)
    sizes = {name: N_RARE if name == rare else N_OTHER for name in np.unique(kind)}
    train = np.concatenate([draw.choice(np.flatnonzero(kind == name), n, replace=False) for name, n in sizes.items()])
    test = np.setdiff1d(np.arange(len(kind)), train)
    x, y = sp.csr_matrix(adata.X).astype(np.float32), kind[train]

    def scores(features, labels, held_out, weight=None, c=0.02):
        model = LogisticRegression(C=c, max_iter=300, class_weight=weight).fit(features, labels)
        found = model.predict(held_out)
        return f1_score(kind[test] == rare, found == rare), f1_score(kind[test], found, average="macro")

    own, held_out = x[train].toarray(), logs(x[test].toarray())
    yield "plain", scores(logs(own), y, held_out)
    yield "balanced class weights", scores(logs(own), y, held_out, "balanced")
    pick = draw.choice(np.flatnonzero(y == rare), N_OTHER - N_RARE)
    more = np.concatenate([y, y[pick]])
    yield "copies of the rare cells", scores(logs(np.concatenate([own, own[pick]])), more, held_out)
    labeled = adata[train].copy()
    model = sd.fit(labeled, "scvi", gene_likelihood="nb", max_epochs=120, seed=seed, callback=silent)
    made = sd.posterior_predictive_sample(model, labeled[pick].copy(), n_samples=1, seed=seed)
    made = np.asarray(made.todense() if sp.issparse(made) else made, np.float32).reshape(len(pick), -1)
    yield "scVI, draws for the rare cells", scores(logs(np.concatenate([own, made])), more, held_out)
    yield "balanced, on scVI of all cells", scores(latent[train], y, latent[test], "balanced", 1.0)


def logs(counts: np.ndarray) -> np.ndarray:
    return np.log1p(counts / np.maximum(counts.sum(1, keepdims=True), 1) * 1e4)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 3)
