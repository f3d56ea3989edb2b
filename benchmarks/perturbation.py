"""Perturbations predicted by simple rules on real screens, with split controls, and the time that the table takes.

python benchmarks/perturbation.py [folder of data] [kang donors norman papalexi datlinger speed ...]
"""

from __future__ import annotations

import resource
import sys
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

import scduet as sd

SHOWN = ["relative_error", "L2", "delta", "delta_vs_mean", "discrimination", "size", "r2", "delta_shared"]
MERGED = {
    "CD4 Naive T": "CD4 T", "CD4 Memory T": "CD4 T", "T activated": "CD4 T", "CD8 T": "CD8 T", "B": "B",
    "B Activated": "B", "CD14 Mono": "CD14 Mono", "CD16 Mono": "CD16 Mono", "DC": "DC", "NK": "NK",
}  # fmt: skip


def log_normalized(cells: ad.AnnData, total=None) -> ad.AnnData:
    total = np.asarray(cells.X.sum(1)).ravel() if total is None else np.asarray(total, float)
    cells.X = (sp.diags(1e4 / np.maximum(total, 1)) @ cells.X).tocsr().log1p().astype(np.float32)
    return cells


def kang_cells(data: Path) -> ad.AnnData:
    cells = ad.read_h5ad(data / "kang_ifnb_2800.h5ad")
    donors = pd.read_csv(data / "kang_ifnb_2800_donors.tsv", sep="\t", dtype=str, keep_default_na=False)
    cells.obs["donor"] = donors.set_index("cell")["donor"].reindex(cells.obs_names).to_numpy()
    cells = cells[cells.obs["cell_type"].isin(MERGED)].copy()
    cells.obs["type"] = cells.obs["cell_type"].map(MERGED).astype(str)
    return log_normalized(cells)


def kang(data: Path) -> None:
    """Stimulated cells of each type from the six others; genes chosen on the cells that may be seen."""
    import scanpy as sc

    cells, found = kang_cells(data), []
    for held in sorted(cells.obs["type"].unique()):
        train = cells[~((cells.obs["type"] == held) & (cells.obs["condition"] == "stim"))]
        genes = sc.pp.highly_variable_genes(train, n_top_genes=2000, inplace=False)["highly_variable"].to_numpy()
        for controls in ("shared", "split"):
            pred = sd.predict_perturbation(
                cells[:, genes].copy(), "condition", "stim", context_key="type", contexts=held, controls=controls
            )
            own = pred.held_out[pred.held_out["context"] == held]
            found.append(own.assign(controls=controls))
    table = pd.concat(found)
    print(table.groupby(["controls", "method"], sort=False)[SHOWN].mean().round(3).to_string())
    print(table.pivot_table(index=["controls", "method"], columns="context", values="r2").round(3).to_string())
    print(table.pivot_table(index=["controls", "method"], columns="context", values="delta").round(3).to_string())


def donors(data: Path) -> None:
    """Stimulated cells of each donor from the other donors, within each type; at least 20 cells on each side."""
    cells = kang_cells(data)
    cells = cells[:, np.asarray((cells.X > 0).sum(0)).ravel() >= 100].copy()
    found = []
    for kind in sorted(cells.obs["type"].unique()):
        own = cells[(cells.obs["type"] == kind) & ~cells.obs["donor"].isin(["", "nan"])].copy()
        size = own.obs.groupby(["donor", "condition"]).size().unstack(fill_value=0).min(axis=1)
        own = own[own.obs["donor"].isin(size.index[size >= 20])].copy()
        if own.obs["donor"].nunique() > 2:
            for controls in ("shared", "split"):
                pred = sd.predict_perturbation(own, "condition", "stim", context_key="donor", controls=controls)
                found.append(pred.held_out.assign(controls=controls))
    print(pd.concat(found).groupby(["controls", "method"], sort=False)[[*SHOWN]].mean().round(3).to_string())
    tumor = ad.read_h5ad(data / "drug_gbm_panobinostat_5donors_300g.h5ad")
    for controls in ("shared", "split"):
        pred = sd.predict_perturbation(tumor, "condition", "panobinostat", context_key="donor", controls=controls)
        print(controls, pred.table[SHOWN].round(3).to_string(), sep="\n")


