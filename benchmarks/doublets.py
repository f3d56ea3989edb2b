"""Doublets on two data sets: average precision and calls of each method, and the time for 10,000 cells.

python benchmarks/doublets.py [folder of data] [hashed sorted speed] [method ...]

hashed: four cell lines whose doublets are known from hashtags. sorted: 1,850 sorted PBMC of ten types and 150 made-up
doublets, sums of two of the other cells of which 90% of the molecules are kept; AP of heterotypic doublets beside.
"""

import sys
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import scipy.sparse as sp
from sklearn.metrics import average_precision_score, roc_auc_score

import scduet as sd
from scduet.errors import ScduetWarning
from scduet.events import silent

METHODS = {
    "neighbors": {},
    "scrublet": {},
    "solo": {},
    "solo, 20 epochs": {"max_epochs": 20},
    "solo, 20 epochs, without depth": {"max_epochs": 20, "use_depth": False},
}


def hashed(folder: Path) -> None:
    cells = ad.read_h5ad(folder / "doublet_hashing_4lines_2000.h5ad")
    cells = cells[cells.obs["doublet"] != "negative"].copy()
    told(cells, (cells.obs["doublet"] == "doublet").to_numpy(), None, 0.113)  # a sample of a larger capture


def sorted_cells(folder: Path) -> None:
    """Made-up doublets among cells that were sorted; a doublet is heterotypic if its coarse types differ."""
    cells, pick = ad.read_h5ad(folder / "pbmc_purified_facs10.h5ad"), np.random.default_rng(0)
    order = pick.permutation(cells.n_obs)
    kept, first, second = np.split(order[:2150], [1850, 2000])
    x, kind = sp.csr_matrix(cells.X), cells.obs["cell_type_coarse"].to_numpy(str)
    sums = sp.csr_matrix(x[first] + x[second])
    sums.data = pick.binomial(sums.data.astype(np.int64), 0.9).astype(sums.dtype)
    mixed = ad.AnnData(sp.vstack([x[kept], sums]).tocsr().astype(np.float32))
    mixed = mixed[:, np.asarray((mixed.X > 0).sum(0)).ravel() >= 10].copy()
    truth = np.arange(2000) >= 1850
    told(mixed, truth, np.r_[np.zeros(1850, bool), kind[first] != kind[second]], 150 / 2000)


def told(cells: ad.AnnData, truth: np.ndarray, heterotypic: np.ndarray | None, rate: float) -> None:
    """Print a line for each method and seed."""
    print(f"{len(truth)} cells, {truth.sum()} doublets")
    print(f"{'method':32s}    AP  AUROC  heterotypic AP  called  precision  recall  CPU s")
    print(f"{'total count':32s}  {average_precision_score(truth, np.asarray(cells.X.sum(1)).ravel()):.3f}")
    for title, options in METHODS.items():
        if CHOSEN and title.split(",")[0] not in CHOSEN:
            continue
        for seed in range(3 if title == "neighbors" else 1):
            began = time.process_time()
            sd.find_doublets(cells, title.split(",")[0], rate=rate, callback=silent, seed=seed, **options)
            took = time.process_time() - began
            score, called = cells.obs["doublet_score"].to_numpy(), cells.obs["predicted_doublet"].to_numpy()
            of_two = np.nan
            if heterotypic is not None:
                rows = heterotypic | ~truth
                of_two = average_precision_score(heterotypic[rows], score[rows])
            print(
                f"{title + f', seed {seed}':32s}  {average_precision_score(truth, score):.3f}"
                f"  {roc_auc_score(truth, score):.3f}  {of_two:14.3f}  {called.sum():6d}  {truth[called].mean():9.3f}"
                f"  {called[truth].mean():6.3f}  {took:5.1f}",
                flush=True,
            )


def speed(folder: Path) -> None:
    pick, adata = np.random.default_rng(0), ad.read_h5ad(folder / "doublet_hashing_4lines_2000.h5ad")
    many = sp.csr_matrix(adata.X)[pick.integers(0, adata.n_obs, 10_000)]
    many.data = pick.poisson(many.data).astype(np.float32)
    cells, began = ad.AnnData(many), time.process_time()
    cells.obs_names_make_unique()
    sd.find_doublets(cells)
    print(f"10,000 cells by neighbors: {time.process_time() - began:.1f} CPU s")


PARTS = {"hashed": hashed, "sorted": sorted_cells, "speed": speed}
CHOSEN = [word for word in sys.argv[1:] if word in {title.split(",")[0] for title in METHODS}]

if __name__ == "__main__":
    warnings.simplefilter("ignore", ScduetWarning)
    given = [word for word in sys.argv[1:] if word not in PARTS and word not in CHOSEN]
    for part in [word for word in sys.argv[1:] if word in PARTS] or PARTS:
        PARTS[part](Path(given[0]) if given else Path("../shared/data"))
