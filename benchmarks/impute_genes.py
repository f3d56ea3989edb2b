"""Genes of seqFISH+ cells predicted from other cells of the same study, with the truth of all of them.

python benchmarks/impute_genes.py ../shared/data [gimvi [n_splits]]   # also gimVI, which takes minutes for each split
"""

import sys
import time
import warnings
from functools import partial
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

import scduet as sd
from scduet.errors import ScduetWarning
from scduet.events import silent
from scduet.tasks.spatial.impute_genes import GOOD, held_out_scores
from scduet.tasks.spatial.impute_gimvi import gimvi
from scduet.tasks.spatial.imputers import CHANCE, IMPUTERS, Panel, Target, log_shares

SEEDS, N_GENES, N_PANEL = 5, 2000, 300


def halves(cells, seed, pick):
    """Single cells with the genes that vary most in them, other cells with a part of these, and all of theirs."""
    order, half = np.random.default_rng(seed).permutation(cells.n_obs), cells.n_obs // 2
    single, spatial = cells[order[:half]].copy(), cells[order[half:]].copy()
    variance = log_shares(single.X, np.asarray(single.X.sum(1)).ravel()).toarray().var(0)
    top = np.argsort(-variance, kind="stable")[:N_GENES]
    panel = top[:N_PANEL] if pick == "variable" else np.random.default_rng(seed).permutation(top)[:N_PANEL]
    return single[:, np.sort(top)].copy(), spatial[:, np.sort(panel)].copy(), spatial[:, np.sort(top)].copy()


def hidden_scores(single, spatial, whole, further):
    """Scores of each method on the genes that the spatial cells do not show."""
    hidden = whole.var_names[~whole.var_names.isin(spatial.var_names)]
    total = [np.asarray(data.X.sum(1)).ravel() for data in (single, whole)]
    known, new = Panel(single[:, spatial.var_names].X), Panel(spatial.X)
    target = Target(single[:, hidden].X, total[0])
    truth = log_shares(whole[:, hidden].X, total[1]).toarray()
    rows = {name: method(known, target, new) for name, method in {**IMPUTERS, **further, **CHANCE}.items()}
    found = {name: held_out_scores(truth, values, new.total).dropna() for name, values in rows.items()}
    summary = pd.DataFrame({name: scores.median() for name, scores in found.items()}).T
    summary["good"] = [(scores["beyond_depth"] > GOOD).mean() for scores in found.values()]
    return summary


def main(folder, model="auto", n_splits=SEEDS):
    options = {"callback": silent} if model == "gimvi" else {}
    cells = ad.read_h5ad(folder / "seqfishplus_cortex_cells.h5ad")
    for pick in ("random", "variable"):
        judged, hidden, chosen, seconds = [], [], [], []
        for seed in range(n_splits):
            single, spatial, whole = halves(cells, seed, pick)
            start = time.process_time()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ScduetWarning)
                found = sd.impute_genes(spatial, single, model=model, **options)
                seconds.append(time.process_time() - start)
                further = {"gimvi": partial(gimvi, seed=seed, **options)} if model == "gimvi" else {}
                hidden.append(hidden_scores(single, spatial, whole, further))
            judged.append(found.table)
            chosen.append(found.model)
        print(f"\n{N_PANEL} genes, {pick}; chosen: {', '.join(chosen)}; CPU s {np.median(seconds):.1f}")
        for title, tables in {"held-out genes of the panel": judged, "genes not in the panel": hidden}.items():
            print(title, (sum(tables) / n_splits).round(3).to_string(), sep="\n", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3], *map(int, sys.argv[3:4]))
