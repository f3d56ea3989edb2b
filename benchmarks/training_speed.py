"""Training and embedding beside scvi-tools: cells per second, same data, model, batch size and epochs.

    python benchmarks/training_speed.py [--cases atlas-zinb sim-nb ...] [--runs 3] [--epochs 4] [--precision 32]

atlas: 15,130 PBMC x 2,000 genes. sim: 20,000 simulated cells x 2,000 genes, 520 counts a cell, 13 % above zero. wide:
10,000 simulated cells x 15,000 genes, 11 % of the counts above zero. cite: totalVI of 10,000 simulated cells x 2,000
genes, 11 % above zero, and 30 proteins, in minibatches of 256. Every run is a fresh process, the two tools in turn;
medians over runs, with the least and the most. An epoch counts from the end of the first, so that imports, set-up and
warm-up are left out. Cells per CPU second are shown too: on a machine that is not idle they are the better guide.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path

ATLAS = Path(__file__).resolve().parents[1] / ".." / "shared" / "data" / "pbmc_atlas_5studies_15k_2000g.h5ad"
CASES = ("atlas-zinb", "atlas-nb", "sim-zinb", "sim-nb", "wide-zinb", "wide-nb", "cite-nb")
TRAINED, EMBEDDED = (
    ("training, per second", "training, per CPU second"),
    ("embedding, per second", "embedding, per CPU second"),
)
BATCH_SIZE = 128
PROTEINS = "protein"  # of obsm, in data for totalVI
DEPTH = 2600.0  # median count of a simulated cell; 11 % of its counts are then above zero


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=CASES, choices=CASES)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--cells", type=int, help="fewer cells of each data set")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--accelerator", default="cpu", choices=("cpu", "gpu"))
    parser.add_argument("--precision", default="32", choices=("32", "bf16"), help="of scduet")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return print(json.dumps(_measured(*options.child, options)))
    print(", ".join(f"{name} {version(name)}" for name in ("scvi-tools", "scduet", "torch")))
    for case in options.cases:
        found = {tool: [] for tool in TOOLS}
        for _ in range(options.runs):
            for tool, runs in found.items():
                runs.append(child(tool, case))
        report(case, found)
    return None


def child(tool: str, case: str) -> dict[str, float]:
    command = [sys.executable, "-W", "ignore", *sys.argv, "--child", tool, case]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(out.strip().splitlines()[-1])


def report(case: str, found: dict[str, list[dict[str, float]]]) -> None:
    print(f"\n{case:28s} {'scvi-tools':>26s} {'scduet':>26s}  ratio")
    for figure in (*TRAINED, *EMBEDDED):
        values = [[run[figure] for run in runs] for runs in found.values()]
        cells = [f"{statistics.median(v):,.0f} ({min(v):,.0f} to {max(v):,.0f})" for v in values]
        ratio = statistics.median(values[1]) / statistics.median(values[0])
        print(f"{figure:28s} {cells[0]:>26s} {cells[1]:>26s}  {ratio:.2f}", flush=True)


def _measured(tool: str, case: str, options: argparse.Namespace) -> dict[str, float]:
    """Cells per second and per CPU second, of training and of embedding."""
    import torch

    torch.set_num_threads(options.threads)
    data, likelihood = case.split("-")
    adata = DATA[data](options.cells)
    clock: list[tuple[float, float]] = []
    embed = TOOLS[tool](adata, likelihood, options.epochs + 1, options, lambda: clock.append(now()))
    n_trained = 0.9 * adata.n_obs * options.epochs
    figures = dict(zip(TRAINED, rates(n_trained, clock[0], clock[-1]), strict=True))
    embed(adata)
    start = now()
    embed(adata)
    return figures | dict(zip(EMBEDDED, rates(adata.n_obs, start, now()), strict=True))


def now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def rates(cells: float, start: tuple[float, float], end: tuple[float, float]) -> list[float]:
    return [cells / (b - a) for a, b in zip(start, end, strict=True)]


def lightning_callback(tick):
    """Calls `tick` after each epoch; says nothing else."""
    import logging

    from lightning.pytorch.callbacks import LambdaCallback

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    return LambdaCallback(on_train_epoch_end=lambda *_: tick())


def listener(tick):
    """The same for scduet."""
    return lambda event: tick() if event.kind == "progress" else None


def _scvi_tools(adata, likelihood: str, epochs: int, given: argparse.Namespace, tick):
    import scvi

    options = {
        "accelerator": given.accelerator,
        "batch_size": _batch_size(adata),
        "enable_progress_bar": False,
        "callbacks": [lightning_callback(tick)],
    }
    if PROTEINS in adata.obsm:
        scvi.model.TOTALVI.setup_anndata(adata, PROTEINS, batch_key="batch")
        model = scvi.model.TOTALVI(adata, gene_likelihood=likelihood)
        options |= {"early_stopping": False, "reduce_lr_on_plateau": False}
    else:
        scvi.model.SCVI.setup_anndata(adata, batch_key="batch")
        model = scvi.model.SCVI(adata, gene_likelihood=likelihood)
    model.train(epochs, **options)
    return lambda adata: model.get_latent_representation(adata, batch_size=_batch_size(adata))


def _scduet(adata, likelihood: str, epochs: int, given: argparse.Namespace, tick):
    import scduet as sd

    options = {"recipe": "scvi-tools", "max_epochs": epochs, "batch_size": _batch_size(adata)}
    options |= {"accelerator": given.accelerator, "precision": given.precision}
    name = "scvi"
    if PROTEINS in adata.obsm:
        name, further = "totalvi", {"early_stopping": False, "reduce_lr_on_plateau": False, "validate_every": 0}
        options |= {"protein_key": PROTEINS, **further}
    model = sd.fit(adata, name, batch_key="batch", gene_likelihood=likelihood, callback=listener(tick), **options)
    return lambda adata: model.embed(adata, batch_size=_batch_size(adata))


def _batch_size(adata) -> int:
    """The default of scvi-tools for its model of these data."""
    return 256 if PROTEINS in adata.obsm else BATCH_SIZE


def _atlas(n_cells: int | None):
    import anndata

    adata = anndata.read_h5ad(ATLAS)
    adata.obs["batch"] = adata.obs["batch"].astype(str).astype("category")
    return adata[:n_cells].copy()


def _wide(n_cells: int | None):
    import scduet as sd

    adata = sd.datasets.simulate(n_cells or 10_000, 15_000, n_batches=3, n_types=8, seed=0, depth=DEPTH)
    share = adata.X.nnz / (adata.n_obs * adata.n_vars)
    assert 0.1 < share < 0.12, f"{share:.3f} of the counts are above zero"
    return adata


def _sim(n_cells: int | None):
    import scduet as sd

    return sd.datasets.simulate(n_cells or 20_000, 2_000, n_batches=3, n_types=8, seed=0, depth=500)


def _cite(n_cells: int | None):
    import numpy as np
    import pandas as pd

    import scduet as sd

    adata = sd.datasets.simulate(n_cells or 10_000, 2_000, n_batches=2, n_types=8, seed=0, depth=350)
    draw, kind = np.random.default_rng(0), adata.obs["cell_type"].astype("category").cat.codes.to_numpy()
    counts = draw.poisson(draw.gamma(2, 10, (8, 30))[kind] * draw.gamma(5, 0.2, (adata.n_obs, 1)) + 2)
    adata.obsm[PROTEINS] = pd.DataFrame(counts.astype(np.float32), adata.obs_names, [f"p{i}" for i in range(30)])
    return adata


DATA = {"atlas": _atlas, "sim": _sim, "wide": _wide, "cite": _cite}
TOOLS = {"scvi-tools": _scvi_tools, "scduet": _scduet}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
