"""Doublets on real hashed cells: average precision and calls of each method, and the time for 10,000 cells.

python benchmarks/doublets.py ../shared/data/doublet_hashing_4lines_2000.h5ad
"""

import sys
import time
import warnings

import anndata as ad
import numpy as np
import scipy.sparse as sp
from sklearn.metrics import average_precision_score, roc_auc_score

import scduet as sd
from scduet.errors import ScduetWarning
from scduet.events import silent

RATE = 0.113  # of this file, a sample of a larger capture
METHODS = {
    "neighbors": {},
    "scrublet": {},
    "solo": {},
    "solo, 20 epochs": {"max_epochs": 20},
    "solo, 20 epochs, without depth": {"max_epochs": 20, "use_depth": False},
}


def main(path: str) -> None:
    warnings.simplefilter("ignore", ScduetWarning)
    adata = ad.read_h5ad(path)
    adata = adata[adata.obs["doublet"] != "negative"].copy()
    truth = (adata.obs["doublet"] == "doublet").to_numpy()
    print(f"{'method':32s}    AP  AUROC  called  precision  recall  CPU s")
    for title, options in METHODS.items():
        for seed in range(3 if title == "neighbors" else 1):
            began = time.process_time()
            sd.find_doublets(adata, title.split(",")[0], rate=RATE, callback=silent, seed=seed, **options)
            score, called = adata.obs["doublet_score"], adata.obs["predicted_doublet"].to_numpy()
            told = average_precision_score(truth, score), roc_auc_score(truth, score)
            calls = called.sum(), truth[called].mean(), called[truth].mean()
            print(
                f"{title + f', seed {seed}':32s}  {told[0]:.3f}  {told[1]:.3f}  {calls[0]:6d}  {calls[1]:9.3f}"
                f"  {calls[2]:6.3f}  {time.process_time() - began:5.1f}",
                flush=True,
            )
    pick = np.random.default_rng(0)
    many = sp.csr_matrix(adata.X)[pick.integers(0, adata.n_obs, 10_000)]
    many.data = pick.poisson(many.data).astype(np.float32)
    cells, began = ad.AnnData(many), time.process_time()
    cells.obs_names_make_unique()
    sd.find_doublets(cells)
    print(f"10,000 cells by neighbors: {time.process_time() - began:.1f} CPU s")


if __name__ == "__main__":
    main(sys.argv[1])
