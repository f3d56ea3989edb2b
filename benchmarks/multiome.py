"""MultiVI on cells with RNA and peaks beside PCA, LSI and neighbors: embedding, mixing, imputing what was not measured.

    python benchmarks/multiome.py RNA.h5ad ATAC.h5ad [--label condition] [--seeds 1] [--epochs 60] [--settings ...]

Paired: MultiVI of all cells. Accuracy is that of 15 neighbors (leave-one-out) for the label, in an embedding of both.
Mosaic: a third of the cells keeps both, a third RNA alone, a third peaks alone. iLISI is of these three groups;
transfer is the accuracy of 15 neighbors with RNA alone for cells with peaks alone. Imputed peaks of cells with RNA
alone are judged by the area under the ROC curve within cells, imputed genes of cells with peaks alone by Pearson's r
across cells (log of counts per 10,000), a mean over genes; beside them the mean of paired cells, and the mean of the 50
paired cells nearest in PCA (or LSI). "scvi-tools" is its own MULTIVI, which, as "as in scvi-tools" here, has an
adversary only because the group of a cell is its `batch_key`; all settings share learning rate, epochs and seed.
"""

from __future__ import annotations

import argparse
import time
import warnings

import anndata
import mudata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.sparse.linalg import svds
from scipy.stats import rankdata

import scduet as sd
from scduet.metrics import ilisi, nearest_neighbors

SETTINGS = {
    "default": {},
    "no adversary": {"adversarial_mixing": False},
    "no penalty, no adversary": {"adversarial_mixing": False, "modality_penalty": "None"},
    "as in scvi-tools": {"as_in_scvi_tools": True, "batch_key": "measured", "recipe": "scvi-tools"},
    "to the end": {"early_stopping": False, "recipe": "scvi-tools"},
    "scvi-tools": None,
}
N_NEIGHBORS, N_IMPUTE, N_PARTS = 15, 50, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rna")
    parser.add_argument("atac")
    parser.add_argument("--label", default="condition")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--mosaic", action="store_true", help="leave the paired cells out")
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    options = parser.parse_args()
    rna, atac = anndata.read_h5ad(options.rna), anndata.read_h5ad(options.atac)
    rna.obs_names = atac.obs_names = [f"cell{i}" for i in range(rna.n_obs)]
    label = rna.obs[options.label].to_numpy().astype(str)
    train = {"max_epochs": options.epochs, "lr": options.lr, "peaks_key": "atac", "callback": lambda event: None}
    rows = [] if options.mosaic else paired(rna, atac, label, train)
    for seed in range(options.seeds):
        rows += mosaic(rna, atac, label, {**train, "seed": seed}, options.settings)
    print(pd.DataFrame(rows).groupby(["cells", "method"], sort=False).mean().round(3).to_string())


def paired(rna, atac, label, train: dict) -> list[dict]:
    genes, peaks = pca(rna.X), lsi(atac.X)
    whole = mudata.MuData({"rna": rna.copy(), "atac": atac.copy()})
    start = time.process_time()
    model = sd.fit(whole, "multivi", **train)
    seconds = time.process_time() - start
    print(f"paired: {len(model.history)} epochs, {seconds:.0f} CPU seconds")
    embeddings = {
        "PCA of genes": genes,
        "LSI of peaks": peaks,
        "PCA and LSI": np.hstack([scaled(genes), scaled(peaks)]),
        "MultiVI": model.embed(),
        "MultiVI, genes alone": model.embed(modality="rna"),
        "MultiVI, peaks alone": model.embed(modality="peaks"),
    }
    largest = pd.Series(label).value_counts(normalize=True).iloc[0]
    rows = [{"cells": "paired", "method": "largest class", "accuracy": largest}]
    return rows + [{"cells": "paired", "method": n, "accuracy": accuracy(x, label)} for n, x in embeddings.items()]


def mosaic(rna, atac, label, train: dict, settings: list[str]) -> list[dict]:
    group = np.random.default_rng(train["seed"]).permutation(np.arange(rna.n_obs) % 3)  # both, RNA, peaks
    mixed = mudata.MuData({"rna": rna[group != 2].copy(), "atac": atac[group != 1].copy()})
    place = mixed.obs_names.get_indexer(rna.obs_names)  # a MuData has an order of its own
    hidden_peaks, hidden_genes = atac.X[group == 1], log_rates(rna.X[group == 2])
    near = nearest_to_paired(pca(rna.X), group, 1), nearest_to_paired(lsi(atac.X), group, 2)
    rows = []
    for name, neighbors in {"mean of paired": None, "50 neighbors": near}.items():
        open_, genes = (m[group == 0] for m in (atac.X, rna.X))
        every = np.arange((group == 0).sum())
        chosen = [np.tile(every, (int((group == g).sum()), 1)) for g in (1, 2)] if neighbors is None else neighbors
        shown = mean_of(open_, chosen[0]), mean_of(sp.csr_matrix(log_rates(genes)), chosen[1])
        rows.append({"cells": "mosaic", "method": name, **imputation(*shown, hidden_peaks, hidden_genes)})
    mixed.obs["measured"] = np.array(["both", "RNA", "peaks"])[group][np.argsort(place)]
    for name in settings:
        method = in_scvi_tools if SETTINGS[name] is None else in_scduet
        z, peaks, genes = method(mixed, place, group, train, SETTINGS[name])
        row = {"cells": "mosaic", "method": f"MultiVI, {name}", "iLISI": ilisi(z, group)}
        row["accuracy"] = accuracy(z, label)
        row["transfer"] = transferred(z[group == 1], label[group == 1], z[group == 2], label[group == 2])
        rows.append(row | imputation(peaks, np.log1p(1e4 * genes), hidden_peaks, hidden_genes))
        print(
            f"seed {train['seed']}:",
            {k: round(v, 3) if k != "method" else v for k, v in rows[-1].items() if k != "cells"},
            flush=True,
        )
    return rows


