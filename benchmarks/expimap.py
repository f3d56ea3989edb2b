"""Interferon programs of Kang's PBMC: ranks of three gene sets among 318, by expiMap and by plain scores of the sets.

python benchmarks/expimap.py ../shared/data [seeds]
"""

import sys
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc

import scduet as sd
from scduet.errors import ScduetWarning
from scduet.events import silent

FILES = ("h.all.v7.0.symbols.gmt", "Reactome_2016.gmt.gz")
INTERFERON = (
    "HALLMARK_INTERFERON_ALPHA_RESPONSE",
    "Interferon alpha/beta signaling",
    "Interferon Signaling",
)
SETTINGS = {
    "default": {},
    "loadings free, group_lasso 0.7 (published)": {"loadings": "free", "group_lasso": 0.7},
    "default, 100 epochs": {"max_epochs": 100},
}


def main(folder: Path, seeds: int) -> None:
    warnings.simplefilter("ignore", ScduetWarning)
    adata = cells(folder)
    print(f"{adata.n_obs} cells, {adata.n_vars} genes, {adata.varm['sets'].shape[1]} sets")
    for title, options in SETTINGS.items():
        for seed in range(seeds if title == "default" else 1):
            began = time.process_time()
            model = sd.fit(adata, "expimap", gene_sets="sets", seed=seed, callback=silent, **options)
            seconds = time.process_time() - began
            table = sd.differential_programs(model, adata, "condition", "stim", "ctrl")
            history = model.history.filter(like="validation").iloc[-1]
            by_model = ranks(table["program"])
            by_set = ranks(table.sort_values("set_t", key=np.abs, ascending=False)["program"])
            print(
                f"{title}, seed {seed}: ranks {by_model}, by set_t {by_set}, active {(table['direction'] != 0).sum()}, "
                f"reconstruction {history['reconstruction_validation']:.1f}, KL {history['kl_validation']:.1f}, "
                f"{len(model.history)} epochs, {seconds:.0f} CPU s; top: {'; '.join(table['program'][:5])}",
                flush=True,
            )


def ranks(names: pd.Series) -> list[int]:
    place = {name: i + 1 for i, name in enumerate(names)}
    return [place[name] for name in INTERFERON]


def cells(folder: Path) -> ad.AnnData:
    """The most variable genes that are in any set; sets of 13 to 300 of the genes that are in any."""
    adata = ad.read_h5ad(folder / "kang_ifnb_2800.h5ad")
    sets = {}
    for file in FILES:
        for name, genes in sd.read_gmt(folder / "files" / "genesets" / file).items():
            sets[name.split("_Homo")[0]] = genes
    adata = adata[:, adata.var_names.isin(set().union(*sets.values()))].copy()
    logged = adata.copy()
    sc.pp.normalize_total(logged, target_sum=1e4)
    sc.pp.log1p(logged)
    sc.pp.highly_variable_genes(logged, n_top_genes=1500)
    adata = adata[:, logged.var["highly_variable"]].copy()
    kept = {name: genes for name, genes in sets.items() if 12 < len(genes & set(adata.var_names)) <= 300}
    mask = pd.DataFrame({name: adata.var_names.isin(genes) for name, genes in kept.items()}, adata.var_names)
    used = mask.any(axis=1).to_numpy()
    adata = adata[:, used].copy()
    adata.varm["sets"] = mask[used].astype(np.float32)
    return adata


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 3)
