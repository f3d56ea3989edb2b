"""Analyses beside scvi-tools, on one model file that both load: seconds, CPU seconds, and peak memory.

    python benchmarks/analyses_speed.py [--cells 40000] [--runs 2] [--threads 2] [--census]

Differential expression between two groups of half the cells each, and normalized expression of all cells, 2,000 genes
(the PBMC atlas, its cells repeated where more are asked for). With --census: a model of the size of the CELLxGENE
Census' (11,000 batches, 8,000 genes, 2 layers, untrained), embedding and decoding 2,000 simulated cells. Every call is
a fresh process, the two sides in turn, each with its own default size of minibatches.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

ATLAS = Path(__file__).resolve().parents[1] / ".." / "shared" / "data" / "pbmc_atlas_5studies_15k_2000g.h5ad"
TASKS = {False: ("differential expression", "normalized expression"), True: ("embedding", "decoding")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=40_000)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--census", action="store_true")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return print(json.dumps(_timed(*options.child)))
    with tempfile.TemporaryDirectory() as folder:
        _prepare(Path(folder), options)
        print("| task | side | seconds | CPU seconds | peak GB |\n|---|---|---|---|---|")
        for task in TASKS[options.census]:
            runs = {side: [] for side in SIDES}
            for _ in range(options.runs):
                for side in SIDES:
                    runs[side].append(_run(side, task, folder, options.threads))
            for side, found in runs.items():
                wall, cpu, peak = (statistics.median([run[kind] for run in found]) for kind in ("wall", "cpu", "peak"))
                print(f"| {task} | {side} | {wall:.2f} | {cpu:.2f} | {peak:.2f} |")
            ours, theirs = (statistics.median([run["cpu"] for run in runs[side]]) for side in SIDES)
            print(f"{task}: {theirs / ours:.1f} times less CPU time")
    return None


def _prepare(folder: Path, options: argparse.Namespace) -> None:
    """Cells, and a model of them in scvi-tools' layout."""
    import anndata
    import numpy as np
    import pandas as pd
    import scipy.sparse as sp

    import scduet as sd
    from scduet.errors import ScduetWarning

    warnings.simplefilter("ignore", ScduetWarning)
    draw = np.random.default_rng(0)
    if options.census:
        n, genes = 22_000, 8_000
        x = sp.random(n, genes, 0.05, "csr", np.float32, random_state=0, data_rvs=lambda k: draw.integers(1, 5, k))
        adata = anndata.AnnData(x, var=pd.DataFrame(index=[f"ENSG{i:011}" for i in range(genes)]))
        adata.obs["batch"] = (np.arange(n) // 2).astype(str)
        more = dict(gene_likelihood="nb", n_layers=2, n_latent=50, batch_size=1024)
    else:
        adata = anndata.read_h5ad(ATLAS)
        adata = adata[np.resize(np.arange(adata.n_obs), options.cells)].copy()
        adata.obs_names_make_unique()
        adata.obs["batch"], more = adata.obs["batch"].astype(str), dict(batch_size=1024)
    adata.obs["half"] = draw.permutation(np.resize(["left", "right"], adata.n_obs))
    model = sd.fit(adata, "scvi", batch_key="batch", recipe="scvi-tools", max_epochs=1, train_size=0.1, **more)
    model.export_scvi_tools(folder / "model")
    (adata[:2000].copy() if options.census else adata).write_h5ad(folder / "cells.h5ad")


def _run(side: str, task: str, folder: str, threads: int) -> dict[str, float]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    command = [sys.executable, __file__, "--child", side, task, folder]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def _timed(side: str, task: str, folder: str) -> dict[str, float]:
    import anndata
    import torch

    warnings.filterwarnings("ignore")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    adata = anndata.read_h5ad(Path(folder) / "cells.h5ad")
    call = SIDES[side](adata, Path(folder) / "model", task)
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    found = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    return {**found, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def _ours(adata, folder: Path, task: str):
    import scduet as sd

    model = sd.load(folder)
    return {
        "differential expression": lambda: sd.differential_expression(
            model, adata, "half", "left", "right", verbose=False
        ),
        "normalized expression": lambda: sd.normalized_expression(model, adata),
        "embedding": lambda: model.embed(adata),
        "decoding": lambda: sd.normalized_expression(model, adata),
    }[task]


def _theirs(adata, folder: Path, task: str):
    import scvi

    model = scvi.model.SCVI.load(str(folder), adata=adata, accelerator="cpu")
    groups = dict(groupby="half", group1="left", group2="right", mode="change", silent=True)
    return {
        "differential expression": lambda: model.differential_expression(**groups),
        "normalized expression": lambda: model.get_normalized_expression(),
        "embedding": lambda: model.get_latent_representation(),
        "decoding": lambda: model.get_normalized_expression(),
    }[task]


SIDES = {"scduet": _ours, "scvi-tools": _theirs}

if __name__ == "__main__":
    main()
