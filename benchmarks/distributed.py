"""One process beside several: held-out loss over seeds, and seconds an epoch.

    python benchmarks/distributed.py [--processes 1 2] [--seeds 0 1 2] [--epochs 30] [--data FILE.h5ad]

The held-out loss is the negative ELBO of a scVI per cell, KL weight 1, with the recipe "scvi-tools" and a batch_size of
128 for all processes together. The spread of one process over seeds says what difference counts.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import anndata
import numpy as np

import scduet as sd

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "cellbench_3cl_3tech_890g.h5ad"


def main() -> None:
    arguments = _arguments()
    adata = anndata.read_h5ad(arguments.data)
    found = {n: [] for n in arguments.processes}
    for seed in arguments.seeds:
        for n in arguments.processes:
            loss, seconds = measure(adata, n, seed, arguments.epochs)
            found[n].append(loss)
            print(f"seed {seed}, {n} processes: held-out loss {loss:.2f}, {seconds:.2f} s an epoch", flush=True)
    for n, losses in found.items():
        spread = f"least {min(losses):.2f}, most {max(losses):.2f}"
        print(f"{n} processes: {np.mean(losses):.2f} ± {np.std(losses):.2f} ({spread})")


def measure(adata, n_processes: int, seed: int, epochs: int) -> tuple[float, float]:
    """Held-out loss at the end and the median seconds of an epoch."""
    options = {"recipe": "scvi-tools", "max_epochs": epochs, "kl_warmup_epochs": epochs // 2, "train_size": 0.9}
    model = sd.fit(adata, batch_key="batch", devices=n_processes, seed=seed, callback=lambda event: None, **options)
    return float(model.history["loss_validation"].iloc[-1]), float(model.history["seconds"].median())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--data", type=Path, default=DATA)
    return parser.parse_args()


if __name__ == "__main__":
    main()
