"""Analyses beside scvi-tools, on one model file that both load: seconds, CPU seconds, and peak memory.

    python benchmarks/analyses_speed.py [--cells 40000] [--runs 2] [--threads 2] [--tasks differential_expression ...]

On 2,000 genes (the PBMC atlas, its cells repeated where more are asked for): `differential_expression` between two
groups of half the cells each, and `normalized_expression` of all cells. On a model of the size of the CELLxGENE Census'
(11,000 batches, 8,000 genes, 2 layers, untrained), with simulated cells: `embedding` of 20,000 and `decoding` of 4,000.

Each run is a fresh process, the two sides in turn, each with its own default size of minibatches. Imports, reading the
cells and loading the model are not counted. The first call is counted with whatever a side still prepares or loads in
it, and the second call in the same process is given too. The peak is that of the whole process (Linux only).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

ATLAS = Path(__file__).resolve().parents[1] / ".." / "shared" / "data" / "pbmc_atlas_5studies_15k_2000g.h5ad"
TASKS = {  # the data that each needs
    "differential_expression": "atlas",
    "normalized_expression": "atlas",
    "embedding": "census",
    "decoding": "census_few",
}
MEASURES = {
    "first": "seconds",
    "first_cpu": "CPU s",
    "second": "again, s",
    "second_cpu": "again, CPU s",
    "peak": "peak GB",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=40_000)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return print(json.dumps(_timed(*options.child)))
    with tempfile.TemporaryDirectory() as folder:
        if "atlas" in (needed := {TASKS[task] for task in options.tasks}):
            _write_atlas(Path(folder), options.cells)
        if needed - {"atlas"}:
            _write_census(Path(folder))
        print(f"| task | side | {' | '.join(MEASURES.values())} |\n|---|---|{'---|' * len(MEASURES)}")
        for task in options.tasks:
            _compare(task, folder, options)
    return None


def _compare(task: str, folder: str, options: argparse.Namespace) -> None:
    """Print the medians of both sides, and how many times theirs are ours."""
    runs = {side: [] for side in SIDES}
    for _ in range(options.runs):
        for side in SIDES:
            runs[side].append(_run(side, task, folder, options.threads))
    middle = {side: [statistics.median(run[m] for run in found) for m in MEASURES] for side, found in runs.items()}
    for side, values in middle.items():
        print(f"| {task} | {side} | {' | '.join(f'{value:.2f}' for value in values)} |")
    ours, theirs = middle.values()
    times = (f"{other / own:.1f}" for own, other in zip(ours, theirs, strict=True))
    print(f"| {task} | **times** | {' | '.join(times)} |", flush=True)


def _write_atlas(folder: Path, n_cells: int) -> None:
    import anndata
    import numpy as np

    adata = anndata.read_h5ad(ATLAS)
    adata = adata[np.resize(np.arange(adata.n_obs), n_cells)].copy()
    adata.obs_names_make_unique()
    adata.obs["batch"] = adata.obs["batch"].astype(str)
    adata.obs["half"] = np.random.default_rng(0).permutation(np.resize(["left", "right"], n_cells))
    _write_model(adata, folder, "atlas")
    adata.write_h5ad(folder / "atlas.h5ad")


def _write_census(folder: Path) -> None:
    """22,000 cells, two a batch, with 400 genes each; the model is trained on some, since it must know the batches."""
    import anndata
    import numpy as np
    import pandas as pd
    import scipy.sparse as sp

    draw, n_cells, n_genes = np.random.default_rng(0), 22_000, 8_000
    x = sp.random(n_cells, n_genes, 0.05, "csr", np.float32, 0, lambda k: draw.integers(1, 5, k).astype(np.float32))
    adata = anndata.AnnData(x, var=pd.DataFrame(index=[f"ENSG{i:011}" for i in range(n_genes)]))
    adata.obs["batch"] = (np.arange(n_cells) // 2).astype(str)
    _write_model(adata, folder, "census", gene_likelihood="nb", n_layers=2, n_latent=50)
    (folder / "census_few").symlink_to(folder / "census")
    adata[:20_000].copy().write_h5ad(folder / "census.h5ad")
    adata[:4_000].copy().write_h5ad(folder / "census_few.h5ad")


def _write_model(adata, folder: Path, name: str, **options) -> None:
    """A model of these cells in scvi-tools' layout, hardly trained."""
    import scduet as sd
    from scduet.errors import ScduetWarning

    warnings.simplefilter("ignore", ScduetWarning)
    training = dict(recipe="scvi-tools", max_epochs=1, train_size=0.1, batch_size=1024)
    sd.fit(adata, "scvi", batch_key="batch", **training, **options).export_scvi_tools(folder / name)


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
    adata = anndata.read_h5ad(Path(folder) / f"{TASKS[task]}.h5ad")
    call = SIDES[side](adata, Path(folder) / TASKS[task], task)
    found = {}
    for name in ("first", "second"):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        found |= {name: time.perf_counter() - wall, f"{name}_cpu": time.process_time() - cpu}
    return {**found, "peak": peak()}


def peak() -> float:
    """GB that this process held at most; the kernel's `ru_maxrss` would count the process that started it too."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 2**20


def _ours(adata, folder: Path, task: str):
    import scduet as sd

    model, compare, express = sd.load(folder), sd.differential_expression, sd.normalized_expression  # imports them
    return {
        "differential_expression": lambda: compare(model, adata, "half", "left", "right", verbose=False),
        "normalized_expression": lambda: express(model, adata),
        "embedding": lambda: model.embed(adata),
        "decoding": lambda: express(model, adata),
    }[task]


def _theirs(adata, folder: Path, task: str):
    import scvi

    model = scvi.model.SCVI.load(str(folder), adata=adata, accelerator="cpu")
    groups = dict(groupby="half", group1="left", group2="right", mode="change", silent=True)
    return {
        "differential_expression": lambda: model.differential_expression(**groups),
        "normalized_expression": lambda: model.get_normalized_expression(),
        "embedding": lambda: model.get_latent_representation(),
        "decoding": lambda: model.get_normalized_expression(),
    }[task]


SIDES = {"scduet": _ours, "scvi-tools": _theirs}

if __name__ == "__main__":
    main()
