"""Does training end as well, and how soon? scduet beside scvi-tools on real data: same cells, model and share held out.

    python benchmarks/training_quality.py [--data ../shared/data] [--threads 2] [--seeds 0 1] [--sets NAME ...] [--cpu]

scvi-tools is run with its defaults, scduet with the recipe "scvi-tools" (the same choices) and with its own, "auto".
Each run is a process of its own; a row a run is added to results/training_quality.csv, and runs found there are not
done again. `elbo` is the negative ELBO of the held-out tenth with KL weight 1, a mean over 10 draws for each cell,
lower is better. `seconds` are wall time from the start of the process to the end of training: imports and reading
count. `reached` is the second in which "auto", which validates after every epoch, first found the ELBO that scvi-tools
ended with (for the others the end). `bio` and `batch` are the scIB-style scores of the embedding of all cells, higher
is better. --cpu: CPU seconds in place of wall time, in a table of their own, for a machine that is not idle; with
--threads 1 the two agree on an idle one.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from itertools import product
from pathlib import Path

import pandas as pd

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "training_quality.csv"
SETS = {  # file -> column of the batch; that of the labels is cell_type
    "cellbench_3cl_3tech_890g": "batch",
    "cortex_zeisel_3005_200g": None,
    "pbmc_3tech_savercat": "batch",
    "cellbench_5cl_10x_celseq2_1900g": "technology",
    "pbmc_3chem_10x": "batch",  # these two played no part in the choice of "auto"
    "kang_ifnb_2800": "condition",
}
N_GENES, DRAWS = 2000, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=HERE / ".." / ".." / "shared" / "data")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)  # a child: tool, data set, seed, start
    parser.add_argument("--goal", type=float, help=argparse.SUPPRESS)  # of a child: the ELBO to reach
    given = parser.parse_args()
    results = RESULTS.with_stem("training_quality_cpu") if given.cpu else RESULTS
    if given.one:
        print(json.dumps(run(*given.one, given)))
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in given.sets:
            cells(given.data / f"{name}.h5ad").write_h5ad(Path(folder) / f"{name}.h5ad")
        given.data = Path(folder)
        for seed, name, tool in product(given.seeds, given.sets, TOOLS):
            _once(tool, name, str(seed), given, results)
    runs = pd.read_csv(results)
    for figure in ("elbo", "seconds", "reached", "bio", "batch"):
        table = runs.pivot_table(index=["data", "seed"], columns="tool", values=figure)[list(TOOLS)]
        print(f"\n{figure}\n{table.assign(**_beside(table, figure)).round(3).to_string()}")


def _beside(table: pd.DataFrame, figure: str) -> dict[str, pd.Series]:
    """Of the ELBO the difference to scvi-tools in %, of seconds how many times as soon."""
    theirs = table["scvi-tools"]
    if figure == "elbo":
        return {f"{tool}: %": 100 * (table[tool] / theirs - 1) for tool in OURS}
    return {f"{tool}: times": theirs / table[tool] for tool in OURS} if figure in ("seconds", "reached") else {}


def _once(tool: str, name: str, seed: str, given, results: Path) -> None:
    done = pd.read_csv(results) if results.exists() else pd.DataFrame(columns=["tool", "data", "seed"])
    same = done[(done["data"] == name) & (done["seed"] == int(seed))].set_index("tool")
    if tool in same.index:
        return
    command = [sys.executable, "-W", "ignore", __file__, "--one", tool, name, seed, str(time.time())]
    command += ["--data", str(given.data), "--threads", str(given.threads), *(["--cpu"] if given.cpu else [])]
    if tool in OURS:
        command += ["--goal", str(same.loc["scvi-tools", "elbo"])]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    row = pd.DataFrame([json.loads(out.strip().splitlines()[-1])])
    results.parent.mkdir(exist_ok=True)
    row.to_csv(results, mode="a", header=not results.exists(), index=False)
    print(row.to_string(index=False, header=False), flush=True)


def run(tool: str, name: str, seed: str, start: str, given) -> dict:
    import anndata
    import torch

    torch.set_num_threads(given.threads)
    adata = anndata.read_h5ad(given.data / f"{name}.h5ad")
    clock = time.process_time if given.cpu else lambda: time.time() - float(start)
    curve: list[tuple[float, float]] = []  # moments, and the ELBO of the cells held out
    model, elbo = TOOLS[tool](adata, SETS[name], int(seed), curve, clock)
    ended = clock()
    reached = next((at for at, found in curve if found <= given.goal), float("nan")) if curve else ended
    times = {"seconds": round(ended, 1), "reached": round(reached, 1)}
    row = {"tool": tool, "data": name, "seed": int(seed), **times, "epochs": epochs(model)}
    return row | {"elbo": elbo(), **scores(adata, model, SETS[name])}


def epochs(model) -> int:
    return len(model.history["elbo_train"] if isinstance(model.history, dict) else model.history)


def scores(adata, model, batch: str | None) -> dict[str, float]:
    import scduet as sd

    theirs = hasattr(model, "get_latent_representation")
    adata.obsm["X_scVI"] = model.get_latent_representation() if theirs else model.embed(adata)
    table = sd.score(adata, ["X_scVI"], batch_key=batch, labels_key="cell_type", with_baselines=False)
    return {aim: float(table.loc["X_scVI", aim]) for aim in ("bio", "batch") if aim in table}


def cells(path: Path):
    """The data set, at most N_GENES highly variable genes, cells with counts in them."""
    import anndata
    import numpy as np
    import scanpy as sc

    adata = anndata.read_h5ad(path)
    adata.obs = adata.obs.rename(columns={"cell_type_derived": "cell_type"})
    if adata.n_vars > N_GENES:
        logged = sc.pp.log1p(sc.pp.normalize_total(adata, copy=True), copy=True)
        sc.pp.highly_variable_genes(logged, n_top_genes=N_GENES)
        adata = adata[:, logged.var["highly_variable"].to_numpy()].copy()
    return adata[np.ravel(adata.X.sum(1)) > 0].copy()


def ours(recipe: str, adata, batch: str | None, seed: int, curve: list, clock):
    import scduet as sd

    def see(event) -> None:
        if "loss_validation" in event.terms:
            curve.append((clock(), event.terms["loss_validation"]))

    model = sd.fit(adata, batch_key=batch, recipe=recipe, seed=seed, callback=see)
    return model, lambda: _elbo(model, seed)


def _elbo(model, seed: int) -> float:
    import torch

    from scduet.contract import Step
    from scduet.data.loader import minibatches
    from scduet.data.samplers import split

    held_out, total = split(len(model.cells), 0.9, seed)[1], 0.0
    with torch.inference_mode():
        for _ in range(DRAWS):
            for batch in minibatches(model.cells, held_out, 128):
                total += float(model.module(batch, Step()).total) * len(batch)
    return total / (DRAWS * len(held_out))


def theirs(adata, batch: str | None, seed: int, curve: list, clock):
    import scvi

    scvi.settings.seed = seed
    scvi.model.SCVI.setup_anndata(adata, batch_key=batch)
    model = scvi.model.SCVI(adata)
    model.train(accelerator="cpu", enable_progress_bar=False)
    draws = lambda: [float(model.get_elbo(indices=model.validation_indices)) for _ in range(DRAWS)]  # noqa: E731
    return model, lambda: -sum(draws()) / DRAWS


OURS = {"scduet, scvi-tools": partial(ours, "scvi-tools"), "scduet, auto": partial(ours, "auto")}
TOOLS = {"scvi-tools": theirs, **OURS}

if __name__ == "__main__":
    main()
