"""Does scGPT's fine-tuning mix real batches and keep the types? Beside PCA, Harmony and the untouched model.

    python scgpt_integration.py [--cells 150] [--genes 120]

A small scGPT (2 layers of width 64) is pre-trained on the cells of two technologies and then fine-tuned with the
default options of `integrate`, with and without tokens for genes without counts. One table a pair of technologies.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc

import scduet as sd
from scduet.tasks.workflows.embed_pretrained import hvg_pca

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
PAIRS = [("sc_celseq2", "sc_dropseq"), ("sc_celseq2", "sc_10x")]
SIZE = dict(width=64, n_layers=2, n_heads=4, feedforward=128, max_epochs=10, lr=1e-3, zeros=0.5)
WAYS = {"scGPT, integrated": {}, "scGPT, integrated, zeros=False": {"zeros": False}}
SHOWN = ["nmi_kmeans", "clisi", "ilisi", "kbet", "bio", "batch", "total", "seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=150, help="of each technology, at most")
    parser.add_argument("--genes", type=int, default=120)
    parser.add_argument("--pair", type=int, nargs="+", default=[0, 1], help="which of the pairs of technologies")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    whole = ad.read_h5ad(DATA / "cellbench_3cl_3tech_890g.h5ad")
    for pair in (PAIRS[i] for i in options.pair):
        cells = chosen(whole, pair, options.cells, options.genes)
        print(f"\n{' and '.join(pair)}: {cells.n_obs} cells, {cells.n_vars} genes\n{table(cells).round(3).to_string()}")


def chosen(adata: ad.AnnData, batches: tuple[str, ...], n_cells: int, n_genes: int) -> ad.AnnData:
    """At most `n_cells` of each batch, and the most variable genes."""
    rng = np.random.default_rng(0)
    rows = [rng.permutation(np.flatnonzero(adata.obs["batch"] == batch))[:n_cells] for batch in batches]
    adata = adata[np.sort(np.concatenate(rows))].copy()
    logged = adata.copy()
    sc.pp.normalize_total(logged, target_sum=1e4)
    sc.pp.log1p(logged)
    sc.pp.highly_variable_genes(logged, n_top_genes=n_genes, batch_key="batch")
    adata = adata[:, logged.var["highly_variable"].to_numpy()].copy()
    return adata[np.asarray(adata.X.sum(1)).ravel() > 0].copy()


def table(cells: ad.AnnData) -> pd.DataFrame:
    start = time.perf_counter()
    base = sd.pretrain(cells, "scgpt", **SIZE)
    seconds = {"scGPT, pre-trained": time.perf_counter() - start}
    cells.obsm["scGPT, pre-trained"], cells.obsm["X_pca"] = base.embed(cells), hvg_pca(cells)
    for name, options in WAYS.items():
        start = time.perf_counter()
        sd.integrate(cells, base, batch_key="batch", key_added=name, **options)
        seconds[name] = time.perf_counter() - start
    scores = sd.score(cells, ["X_pca", "scGPT, pre-trained", *WAYS], "batch", "cell_type").copy()
    scores["seconds"] = pd.Series(seconds)
    return scores[[name for name in SHOWN if name in scores]]


if __name__ == "__main__":
    main()