def in_scduet(mixed, place, group, train: dict, options: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The states of all cells, peaks of cells with RNA alone, shares of genes of cells with peaks alone."""
    model = sd.fit(mixed, "multivi", **train, **options)
    shown = {"transform_batch": "both"} if "batch_key" in options else {}
    peaks = sd.normalized_accessibility(model, mixed, rows=place[group == 1], **shown).to_numpy()
    genes = sd.normalized_expression(model, mixed, rows=place[group == 2], n_samples=5, **shown).to_numpy()
    return model.embed()[place], peaks * sd.region_factors(model).to_numpy(), genes


def in_scvi_tools(mixed, place, group, train: dict, _) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same by scvi-tools, which wants all cells in all modalities: with zeros where nothing was measured."""
    import scvi

    scvi.settings.seed = train["seed"]
    whole = mudata.MuData({name: padded(part, mixed.obs_names) for name, part in mixed.mod.items()})
    whole.obs["measured"] = mixed.obs["measured"].to_numpy()
    layers = {"rna_layer": "rna", "atac_layer": "atac"}
    scvi.model.MULTIVI.setup_mudata(whole, batch_key="measured", modalities=layers)
    model = scvi.model.MULTIVI(whole, n_genes=whole["rna"].n_vars, n_regions=whole["atac"].n_vars)
    rate = {} if train["lr"] is None else {"lr": train["lr"]}
    model.train(train["max_epochs"], accelerator="cpu", enable_progress_bar=False, **rate)
    z = model.get_latent_representation()[place]
    peaks = model.get_normalized_accessibility(transform_batch="both", normalize_regions=True).to_numpy()
    genes = model.get_normalized_expression(transform_batch="both").to_numpy()
    return z, peaks[place[group == 1]], genes[place[group == 2]]


def padded(part, names) -> anndata.AnnData:
    place = part.obs_names.get_indexer(names)
    rows = sp.csr_matrix(part.X)[place]
    made = anndata.AnnData(sp.csr_matrix(sp.diags((place >= 0).astype(np.float32)) @ rows), var=part.var.copy())
    made.obs_names = names
    return made


def pca(counts) -> np.ndarray:
    x = log_rates(counts)
    return components(x - x.mean(0))


def lsi(counts) -> np.ndarray:
    """Of TF-IDF, without the first component, which is the depth."""
    x = sp.csr_matrix(counts, dtype=np.float64)
    x.data[:] = 1
    frequency = sp.diags(1 / np.maximum(x.sum(1).A1, 1)) @ x @ sp.diags(len(x.indptr) / np.maximum(x.sum(0).A1, 1))
    frequency.data = np.log1p(1e4 * frequency.data)
    return components(frequency, N_PARTS + 1)[:, 1:]


def components(x, n: int = N_PARTS) -> np.ndarray:
    u, s, _ = svds(x, n, random_state=0)
    order = np.argsort(-s)
    return u[:, order] * s[order]


def log_rates(counts) -> np.ndarray:
    x = np.asarray(sp.csr_matrix(counts).todense(), np.float64)
    return np.log1p(1e4 * x / np.maximum(x.sum(1, keepdims=True), 1))


def scaled(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).sum(1).mean())


def accuracy(x: np.ndarray, label: np.ndarray) -> float:
    found = nearest_neighbors(np.asarray(x, np.float32), N_NEIGHBORS + 1).index
    return float((voted(label[found]) == label).mean())


def transferred(x, label, y, truth) -> float:
    return float((voted(label[closest(y, x, N_NEIGHBORS)]) == truth).mean())


def voted(labels: np.ndarray) -> np.ndarray:
    return pd.DataFrame(labels).mode(axis=1)[0].to_numpy()


def closest(y: np.ndarray, x: np.ndarray, n: int) -> np.ndarray:
    distance = (y**2).sum(1)[:, None] - 2 * y @ x.T + (x**2).sum(1)
    return np.argpartition(distance, n, 1)[:, :n]


def nearest_to_paired(x: np.ndarray, group: np.ndarray, wanted: int) -> np.ndarray:
    return closest(x[group == wanted], x[group == 0], N_IMPUTE)


def mean_of(values, chosen: np.ndarray) -> np.ndarray:
    n, k = chosen.shape
    pick = sp.csr_matrix((np.full(n * k, 1 / k), chosen.ravel(), np.arange(0, n * k + 1, k)), (n, values.shape[0]))
    return np.asarray((pick @ values).todense())


def imputation(peaks, genes, true_peaks, true_genes) -> dict[str, float]:
    return {"AUROC of peaks": auroc(peaks, true_peaks), "r of genes": correlation(genes, true_genes)}


def auroc(predicted: np.ndarray, truth) -> float:
    opened, found = np.asarray(truth.todense()) > 0, []
    for row, open_ in zip(predicted, opened, strict=True):
        n = open_.sum()
        found.append((rankdata(row)[open_].sum() - n * (n + 1) / 2) / (n * (len(row) - n)))
    return float(np.mean(found))


def correlation(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Over genes that vary in both."""
    a, b = predicted - predicted.mean(0), truth - truth.mean(0)
    below = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    varies = below > 1e-9
    return float(((a * b).sum(0)[varies] / below[varies]).sum() / (b.std(0) > 0).sum())


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
