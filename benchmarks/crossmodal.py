"""Matching and prediction across RNA and proteins by presets of mmvae, pcca, dpcca and simple methods, on real cells.

    python benchmarks/crossmodal.py [preset|pcca|dpcca ...] [--epochs N] [--seed N] [--batch-size N] [--presets-only]

6,661 PBMCs with 14 proteins (cite_pbmc10k_6661_1000g). The proteins of half the cells are hidden in training; of these
1,000 are matched, RNA against protein, and all of them have their proteins predicted from RNA. Prints, for each method,
foscttm, the share of cells whose other half is among the 5 nearest, and the mean over proteins of the correlation with
log(1 + counts), and its rmse.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd

import scduet as sd
from scduet.events import silent
from scduet.metrics import foscttm, top_k_accuracy
from scduet.models.multimodal.mmvae_members import PRESETS
from scduet.tasks.multimodal.cca import CCA, Reduced
from scduet.tasks.quality.simple_regressors import REGRESSORS, scores_of

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"
N_MATCHED = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", default=[*PRESETS, "pcca", "dpcca"])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--presets-only", action="store_true", help="leave the simple methods out")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    adata, hidden = cells()
    truth = np.log1p(adata.obsm["protein_counts"].to_numpy(float))
    for name, values in ({} if options.presets_only else simple(adata, hidden, truth)).items():
        show(name, values)
    for preset in options.presets:
        start = time.process_time()
        more = {"labels_key": "cell_type"} if preset in ("jae", "translation") else {}
        more |= {"n_latent": 30} if preset == "jae" else {}
        more |= {"preset": preset} if preset in PRESETS else {}
        training = {"max_epochs": options.epochs, "seed": options.seed, "callback": silent, **more}
        training |= {"batch_size": options.batch_size} if options.batch_size else {}
        model = sd.fit(adata, "mmvae" if preset in PRESETS else preset, protein_key="protein", **training)
        taken = time.process_time() - start
        show(preset, [*matched(model, adata, hidden), *predicted(model, adata, hidden, truth)], f"{taken:.0f} CPU s")


def cells() -> tuple[anndata.AnnData, np.ndarray]:
    """The cells, proteins of half of them missing, and which half that is."""
    adata = anndata.read_h5ad(DATA / "cite_pbmc10k_6661_1000g.h5ad")
    hidden = np.sort(np.random.default_rng(0).permutation(adata.n_obs)[: adata.n_obs // 2])
    shown = adata.obsm["protein_counts"].astype(np.float32)
    shown.iloc[hidden] = np.nan
    adata.obsm["protein"] = shown
    return adata, hidden


def matched(model: sd.Model, adata: anndata.AnnData, hidden: np.ndarray) -> list[float]:
    test = adata[hidden[:: len(hidden) // N_MATCHED][:N_MATCHED]].copy()
    test.obsm["protein"] = test.obsm["protein_counts"]
    x, y = (model.embed(test, modality=name) for name in ("rna", "protein"))
    member = getattr(model.module, "member", None)
    if np.isnan(x).any() or (member is not None and member.experts == "joint"):
        return [np.nan, np.nan]
    return [foscttm(x, y), top_k_accuracy(x, y)]


def predicted(model: sd.Model, adata: anndata.AnnData, hidden: np.ndarray, truth: np.ndarray) -> list[float]:
    query = adata[hidden].copy()
    sd.predict_modality(model, query, reference=adata, n_samples=20)
    return judged(query.obsm["predicted_protein"].to_numpy(float), truth[hidden])


def simple(adata: anndata.AnnData, hidden: np.ndarray, truth: np.ndarray) -> dict[str, list[float]]:
    shown = np.setdiff1d(np.arange(adata.n_obs), hidden)
    (scores,) = scores_of(adata.X, shown, [])
    found = {}
    for name, function in REGRESSORS.items():
        values = function(scores[shown], truth[shown], 0)(scores[hidden])
        found[name] = [np.nan, np.nan, *judged(np.array(values), truth[hidden])]
    rows = hidden[:: len(hidden) // N_MATCHED][:N_MATCHED]
    matrices = adata.X, adata.obsm["protein_counts"].to_numpy(np.float32)
    parts = [(Reduced.of(x[shown], name), x) for x, name in zip(matrices, ("rna", "protein"), strict=True)]
    cca = CCA.of(*(reduced.scores(x[shown]) for reduced, x in parts))
    x, y = (cca.project(reduced.scores(x[rows]), side) for side, (reduced, x) in enumerate(parts))
    found["cca"] = [foscttm(x, y), top_k_accuracy(x, y), np.nan, np.nan]
    return found


def judged(found: np.ndarray, truth: np.ndarray) -> list[float]:
    with np.errstate(invalid="ignore"):
        each = [np.corrcoef(found[:, j], truth[:, j])[0, 1] for j in range(truth.shape[1])]
    return [float(np.mean(each)), float(np.sqrt(np.square(found - truth).mean()))]


def show(name: str, values: list[float], more: str = "") -> None:
    columns = ("foscttm", "top 5", "pearson", "rmse")
    row = pd.Series(dict(zip(columns, values, strict=True)))
    print(f"{name:14s} " + "  ".join(f"{key} {value:.3f}" for key, value in row.items()) + f"  {more}", flush=True)


if __name__ == "__main__":
    main()
