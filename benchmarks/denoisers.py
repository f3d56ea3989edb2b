"""Denoisers judged by held-out molecules on three data sets: pbmc3k, CEL-seq2 cells of three lines, sorted PBMC.

python benchmarks/denoisers.py [folder of data] [seeds] [pbmc3k celseq facs]

At most 1,500 cells, their 1,500 most variable genes; 90% of the molecules are shown, of CEL-seq2 10%, so that its truth
is deep. D2: explained deviance of the others (0: gene mean x depth), one column a seed; CPU seconds are means. The seed
is of the split of the molecules and of the networks.
"""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc

import scduet as sd
from scduet.events import silent
from scduet.metrics.imputation import held_out_scores, split_molecules
from scduet.tasks.quality import denoisers
from scduet.tasks.workflows.denoise import denoiser, expected_counts

FILES = {
    "pbmc3k": ("pbmc3k_seurat_labels.h5ad", 0.9),
    "celseq": ("cellbench_3cl_celseq2_dropseq.h5ad", 0.1),
    "facs": ("pbmc_purified_facs10.h5ad", 0.9),
}
NAMED = ("walk", "scvi", "dca", "alra", "deepimpute", "scimpute")


def main(folder: Path, seeds: int, names: tuple[str, ...]) -> None:
    warnings.simplefilter("ignore")
    for name in names:
        adata, share = cells(folder, name)
        labels = adata.obs["cell_type"].to_numpy(str)
        found: dict[str, list[float]] = {}
        took: dict[str, list[float]] = {}
        for seed in range(seeds):
            molecules = split_molecules(adata.X, share, seed)
            for title, function in methods(labels[molecules.cells], seed, name).items():
                began = time.process_time()
                found.setdefault(title, []).append(held_out_scores(molecules, function(molecules.shown)).d2)
                took.setdefault(title, []).append(time.process_time() - began)
                print(name, seed, title, round(found[title][-1], 3), round(took[title][-1], 1), flush=True)
        table = pd.DataFrame(found, index=[f"seed {seed}" for seed in range(seeds)]).T
        table["mean"], table["CPU s"] = table.mean(axis=1), pd.DataFrame(took).mean()
        print(f"\n{name}: {adata.n_obs} cells, {adata.n_vars} genes\n{table.round(3).to_string()}\n", flush=True)


def cells(folder: Path, name: str) -> tuple[ad.AnnData, float]:
    """The cells and genes, and the share of molecules to be shown."""
    file, share = FILES[name]
    adata = ad.read_h5ad(folder / file)
    if name == "celseq":
        adata = adata[adata.obs["batch"] == "sc_celseq2"].copy()
    if name == "pbmc3k":
        adata = adata[adata.obs["cell_type"] != "unknown"].copy()
    if adata.n_obs > 1500:
        adata = adata[np.sort(np.random.default_rng(0).choice(adata.n_obs, 1500, replace=False))].copy()
    sc.pp.filter_genes(adata, min_cells=10)
    logged = adata.copy()
    sc.pp.normalize_total(logged, target_sum=1e4)
    sc.pp.log1p(logged)
    sc.pp.highly_variable_genes(logged, n_top_genes=1500)
    return adata[:, logged.var["highly_variable"]].copy(), share


def methods(labels: np.ndarray, seed: int, name: str) -> dict:
    """Title -> function of the counts shown (CSR)."""
    found = {"type means": lambda x: denoisers.type_means(x, labels), "no denoising": lambda x: x.toarray()}
    found |= {"walk, t = 7": lambda x: denoisers.walk(x, t=7)}
    quadratic = {"scimpute"} if name != "celseq" else set()  # of the cells of a cluster: minutes on 1,500
    found |= {method: denoiser(method, seed) for method in NAMED if method not in quadratic}
    found["dca, gene dispersion"] = lambda x: fitted(x, "dca", seed, dispersion="gene")
    found["dca, zinb"] = lambda x: fitted(x, "dca", seed, gene_likelihood="zinb")
    found["scvi, nb, auto"] = lambda x: fitted(x, "scvi", seed, gene_likelihood="nb")
    found["deepimpute, mse"] = lambda x: fitted(x, "deepimpute", seed, loss="mse")
    return found


def fitted(x, model: str, seed: int, **options) -> np.ndarray:
    data = ad.AnnData(x.astype(np.float32))
    return expected_counts(sd.fit(data, model, seed=seed, callback=silent, **options), seed=seed)


if __name__ == "__main__":
    given = [word for word in sys.argv[1:] if word not in FILES]
    folder = Path(given[0]) if given else Path("../shared/data")
    chosen = tuple(word for word in sys.argv[1:] if word in FILES) or tuple(FILES)
    main(folder, int(given[1]) if len(given) > 1 else 3, chosen)
