"""Networks that predict the treated cells of a type that was not treated (Kang et al. 2018), beside simple rules.

python benchmarks/perturbation_networks.py [folder of data] [seeds] [type or network ...]

1,000 genes chosen on training cells. For each held-out type and seed: r2 of means and correlation of changes against
all control cells, as in papers, and the size of the predicted over that of the true change.
"""

from __future__ import annotations

import itertools
import sys
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from perturbation import kang_cells

import scduet as sd
from scduet.events import silent
from scduet.metrics import pearson_delta, squared_pearson
from scduet.tasks.perturbation.arithmetic import predict_by_arithmetic

TYPES = ("CD4 T", "CD14 Mono", "B", "NK")
NETWORKS = ("scgen", "cvae", "trvae")
SIZE = {"n_hidden": 256, "n_latent": 50}  # of scGen


def main(data: Path, seeds: int, types: tuple[str, ...], networks: tuple[str, ...]) -> None:
    warnings.simplefilter("ignore")
    logged = kang_cells(data)
    counts = ad.read_h5ad(data / "kang_ifnb_2800.h5ad")[logged.obs_names]
    logged.layers["counts"] = counts.X.copy()
    logged.obs["total"] = np.asarray(counts.X.sum(1)).ravel()
    rows: list[dict] = []
    for held in types:
        treated = ((logged.obs["type"] == held) & (logged.obs["condition"] == "stim")).to_numpy()
        genes = sc.pp.highly_variable_genes(logged[~treated], n_top_genes=1000, inplace=False)
        cells = logged[:, genes["highly_variable"].to_numpy()].copy()
        truth = np.asarray(cells.X[treated].mean(0)).ravel()
        for method, seed, predicted, control in predictions(cells[~treated].copy(), held, seeds, networks):
            change = np.linalg.norm(predicted - control) / np.linalg.norm(truth - control)
            delta = pearson_delta(truth, predicted, control) if change > 1e-4 else np.nan
            rows.append({"type": held, "method": method, "seed": seed, "r2": squared_pearson(truth, predicted)})
            rows[-1] |= {"delta": delta, "size": change, "CPU s": time.process_time()}
            print({name: round(v, 3) if isinstance(v, float) else v for name, v in rows[-1].items()}, flush=True)
    table = pd.DataFrame(rows).groupby(["method", "type"], sort=False)[["r2", "delta", "size"]]
    print(table.agg(["min", "max"]).round(3).to_string())


def predictions(training: ad.AnnData, held: str, seeds: int, networks: tuple[str, ...]):
    """Method, seed, predicted mean and control mean of the type `held`, whose treated cells are not in `training`."""
    own = training[(training.obs["type"] == held) & (training.obs["condition"] == "ctrl")]
    control = np.asarray(own.X.mean(0)).ravel()
    asked = {"perturbation_key": "condition", "targets": "stim", "context_key": "type", "contexts": held}
    for rule in ("no change", "additive", "weighted"):
        pred = sd.predict_perturbation(training, model=rule, evaluate=None, **asked)
        yield rule, 0, pred.mean.to_numpy()[0], control
    for network, seed in itertools.product(networks, range(seeds)):
        if network == "scgen":
            model = sd.fit(training, "scgen", seed=seed, callback=silent, **SIZE)
            keys = "condition", "ctrl", "stim", "type"
            for title, residual in {"scgen, decoded": False, "scgen, control + change": True}.items():
                found, _ = predict_by_arithmetic(model, training, own, *keys, residual=residual)
                yield title, seed, found.mean(0), control
        else:
            how = {"layer": "counts", "total_key": "total", "evaluate": None, "callback": silent, "seed": seed}
            pred = sd.predict_perturbation(training, model=network, **asked, **how)
            yield f"{network}, control + change", seed, pred.mean.to_numpy()[0], control


if __name__ == "__main__":
    given = sys.argv[1:]
    folder = Path(given[0]) if given else Path("../shared/data")
    chosen = [tuple(word for word in given[2:] if word in words) or words for words in (TYPES, NETWORKS)]
    main(folder, int(given[1]) if len(given) > 1 else 3, *chosen)
