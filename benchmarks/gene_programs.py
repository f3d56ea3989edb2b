"""Do programs of genes found by a model say more than co-expression does? PBMC 3k and the gene sets of Reactome.

    python benchmarks/gene_programs.py [--data ../shared/data] [--seeds 0 1 2] [--epochs 30]

scVI and LDVAE are trained on the 1,500 most variable genes and those of HLA and of the T-cell receptor; their links
between genes stand beside those of co-expression in the same cells, with the same number of neighbors and the same
Leiden resolution. `links` is the share of links whose genes are in a common set of at most 50 genes (random pairs
beside), `enriched` the number of programs with an FDR below 0.05, and the last three columns the FDR of the program
that holds HLA-DRA (HLA class II), CD3D (T-cell receptor) and HLA-B (HLA class I); empty where it is in none.
One row for each model, seed, resolution and method is written to results/gene_programs.csv.
"""

import argparse
import time
from pathlib import Path

import anndata as ad
import pandas as pd
import scanpy as sc

import scduet as sd

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "gene_programs.csv"
MODELS = {"ldvae": {"n_latent": 20}, "scvi": {}}
RESOLUTIONS = (5, 10, 20)
KNOWN = ("HLA-DRA", "CD3D", "HLA-B")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=HERE / ".." / ".." / "shared" / "data")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=30)
    given = parser.parse_args()
    adata = cells(given.data / "pbmc3k_seurat_labels.h5ad")
    sets = sd.read_gmt(given.data / "files" / "genesets" / "Reactome_2016.gmt.gz")
    rows = [
        row
        for name, options in MODELS.items()
        for seed in given.seeds
        for row in compared(adata, sets, name, seed, {**options, "max_epochs": given.epochs})
    ]
    table = pd.DataFrame(rows)
    table.to_csv(RESULTS, index=False)
    print(table.drop(columns=["seed", "seconds"]).groupby(["model", "resolution", "method"]).median().to_string())


def cells(path: Path) -> ad.AnnData:
    """PBMC with the variable genes and those that the known programs are made of."""
    adata = ad.read_h5ad(path)
    logged = adata.copy()
    sc.pp.normalize_total(logged, target_sum=1e4)
    sc.pp.log1p(logged)
    sc.pp.highly_variable_genes(logged, n_top_genes=1500)
    immune = adata.var_names.str.match(r"HLA-|CD3[DEG]$|B2M$|CD74$|LCK$|CD247$")
    return adata[:, logged.var["highly_variable"] | immune].copy()


def compared(adata: ad.AnnData, sets, name: str, seed: int, options: dict):
    """One row a resolution and method."""
    model = sd.fit(adata, name, seed=seed, **options)
    begun = time.perf_counter()
    network = sd.gene_network(model, adata, genes=adata.var_names)
    seconds = time.perf_counter() - begun
    for resolution in RESOLUTIONS:
        programs = sd.gene_programs(network, sets, resolution=resolution, seed=seed)
        share = programs.attrs["links"].set_index("method")["in_common_set"]
        for method in ("model", "coexpression"):
            own = programs[programs["method"] == method]
            found = {gene: row.fdr for row in own.itertuples() for gene in row.genes.split(", ")}
            yield {
                "model": name, "seed": seed, "resolution": resolution, "method": method, "seconds": seconds,
                "links": share[method], "links_random": share["random pairs"],
                "programs": len(own), "enriched": int((own["fdr"] < 0.05).sum()),
                **{f"fdr {gene}": found.get(gene) for gene in KNOWN},
            }  # fmt: skip


if __name__ == "__main__":
    main()
