"""Historical autoencoders beside plain methods: python benchmarks/reference_autoencoders.py pbmc_purified_facs10.h5ad

1,500 sorted PBMC (ten types, five coarse ones), the 1,000 most variable genes, seed 0. Name some of saucie, cardec,
diffvae, graphdiffvae behind the file to run these alone.

ARI is that of clusters with the coarse types (cells that are unassigned count as one more cluster), probe the accuracy
of a logistic regression of the ten types on the latent space (five folds), AUC the chance that an edge of the graph of
cells has a higher score than a pair without one.
"""

import sys
import time

import anndata
import numpy as np
import scanpy as sc
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score, roc_auc_score
from sklearn.model_selection import cross_val_score
from sklearn.preprocessing import scale

import scduet as sd

RUN = {"seed": 0, "train_size": 1.0, "callback": lambda event: None}
WEIGHTS = ((0.1, 0.2), (0.2, 0.4), (0.02, 0.0))  # lambda_c and lambda_d of SAUCIE


def main(path: str, *names: str) -> None:
    adata, pcs = prepared(path)
    show("k-means, 5, on 30 PCs", ARI=ari(adata, kmeans(pcs)), probe=probe(adata, pcs[:, :10]))
    for name in names or METHODS:
        METHODS[name](adata, pcs)


def prepared(path: str):
    adata = anndata.read_h5ad(path)
    adata = adata[np.sort(np.random.default_rng(0).choice(adata.n_obs, 1500, replace=False))].copy()
    sc.pp.filter_genes(adata, min_cells=10)
    logged = sc.pp.log1p(sc.pp.normalize_total(adata, target_sum=1e4, copy=True), copy=True)
    sc.pp.highly_variable_genes(logged, n_top_genes=1000)
    adata, logged = (some[:, logged.var["highly_variable"]].copy() for some in (adata, logged))
    sc.pp.pca(logged, 30)
    return adata, logged.obsm["X_pca"]


def saucie(adata, pcs) -> None:
    for c, d in WEIGHTS:
        model = sd.fit(adata, "saucie", lambda_c=c, lambda_d=d, **RUN)
        found = sd.cluster_cells(model)["cluster"]
        known = found[found != "unassigned"]
        values = {"clusters": known.nunique(), "unassigned": (found == "unassigned").mean(), "ARI": ari(adata, found)}
        show(f"SAUCIE, lambda_c {c}, lambda_d {d}", **values)


def cardec(adata, pcs) -> None:
    for weight in (1.0, 0.0):
        options = {"n_clusters": 5, "n_variable_genes": 500, "clustering_weight": weight, "max_epochs": 40}
        model = sd.fit(adata, "cardec", **options, **RUN)
        z = model.embed()[:, :32]  # of the variable genes
        by_itself = {"ARI": ari(adata, sd.cluster_cells(model)["cluster"])} if weight else {}
        show(
            f"CarDEC, clustering_weight {weight}", **by_itself, ARI_kmeans=ari(adata, kmeans(z)), probe=probe(adata, z)
        )


def diffvae(adata, pcs) -> None:
    wide = {"layers": (512, 256), "n_latent": 50}
    flavors = {
        "autoencoder, as it is": {},
        "DiffVAE": wide,
        "DiffVAE, MMD, weight as published": {**wide, "prior": "mmd", "max_kl_weight": 0.001},
    }
    for name, options in flavors.items():
        z = sd.fit(adata, "autoencoder", max_epochs=40, **options, **RUN).embed()
        show(name, ARI_kmeans=ari(adata, kmeans(z)), probe=probe(adata, z))


def graphdiffvae(adata, pcs) -> None:
    model = sd.fit(adata, "graphdiffvae", **{**RUN, "train_size": None})
    module, z = model.module.cpu(), model.embed()
    seen = module.spread.ends[:, : (module.spread.ends.shape[1] - adata.n_obs) // 2]
    shown, held_out, absent = seen.numpy(), module.held_out.numpy(), module.absent.numpy()
    x = module.x.numpy()
    joined = np.zeros((adata.n_obs, adata.n_obs), np.float32)
    joined[shown[0], shown[1]] = joined[shown[1], shown[0]] = 1
    shared = joined @ joined
    near = x / np.linalg.norm(x, axis=1, keepdims=True)
    scores = {
        "Graph-DiffVAE": lambda pairs: module.score(pairs_of(pairs)).detach().numpy(),
        "shared neighbors": lambda pairs: shared[pairs[0], pairs[1]],
        "cosine of its 50 components": lambda pairs: (near[pairs[0]] * near[pairs[1]]).sum(1),
    }
    for name, score in scores.items():
        truth = np.repeat([1, 0], [held_out.shape[1], absent.shape[1]])
        at_shown = np.repeat([1, 0], [shown.shape[1], absent.shape[1]])
        show(
            name,
            AUC_held_out=roc_auc_score(truth, np.concatenate([score(held_out), score(absent)])),
            AUC_shown=roc_auc_score(at_shown, np.concatenate([score(shown), score(absent)])),
        )
    show("Graph-DiffVAE", ARI_kmeans=ari(adata, kmeans(z)), probe=probe(adata, z))


def pairs_of(pairs):
    import torch

    return torch.from_numpy(pairs)


def kmeans(z) -> np.ndarray:
    return KMeans(5, n_init=10, random_state=0).fit_predict(z)


def ari(adata, found) -> float:
    return adjusted_rand_score(adata.obs["cell_type_coarse"], found)


def probe(adata, z) -> float:
    return cross_val_score(LogisticRegression(max_iter=300), scale(z), adata.obs["cell_type"].astype(str), cv=5).mean()


def show(name: str, **values: float) -> None:
    print(
        f"{name:36s}",
        *(f"{key} {value:.3f}" for key, value in values.items()),
        f"cpu {time.process_time():.0f} s",
        flush=True,
    )


METHODS = {"saucie": saucie, "cardec": cardec, "diffvae": diffvae, "graphdiffvae": graphdiffvae}

if __name__ == "__main__":
    main(*sys.argv[1:])
