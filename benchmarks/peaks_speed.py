"""Training PeakVI, PoissonVI and MultiVI beside scvi-tools: cells per second, same data, model, batch size and epochs.

    python benchmarks/peaks_speed.py [--models peakvi poissonvi multivi] [--cells 10000] [--peaks 50000] [--epochs 2]
                                     [--genes 2000] [--runs 1]

Simulated peaks, 3 % of them open; for MultiVI, genes of the same cells too, a tenth of them above zero. Every run is a
fresh process, the two tools in turn. An epoch counts from the end of the first, so that imports, set-up and compilation
are left out. Cells per CPU second are shown too: on a machine that is not idle they are the better guide. Embedding is
of all cells.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
from training_speed import BATCH_SIZE, EMBEDDED, TRAINED, lightning_callback, listener, now, rates, report

DENSITY, PEAK_MEMORY = 0.03, "peak memory beyond the data, MB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["peakvi", "poissonvi"])
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--peaks", type=int, default=50_000)
    parser.add_argument("--genes", type=int, default=2_000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return print(json.dumps(_measured(*options.child, options)))
    for model in options.models:
        found = {tool: [_child(tool, model) for _ in range(options.runs)] for tool in TOOLS}
        print(f"load of the machine at the end: {os.getloadavg()[0]:.1f}")
        report(f"{model} {options.cells:,} x {options.peaks:,}", found)
        print(*(f"{PEAK_MEMORY}: {tool} {max(run[PEAK_MEMORY] for run in runs):,.0f}" for tool, runs in found.items()))
    return None


def _child(tool: str, model: str) -> dict[str, float]:
    command = [sys.executable, "-W", "ignore", *sys.argv, "--child", tool, model]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(out.strip().splitlines()[-1])


def _measured(tool: str, model: str, options: argparse.Namespace) -> dict[str, float]:
    """Cells per second and per CPU second, of training and of embedding; megabytes."""
    import torch

    torch.set_num_threads(options.threads)
    adata, clock = _simulated(options.cells, options.peaks), []
    if model == "multivi":
        adata = _with_genes(adata, options.genes)
    before = held()
    embed = TOOLS[tool](adata, model, options.epochs + 1, lambda: clock.append(now()))
    figures = dict(zip(TRAINED, rates(0.9 * adata.n_obs * options.epochs, clock[0], clock[-1]), strict=True))
    start = now()
    embed(adata)
    figures |= dict(zip(EMBEDDED, rates(adata.n_obs, start, now()), strict=True))
    return figures | {PEAK_MEMORY: megabytes("VmHWM") - before}


def held() -> float:
    """Megabytes held now; sets the high-water mark back to them, which making the data has raised."""
    Path("/proc/self/clear_refs").write_text("5")
    return megabytes("VmRSS")


def megabytes(figure: str) -> float:
    """VmRSS (held now) or VmHWM (held at most) of this process."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[figure].split()[0]) / 1024


def _simulated(n_cells: int, n_peaks: int, density: float = DENSITY):
    import anndata
    import scipy.sparse as sp

    draw = np.random.default_rng(0)
    x = sp.random(n_cells, n_peaks, density, format="csr", dtype=np.float32, random_state=0)
    x.data[:] = draw.choice([1, 1, 1, 2], x.nnz)
    adata = anndata.AnnData(x)
    adata.obs["batch"] = draw.choice(["a", "b"], n_cells)
    return adata


def _with_genes(atac, n_genes: int):
    import anndata
    import mudata

    rna = _simulated(atac.n_obs, n_genes, 0.1)
    rna.var_names = [f"gene{i}" for i in range(n_genes)]
    both = mudata.MuData({"rna": anndata.AnnData(rna.X, var=rna.var), "atac": anndata.AnnData(atac.X, var=atac.var)})
    both.obs["batch"] = atac.obs["batch"]
    return both


def _scvi_tools(adata, model: str, epochs: int, tick):
    import scvi

    cls = {"peakvi": scvi.model.PEAKVI, "poissonvi": scvi.external.POISSONVI, "multivi": scvi.model.MULTIVI}[model]
    if model == "multivi":
        cls.setup_mudata(adata, batch_key="batch", modalities={"rna_layer": "rna", "atac_layer": "atac"})
    else:
        cls.setup_anndata(adata, batch_key="batch")
    trained = cls(adata)
    quiet = {"accelerator": "cpu", "enable_progress_bar": False, "early_stopping": False}
    trained.train(epochs, batch_size=BATCH_SIZE, callbacks=[lightning_callback(tick)], **quiet)
    return lambda adata: trained.get_latent_representation(adata, batch_size=BATCH_SIZE)


def _scduet(adata, model: str, epochs: int, tick):
    import scduet as sd

    options = {"recipe": "scvi-tools", "max_epochs": epochs, "early_stopping": False, "validate_every": 0}
    if model == "multivi":
        options |= {"peaks_key": "atac", "as_in_scvi_tools": True}
    trained = sd.fit(
        adata, model, batch_key="batch", batch_size=BATCH_SIZE, accelerator="cpu", callback=listener(tick), **options
    )
    return lambda adata: trained.embed(adata, batch_size=BATCH_SIZE)


TOOLS = {"scvi-tools": _scvi_tools, "scduet": _scduet}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
