"""Deep deconvolution of pseudo-spots whose composition is known: seqFISH+ of the cortex, halves of the cells.

    python benchmarks/spots_deep.py [folder of the data] [--epochs 500] [--seeds 1]

Half of the cells are the reference; the spots are sums of the other half. Errors are against shares of cells, and
proportions (of RNA) are turned into them by the mean totals of each type in the reference.
"""

import argparse
import os
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp
from scipy.optimize import nnls

from scduet.events import silent
from scduet.tasks.spatial.deep import deep_proportions

RADIUS = 55 / 0.103 / 2  # of a Visium spot, in pixels
MERGED = {"Neuroblast": "Neuroblasts", "Excitatory 5/6": "Excitatory layer 5/6", "Interneuron": "Interneurons"}


def load(folder):
    """Spots, cells, and which cells each spot is the sum of (spot, cell).

    The file's own composition is that of the cells that lie in each spot, but the spots are sums of others: of the
    cells within any spot of a field, in order of index, as many as lie in each spot in turn.
    """
    spots = ad.read_h5ad(folder / "deconv_seqfishplus_cortex_63spots_truth.h5ad")
    cells = ad.read_h5ad(folder / "seqfishplus_cortex_cells.h5ad")
    cells = cells[cells.obs["cell_type"] != "unannotated"].copy()
    cells.obs["type"] = cells.obs["cell_type"].astype(str).replace(MERGED)
    genes = cells.var_names[cells.var_names.isin(spots.var_names)]
    spots, cells = spots[:, genes].copy(), cells[:, genes].copy()
    members = np.zeros((spots.n_obs, cells.n_obs), bool)
    for field in spots.obs["batch"].unique():
        here = np.flatnonzero((spots.obs["batch"] == field).to_numpy())
        mine = np.flatnonzero((cells.obs["fov"].astype(str) == str(field)).to_numpy())
        distance = [((cells.obsm["spatial"][mine] - spots.obsm["spatial"][i]) ** 2).sum(1) for i in here]
        near = [mine[d <= RADIUS**2] for d in distance]
        inside, start = np.unique(np.concatenate(near)), 0
        for i, some in zip(here, near, strict=True):
            members[i, inside[start : start + len(some)]] = True
            start += len(some)
    assert np.abs(members.astype(float) @ cells.X.toarray() - spots.X.toarray()).max() == 0
    return cells, members


def halves(cells, members, n_genes, seed):
    """The reference, the spots of the other half, and their true shares of cells."""
    known = np.random.default_rng(seed).random(cells.n_obs) < 0.5
    reference, others = cells[known].copy(), members & ~known
    filled = others.sum(1) > 0
    counts = others[filled].astype(np.float32) @ cells.X
    types = sorted(reference.obs["type"].unique())
    one = (cells.obs["type"].to_numpy()[:, None] == np.array(types)).astype(float)
    truth = others[filled] @ one
    variable = reference.copy()
    sc.pp.normalize_total(variable)
    sc.pp.log1p(variable)
    sc.pp.highly_variable_genes(variable, n_top_genes=n_genes)
    genes = reference.var_names[variable.var["highly_variable"]]
    spots = ad.AnnData(sp.csr_matrix(counts), var=cells.var)[:, genes].copy()
    return reference[:, genes].copy(), spots, pd.DataFrame(truth / truth.sum(1, keepdims=True), columns=types)


def of_cells(shares, reference):
    """Shares of RNA as shares of cells."""
    total = np.asarray(reference.X.sum(1)).ravel()
    mean = [total[(reference.obs["type"] == kind).to_numpy()].mean() for kind in shares.columns]
    found = shares.to_numpy() / np.array(mean)
    return found / found.sum(1, keepdims=True)


def by_nnls(spots, reference, types):
    counts = reference.X.toarray()
    counts = [counts[(reference.obs["type"] == kind).to_numpy()].sum(0) for kind in types]
    profiles = np.stack([row / row.sum() for row in counts], 1)
    found = np.stack([nnls(profiles, row)[0] for row in spots.X.toarray()])
    return pd.DataFrame(found / found.sum(1, keepdims=True), columns=types)


def rmse(found, truth):
    return float(np.sqrt(((found - truth.to_numpy()) ** 2).mean(1)).mean())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).resolve().parents[1] / "../shared/data")
    parser.add_argument("--epochs", type=int, nargs="*", default=[500])
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args()
    reference, spots, truth = halves(*load(given.folder), 1000, 0)
    print(f"{reference.n_obs} cells, {spots.n_obs} spots, {reference.n_vars} genes; load {os.getloadavg()[0]:.1f}")
    plain = by_nnls(spots, reference, list(truth.columns))
    print(f"nnls: {rmse(of_cells(plain, reference), truth):.3f}", flush=True)
    runs = [("stereoscope", {}), *(("destvi", {"max_epochs": n}) for n in given.epochs)]
    for name, options in runs:
        for seed in range(given.seeds):
            began, how = time.process_time(), {"labels_key": "type", "seed": seed, "callback": silent}
            found, _ = deep_proportions(name, spots, reference, **how, **options)
            error, rna = (rmse(x, truth) for x in (of_cells(found, reference), found.to_numpy()))
            seconds = time.process_time() - began
            print(f"{name} {options} seed {seed}: {error:.3f} (as RNA {rna:.3f}), {seconds:.0f} CPU s", flush=True)


if __name__ == "__main__":
    main()
