"""Label transfer on real data: scANVI here and in scvi-tools, kNN on PCA, logistic regression, Seurat; same cells.

    python benchmarks/label_transfer.py [--data pbmc_purified_facs10] [--seeds 0 1 2] [--epochs 100]
    python benchmarks/label_transfer.py --cells 400 --epochs 2 --seeds 0 --results /tmp/toy.csv     # to try it out

One batch of each data set (or a random fifth, where there is one batch) is the query, the rest the reference. Rows are
appended to results/label_transfer.csv as they are done, and not run again; the table is printed at the end. Seurat's
TransferData runs where Rscript finds Seurat, and is left out elsewhere.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

DATA = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
RESULTS = Path(__file__).resolve().parent / "results" / "label_transfer.csv"
TRANSFER = Path(__file__).resolve().parent / "r" / "transfer.R"
SEURAT = "Seurat TransferData"
SETS = {  # file: (batch column, batch that is the query, labels), cheap ones first; no batch: a random fifth
    "cellbench_3cl_3tech_890g": ("batch", None, "cell_type"),
    "pbmc_3tech_savercat": ("batch", None, "cell_type"),
    "cellbench_5cl_10x_celseq2_1900g": ("technology", "CEL-seq2", "cell_type"),
    "pbmc_purified_facs10": (None, None, "cell_type"),
    "pbmc_atlas_5studies_15k_2000g": ("study", None, "cell_type"),
}
COLUMNS = ["data", "method", "seed", "accuracy", "macro_f1", "calibration_error", "n_cells", "seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=None, help="of scVI; None for each side's own choice")
    parser.add_argument("--methods", nargs="+", default=None, help="default: all that can run here")
    parser.add_argument("--cells", type=int, default=None, help="a random sample of so many, to try it out")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    options.results.parent.mkdir(exist_ok=True)
    methods = options.methods or [name for name in METHODS if name != SEURAT or _has_seurat()]
    for name in options.data:
        for seed in options.seeds:
            for method in methods:
                if (_called(name, options.cells), method, str(seed)) not in _done(options.results):
                    _append(name, method, seed, options)
    _print(options.results)


def _append(name: str, method: str, seed: int, options: argparse.Namespace) -> None:
    from scduet.metrics.transfer import accuracy, expected_calibration_error, macro_f1

    reference, query, truth = _cells(name, seed, options.cells)
    begun = time.perf_counter()
    share = METHODS[method](reference, query, seed, options.epochs)
    called = share.columns.to_numpy()[share.to_numpy().argmax(1)]
    row = {"data": _called(name, options.cells), "method": method, "seed": seed, "n_cells": len(truth)}
    row["seconds"] = time.perf_counter() - begun
    row |= {"accuracy": accuracy(truth, called), "macro_f1": macro_f1(truth, called)}
    confidence = np.clip(share.to_numpy().max(1), 0, 1)
    row["calibration_error"] = expected_calibration_error(truth, called, confidence)
    new = not options.results.exists()
    with options.results.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerow({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()})


def _called(name: str, cells: int | None) -> str:
    return name if cells is None else f"{name} ({cells} cells)"


def _cells(name: str, seed: int, most: int | None):
    """Reference and query of the 2,000 most variable genes of the reference, and the query's true labels."""
    import anndata

    from scduet.metrics.integration.genes import variable_genes
    from scduet.tasks.quality.baselines import log_normalized

    batch, held_out, labels = SETS[name]
    adata = anndata.read_h5ad(DATA / f"{name}.h5ad")
    if most is not None:
        adata = adata[np.sort(np.random.default_rng(0).permutation(adata.n_obs)[:most])].copy()
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
    names = query.obs["predicted"].cat.categories  # those of the table have no "/"
    return query.obsm["predicted_probability"].set_axis(names, axis=1)


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

        from scduet.tasks.quality.baselines import log_normalized, unintegrated_pca

        both = anndata.concat([reference, query], join="outer")
        both.obs_names_make_unique()
        knn = which == "knn on pca"
        features = unintegrated_pca(both) if knn else log_normalized(both.X).astype(np.float32)
        classifier = KNeighborsClassifier(15) if knn else LogisticRegression(max_iter=1000)
        n = reference.n_obs
        classifier.fit(features[:n], reference.obs["label"])
        return pd.DataFrame(classifier.predict_proba(features[n:]), columns=classifier.classes_)

    return run


def _seurat(reference, query, seed: int, epochs: int | None):
    import pandas as pd
    import scipy.sparse as sp
    from scipy.io import mmwrite

    codes, names = pd.factorize(reference.obs["label"])
    with tempfile.TemporaryDirectory() as folder:
        for part, adata in (("reference", reference), ("query", query)):
            mmwrite(Path(folder) / f"{part}.mtx", sp.coo_matrix(adata.X).T)
        (Path(folder) / "labels.txt").write_text("\n".join(map(str, codes)) + "\n")
        command = ["Rscript", str(TRANSFER), folder, str(seed)]
        subprocess.run(command, check=True, capture_output=True, text=True)
        scores = pd.read_csv(Path(folder) / "scores.csv")
    return scores.set_axis([names[int(code)] for code in scores.columns], axis=1)


def _has_seurat() -> bool:
    try:
        return subprocess.run(["Rscript", "-e", "library(Seurat)"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


METHODS = {
    "scanvi, scduet": _ours,
    "scanvi, scvi-tools": _theirs,
    "knn on pca": _baseline("knn on pca"),
    "logistic regression": _baseline("logistic regression"),
    SEURAT: _seurat,
}


def _done(results: Path) -> set[tuple[str, str, str]]:
    if not results.exists():
        return set()
    with results.open() as file:
        return {(row["data"], row["method"], row["seed"]) for row in csv.DictReader(file)}


def _print(results: Path) -> None:
    import pandas as pd

    table = pd.read_csv(results)
    means = table.groupby(["data", "method"])[["accuracy", "macro_f1", "calibration_error", "seconds"]].agg(
        ["mean", "std"]
    )
    print(means.round(3).to_string())


if __name__ == "__main__":
    main()
