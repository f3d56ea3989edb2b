"""Types of PBMCs by RNA and proteins: scGPT on several modalities beside WNN, totalVI and mmvae.

    python benchmarks/scgpt_multiomic.py [--cells N] [--epochs N] [--checkpoint FOLDER]

A sample of cite_pbmc10k_6661_1000g (14 proteins). Prints for each embedding the share of the 30 nearest cells that are
of the same type, and NMI and ARI of the best of several Leiden clusterings with the types. Without --checkpoint scGPT
is a small one with random weights, 2 layers of width 64: what it shows is what the fine-tuning gives, not what
pre-training would add.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import anndata
import numpy as np
import torch

import scduet as sd
from scduet.events import silent
from scduet.metrics.core.neighbors import Neighbors, nearest_neighbors
from scduet.metrics.core.weighted_neighbors import N_CANDIDATES, weighted_neighbors
from scduet.metrics.integration.clustering import ari, best_clusters, leiden_clusters, nmi
from scduet.tasks.quality.baselines import principal_components, unintegrated_pca
from scduet.transformer_model import Transformer
from scduet.transformers.encoder.trunk import TrunkConfig
from scduet.transformers.families.scgpt import Config, ScGPT
from scduet.transformers.tokenizers.vocabulary import Vocabulary

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"
N_NEIGHBORS = 31  # with the cell itself


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--checkpoint", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    adata = cells(options.cells)
    counts = np.log1p(adata.obsm["protein_counts"].to_numpy(float))
    adata.obsm["X_pca"] = unintegrated_pca(adata)
    adata.obsm["X_apca"] = principal_components(counts - counts.mean(1, keepdims=True))
    for name in ("X_pca", "X_apca"):
        show(adata, name, adata.obsm[name])
    both = weighted_neighbors([adata.obsm["X_pca"], adata.obsm["X_apca"]], N_NEIGHBORS, N_CANDIDATES)
    told(adata, "WNN of both", both.neighbors)
    for name in ("totalvi", "mmvae"):
        start = time.process_time()
        model = sd.fit(adata, name, protein_key="protein_counts", callback=silent, seed=0, **SHORT[name])
        show(adata, name, model.embed(), time.process_time() - start)
    base = sd.load(options.checkpoint) if options.checkpoint else random_weights(list(adata.var_names))
    training = {"max_epochs": options.epochs, "lr": 1e-3, "accelerator": "cpu", "callback": silent, "seed": 0}
    for name, key in (("scGPT, RNA and proteins", "protein_counts"), ("untrained scGPT, RNA", None)):
        start = time.process_time()
        found = base if key is None else sd.integrate(adata, base, protein_key=key, key_added="found", **training)
        show(adata, name, found.embed(adata), time.process_time() - start)


SHORT = {
    "totalvi": {"max_epochs": 150},
    "mmvae": {"preset": "contrastive", "max_epochs": 50},
}


def cells(n: int) -> anndata.AnnData:
    adata = anndata.read_h5ad(DATA / "cite_pbmc10k_6661_1000g.h5ad")
    return adata[np.sort(np.random.default_rng(0).permutation(adata.n_obs)[:n])].copy()


def random_weights(genes: list[str]) -> Transformer:
    special = {name: i for i, name in enumerate(("<pad>", "<cls>", "<eoc>"))}
    vocabulary = Vocabulary({gene: i + len(special) for i, gene in enumerate(genes)}, "symbol", special)
    torch.manual_seed(0)
    module = ScGPT(Config(len(vocabulary), TrunkConfig(64, 2, 4, 128, 0.1, 1e-5)), vocabulary)
    return Transformer("scgpt", module.eval(), "BSD-3-Clause")


def show(adata: anndata.AnnData, name: str, embedding: np.ndarray, seconds: float | None = None) -> None:
    told(adata, name, nearest_neighbors(embedding, N_NEIGHBORS), seconds)


def told(adata: anndata.AnnData, name: str, near: Neighbors, seconds: float | None = None) -> None:
    _, code = np.unique(adata.obs["cell_type"], return_inverse=True)
    clusters = best_clusters(code, leiden_clusters(near))
    same = (code[near.index] == code[:, None]).mean()
    values = {"same type": same, "NMI": nmi(code, clusters), "ARI": ari(code, clusters)}
    text = "  ".join(f"{key} {value:.3f}" for key, value in values.items())
    print(f"{name:26s} {text}" + ("" if seconds is None else f"  {seconds:.0f} CPU s"), flush=True)


if __name__ == "__main__":
    main()
