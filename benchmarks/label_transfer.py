"""Label transfer on real data: scANVI here and in scvi-tools, kNN on PCA, logistic regression; same split, same cells.

    python benchmarks/label_transfer.py [--data pbmc_purified_facs10] [--seeds 0 1 2] [--epochs 100]

One batch of each data set (or a random fifth, where there is one batch) is the query, the rest the reference. Rows are
appended to results/label_transfer.csv as they are done, and not run again; the table is printed at the end. Seurat's
TransferData is run by r-package and joins by the same columns.
"""

from __future__ import annotations

import argparse
import csv
import time
import warnings
from pathlib import Path

import numpy as np

DATA = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
RESULTS = Path(__file__).resolve().parent / "results" / "label_transfer.csv"
SETS = {  # file: (batch column, batch that is the query, labels); a random fifth where there is no batch
    "cellbench_5cl_10x_celseq2_1900g": ("technology", "CEL-seq2", "cell_type"),
    "cellbench_3cl_3tech_890g": ("batch", None, "cell_type"),
    "pbmc_3tech_savercat": ("batch", None, "cell_type"),
    "pbmc_purified_facs10": (None, None, "cell_type"),
}
COLUMNS = ["data", "method", "seed", "accuracy", "macro_f1", "calibration_error", "n_cells", "seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=None, help="of scVI; None for each side's own choice")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    RESULTS.parent.mkdir(exist_ok=True)
    for name in options.data:
        for seed in options.seeds:
            for method, run in METHODS.items():
                if (name, method, str(seed)) not in _done():
                    _append(name, method, seed, run, options.epochs)
    _print()


def _append(name: str, method: str, seed: int, run, epochs: int | None) -> None:
    from scduet.metrics.transfer import accuracy, expected_calibration_error, macro_f1

    reference, query, truth = _cells(name, seed)
    begun = time.perf_counter()
    share = run(reference, query, seed, epochs)
    called = share.columns.to_numpy()[share.to_numpy().argmax(1)]
    row = {"data": name, "method": method, "seed": seed, "n_cells": len(truth), "seconds": time.perf_counter() - begun}
    row |= {"accuracy": accuracy(truth, called), "macro_f1": macro_f1(truth, called)}
    confidence = np.clip(share.to_numpy().max(1), 0, 1)
    row["calibration_error"] = expected_calibration_error(truth, called, confidence)
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerow({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()})


def _cells(name: str, seed: int):
    """Reference and query of the 2,000 most variable genes of the reference, and the query's true labels."""
    import anndata

    from scduet.metrics.genes import variable_genes
    from scduet.tasks.baselines import log_normalized

    batch, held_out, labels = SETS[name]
    adata = anndata.read_h5ad(DATA / f"{name}.h5ad")
    adata.obs["label"] = adata.obs[labels].astype(str)
    if batch is None:
        in_query = np.random.default_rng(seed).random(adata.n_obs) < 0.2
    else:
        held_out = held_out or sorted(adata.obs[batch].astype(str).unique())[seed % adata.obs[batch].nunique()]
        in_query = (adata.obs[batch].astype(str) == held_out).to_numpy()
    reference, query = adata[~in_query].copy(), adata[in_query].copy()
    if adata.n_vars > 2000:
        genes = np.sort(variable_genes(log_normalized(reference.X), 2000))
        reference, query = reference[:, genes].copy(), query[:, genes].copy()
    query.obs["batch"], reference.obs["batch"] = (
        "query",
        "reference" if batch is None else reference.obs[batch].astype(str),
    )
    return reference, query, query.obs.pop("label").to_numpy()


def _ours(reference, query, seed: int, epochs: int | None):
    import scduet as sd

    more = {} if epochs is None else {"max_epochs": epochs}
    sd.annotate(query, reference, "label", batch_key="batch", seed=seed, **more)
    return query.obsm["predicted_probability"]


def _theirs(reference, query, seed: int, epochs: int | None):
    """As in scvi-tools' tutorial: scVI on both, then 20 epochs of scANVI with 100 cells a type."""
    import logging

    import anndata
    import scvi

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    scvi.settings.seed = seed
    both = anndata.concat({"reference": reference, "query": query}, index_unique=" ", join="outer")
    both.obs["label"] = both.obs["label"].astype(object).where(both.obs["label"].notna(), "Unknown")
    scvi.model.SCVI.setup_anndata(both, batch_key="batch", labels_key="label")
    quiet = dict(accelerator="cpu", enable_progress_bar=False)
    base = scvi.model.SCVI(both)
    base.train(max_epochs=epochs, **quiet)
    model = scvi.model.SCANVI.from_scvi_model(base, "Unknown")
    model.train(max_epochs=20, n_samples_per_label=100, **quiet)
    return model.predict(soft=True).iloc[reference.n_obs :]


def _baseline(which: str):
    def run(reference, query, seed: int, epochs: int | None):
        import anndata
        import pandas as pd
        from sklearn.linear_model import LogisticRegression
        from sklearn.neighbors import KNeighborsClassifier

        from scduet.tasks.baselines import log_normalized, unintegrated_pca

        both = anndata.concat([reference, query], join="outer")
        both.obs_names_make_unique()
        knn = which == "knn on pca"
        features = unintegrated_pca(both) if knn else log_normalized(both.X).astype(np.float32)
        classifier = KNeighborsClassifier(15) if knn else LogisticRegression(max_iter=1000)
        n = reference.n_obs
        classifier.fit(features[:n], reference.obs["label"])
        return pd.DataFrame(classifier.predict_proba(features[n:]), columns=classifier.classes_)

    return run


METHODS = {
    "scanvi, scduet": _ours,
    "scanvi, scvi-tools": _theirs,
    "knn on pca": _baseline("knn on pca"),
    "logistic regression": _baseline("logistic regression"),
}


def _done() -> set[tuple[str, str, str]]:
    if not RESULTS.exists():
        return set()
    with RESULTS.open() as file:
        return {(row["data"], row["method"], row["seed"]) for row in csv.DictReader(file)}


def _print() -> None:
    import pandas as pd

    table = pd.read_csv(RESULTS)
    means = table.groupby(["data", "method"])[["accuracy", "macro_f1", "calibration_error", "seconds"]].agg(
        ["mean", "std"]
    )
    print(means.round(3).to_string())


if __name__ == "__main__":
    main()
