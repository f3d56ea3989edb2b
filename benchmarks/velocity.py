"""RNA velocity on the pancreas (3,696 cells, known order): each model, its scores, its cost. One process, one thread.

OMP_NUM_THREADS=1 python benchmarks/velocity.py [--models steady_state ...] [--epochs 150] [--save PREFIX]
"""

import argparse
import time
from itertools import pairwise
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch

import scduet as sd
from scduet.tasks.velocity.prepare import moments_of
from scduet.tasks.workflows.draw import umap

DATA = Path(__file__).resolve().parents[1] / ".." / "shared" / "data" / "velocity_pancreas_3696_2000g.h5ad"
FATES = ("Alpha", "Beta", "Delta", "Epsilon")
ORDER = ("Ductal", "Ngn3 low EP", "Ngn3 high EP", "Pre-endocrine")
WAYS = [*pairwise(ORDER), *(("Pre-endocrine", fate) for fate in FATES)]


def main(models: list[str], epochs: int, save: str | None) -> None:
    torch.set_num_threads(1)
    cells = ad.read_h5ad(DATA)
    found = moments_of(cells, "X")
    cells.obsm["X_umap"], cells.obsm["X_pca"] = umap(found.pca), found.pca
    rows = {}
    for name in models:
        options = {"max_epochs": epochs} if name == "velovi" else {}
        begun = time.process_time()
        given = {"spliced": "X", "labels_key": "cell_type", "transitions": WAYS, "basis": "X_umap"}
        made = sd.velocity(cells, name, callback=lambda event: None, **given, **options)
        scores = made.scores.to_dict() | {"cpu_seconds": time.process_time() - begun}
        arrows = sd.velocity_embedding(cells, "X_pca")
        scores["direction_pca"] = sd.metrics.cross_boundary_direction(
            arrows, cells.obsm["X_pca"], cells.obs["cell_type"], WAYS
        )
        if name in ("dynamical", "velovi"):
            place = cells.obs["cell_type"].astype(str).map({t: i for i, t in enumerate(ORDER)}).fillna(len(ORDER))
            scores["time_order"] = float(pd.Series(cells.obs["latent_time"]).corr(place, method="spearman"))
        if made.model is not None:
            print("epochs", len(made.model.history), made.permutation.max(axis=1).quantile([0.25, 0.5, 0.75]).tolist())
        rows[name] = scores
        print(made, flush=True)
        if save is not None:
            cells.write_h5ad(f"{save}_{name}.h5ad")
    print(pd.DataFrame(rows).T.round(3).to_string())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["steady_state", "stochastic", "dynamical", "velovi"])
    parser.add_argument("--epochs", type=int, default=500, help="of veloVI")
    parser.add_argument("--save", help="also write the cells, to files with this prefix")
    np.random.seed(0)
    given = parser.parse_args()
    main(given.models, given.epochs, given.save)
