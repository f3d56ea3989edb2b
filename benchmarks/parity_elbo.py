"""Does the same recipe end as well? Held-out ELBO of scduet and of scvi-tools, same cells, split and options.

    python benchmarks/parity_elbo.py [--data ../shared/data] [--threads 2] [--seeds 0 1 2]

Each run is a process of its own; a row a run is added to results/parity_elbo.csv, and runs found there are not done
again. The ELBO is that of the held-out tenth with KL weight 1, a mean over 10 draws for each cell, lower is better.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "parity_elbo.csv"
SETS = {  # file -> column of the batch
    "cellbench_3cl_3tech_890g": "batch",
    "cortex_zeisel_3005_200g": None,
    "pbmc_3tech_savercat": "batch",
}
N_GENES, DRAWS = 2000, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=HERE / ".." / ".." / "shared" / "data")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)  # a child: tool, data set, seed
    given = parser.parse_args()
    if given.one:
        print(json.dumps(run(*given.one, given.data, given.threads)))
        return
    for seed in given.seeds:
        for name in SETS:
            for tool in TOOLS:
                _once(tool, name, str(seed), given)
    table = pd.read_csv(RESULTS).pivot_table(index=["data", "seed"], columns="tool", values="elbo")
    table["difference %"] = 100 * (table["scduet"] / table["scvi-tools"] - 1)
    print(table.round(2).to_string())


def _once(tool: str, name: str, seed: str, given) -> None:
    done = pd.read_csv(RESULTS) if RESULTS.exists() else pd.DataFrame(columns=["tool", "data", "seed"])
    if ((done["tool"] == tool) & (done["data"] == name) & (done["seed"] == int(seed))).any():
        return
    command = [sys.executable, "-W", "ignore", __file__, "--one", tool, name, seed]
    command += ["--data", str(given.data), "--threads", str(given.threads)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    row = pd.DataFrame([json.loads(out.strip().splitlines()[-1])])
    RESULTS.parent.mkdir(exist_ok=True)
    row.to_csv(RESULTS, mode="a", header=not RESULTS.exists(), index=False)
    print(row.to_string(index=False, header=False), flush=True)


def run(tool: str, name: str, seed: str, data: Path, threads: int) -> dict:
    import torch

    torch.set_num_threads(threads)
    adata, begun = cells(data / f"{name}.h5ad"), time.monotonic()
    elbo, epochs = TOOLS[tool](adata, SETS[name], int(seed))
    seconds = round(time.monotonic() - begun, 1)
    return {"tool": tool, "data": name, "seed": int(seed), "elbo": elbo, "epochs": epochs, "seconds": seconds}


def cells(path: Path):
    """The data set, at most N_GENES highly variable genes, cells with counts in them."""
    import anndata
    import numpy as np
    import scanpy as sc

    adata = anndata.read_h5ad(path)
    if adata.n_vars > N_GENES:
        logged = sc.pp.log1p(sc.pp.normalize_total(adata, copy=True), copy=True)
        sc.pp.highly_variable_genes(logged, n_top_genes=N_GENES)
        adata = adata[:, logged.var["highly_variable"].to_numpy()].copy()
    return adata[np.ravel(adata.X.sum(1)) > 0].copy()


def ours(adata, batch: str | None, seed: int) -> tuple[float, int]:
    import torch

    import scduet as sd
    from scduet.contract import Step
    from scduet.data.loader import minibatches
    from scduet.data.samplers import split

    model = sd.fit(adata, batch_key=batch, recipe="scvi-tools", seed=seed, callback=lambda event: None)
    _, held_out = split(adata.n_obs, 0.9, seed)
    total, n = 0.0, 0
    with torch.inference_mode():
        for _ in range(DRAWS):
            for batch_ in minibatches(model.cells, held_out, 128):
                total, n = total + float(model.module(batch_, Step()).total) * len(batch_), n + len(batch_)
    return total / n, len(model.history)


def theirs(adata, batch: str | None, seed: int) -> tuple[float, int]:
    import scvi

    scvi.settings.seed = seed
    scvi.model.SCVI.setup_anndata(adata, batch_key=batch)
    model = scvi.model.SCVI(adata)
    model.train(accelerator="cpu", enable_progress_bar=False)
    elbo = [float(model.get_elbo(indices=model.validation_indices)) for _ in range(DRAWS)]
    return -sum(elbo) / DRAWS, len(model.history["elbo_train"])


TOOLS = {"scvi-tools": theirs, "scduet": ours}

if __name__ == "__main__":
    main()