def gene_sets(data: Path) -> dict:
    folder = data / "files" / "genesets"
    names = ("GO_Biological_Process_2021.gmt.gz", "Reactome_2016.gmt.gz")
    return {name: genes for file in names for name, genes in sd.read_gmt(folder / file).items()}


def norman(data: Path) -> None:
    cells = ad.read_h5ad(data / "perturb_norman_mcfaline_500g.h5ad")
    cells = cells[cells.obs["dataset"] == "norman19"]
    cells = cells[:, np.asarray((cells.X > 0).sum(0)).ravel() >= 10].copy()
    _screen(cells, "n_counts", gene_sets(data))


def papalexi(data: Path) -> None:
    cells = ad.read_h5ad(data / "perturb_papalexi_thp1_299g.h5ad")
    _screen(cells[cells.obs["assigned"] == "single"].copy(), None, gene_sets(data))


def datlinger(data: Path) -> None:
    cells = ad.read_h5ad(data / "perturb_datlinger_jurkat_tcr_7500.h5ad")
    cells = cells[cells.obs["condition"] == "stimulated"]
    cells = cells[:, np.asarray((cells.X > 0).sum(0)).ravel() >= 50].copy()
    _screen(cells, "n_counts", gene_sets(data))


def _screen(cells: ad.AnnData, total: str | None, sets: dict) -> None:
    pred = sd.predict_perturbation(cells, "perturbation", control="control", total_key=total, gene_embedding=sets)
    print(pred.table[["n", *SHOWN]].round(3).to_string())
    strong = pred.held_out[pred.held_out["half_correlation"] > 0.5]
    strong = strong[strong["task"] == "gene"]
    print("split-half r above .5:", sorted(strong["target"].unique()))
    print(strong.groupby("method", sort=False)[SHOWN].mean().round(3).to_string())
    every = pred.held_out.groupby(["task", "method"], sort=False)[SHOWN].mean()
    print("all, measurable or not", every.round(3).to_string(), sep="\n")


def speed(data: Path, n: int = 20000, n_genes: int = 5000, n_perturbations: int = 100) -> None:
    """Made data, a tenth of the entries above zero, every rule with an embedding of ten dimensions."""
    rng = np.random.default_rng(0)
    x = sp.random(n, n_genes, 0.1, "csr", np.float32, 0, lambda k: 1 + rng.poisson(1, k).astype(np.float32))
    genes = [f"G{i}" for i in range(n_genes)]
    code = rng.integers(0, n_perturbations + 1, n)
    code[:2000] = 0
    names = np.array(["control", *genes[:n_perturbations]])
    obs = pd.DataFrame({"perturbation": names[code]}, index=[f"c{i}" for i in range(n)])
    cells = ad.AnnData(x, obs, pd.DataFrame(index=genes))
    known = pd.DataFrame(rng.normal(size=(n_perturbations, 10)), index=names[1:])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, clock = time.process_time(), time.perf_counter()
    sd.predict_perturbation(cells, "perturbation", gene_embedding=known)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    took = time.process_time() - start, time.perf_counter() - clock
    print(f"CPU {took[0]:.1f} s, wall {took[1]:.1f} s, peak {peak / 1e6:.2f} GB, before {before / 1e6:.2f} GB")


def main() -> None:
    names = ("kang", "donors", "norman", "papalexi", "datlinger", "speed")
    data = Path(next((word for word in sys.argv[1:] if word not in names), "../shared/data"))
    warnings.simplefilter("ignore")
    for name in [word for word in sys.argv[1:] if word in names] or names:
        print("=====", name)
        globals()[name](data)


if __name__ == "__main__":
    main()
