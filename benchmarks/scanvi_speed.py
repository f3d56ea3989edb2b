"""Training scANVI beside scvi-tools: cells per second at the same options, in fresh processes, in turn.

    python benchmarks/scanvi_speed.py [--cells 5000] [--epochs 2] [--runs 3] [--likelihood zinb] [--threads 2]

Both train on the same real cells (PBMC of five studies, 2,000 genes, 8 batches, 11 types) with minibatches of 128, all
labels shown, no validation. The first epoch warms up and is not counted. CPU time is given too: it is what can be
compared when the machine does other work.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ATLAS = Path(__file__).resolve().parents[1] / ".." / "shared" / "data" / "pbmc_atlas_5studies_15k_2000g.h5ad"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--likelihood", default="zinb")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", choices=("scduet", "scvi-tools"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return print(json.dumps(SIDES[options.child](options)))
    runs = {side: [] for side in SIDES}
    for _ in range(options.runs):
        for side in SIDES:
            runs[side].append(_measured(side, options))
    print(f"{options.likelihood}, {options.threads} threads")
    print("| side | cells/s: median (range) | cells per CPU second |\n|---|---|---|")
    for side, found in runs.items():
        wall, cpu = ([run[kind] for run in found] for kind in ("wall", "cpu"))
        median, each = statistics.median(wall), statistics.median(cpu)
        print(f"| {side} | {median:.0f} ({min(wall):.0f} to {max(wall):.0f}) | {each:.0f} |")
    for kind in ("wall", "cpu"):
        ours, theirs = (statistics.median([run[kind] for run in runs[side]]) for side in SIDES)
        print(f"ratio ({kind}): {ours / theirs:.2f}")
    return None


def _measured(side: str, options: argparse.Namespace) -> dict[str, float]:
    names = ("cells", "epochs", "likelihood", "threads")
    command = [sys.executable, __file__, "--child", side]
    command += [part for name in names for part in (f"--{name}", str(getattr(options, name)))]
    threads = {"OMP_NUM_THREADS": str(options.threads), "MKL_NUM_THREADS": str(options.threads)}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **threads})
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def _cells(options: argparse.Namespace):
    import anndata
    import numpy as np
    import torch

    torch.set_num_threads(options.threads)
    adata = anndata.read_h5ad(ATLAS)
    rows = np.random.default_rng(0).choice(adata.n_obs, min(options.cells, adata.n_obs), replace=False)
    return adata[np.sort(rows)].copy()


def _speed(adata, marks: list[tuple[float, float]]) -> dict[str, float]:
    """Cells a second over all but the first epoch."""
    n = adata.n_obs * (len(marks) - 1)
    return {"wall": n / (marks[-1][0] - marks[0][0]), "cpu": n / (marks[-1][1] - marks[0][1])}


def _ours(options: argparse.Namespace) -> dict[str, float]:
    import scduet as sd

    adata, marks = _cells(options), []

    def mark(event) -> None:
        if event.kind == "progress":
            marks.append((time.perf_counter(), time.process_time()))

    training = dict(recipe="scvi-tools", max_epochs=options.epochs + 1, train_size=1.0)
    fields = dict(batch_key="batch", labels_key="cell_type")
    sd.fit(adata, "scanvi", gene_likelihood=options.likelihood, callback=mark, **fields, **training)
    return _speed(adata, marks)


def _theirs(options: argparse.Namespace) -> dict[str, float]:
    import logging
    import warnings

    warnings.filterwarnings("ignore")
    import lightning.pytorch as lightning
    import scvi

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    adata, marks = _cells(options), []

    class Mark(lightning.Callback):
        def on_train_epoch_end(self, trainer, module) -> None:
            marks.append((time.perf_counter(), time.process_time()))

    scvi.model.SCANVI.setup_anndata(adata, "cell_type", "Unknown", batch_key="batch")
    model = scvi.model.SCANVI(adata, gene_likelihood=options.likelihood)
    quiet = dict(enable_progress_bar=False, accelerator="cpu", callbacks=[Mark()])
    model.train(options.epochs + 1, train_size=1.0, **quiet)
    return _speed(adata, marks)


SIDES = {"scduet": _ours, "scvi-tools": _theirs}

if __name__ == "__main__":
    main()
