"""Training of the models of spots beside scvi-tools: seconds and CPU seconds of whole epochs, and peak memory.

    python benchmarks/spots_speed.py [--spots 3000] [--genes 2000] [--types 20] [--epochs 5] [--threads 2] [--runs 3]
        [--models condscvi stereoscope_cells destvi stereoscope]

Every run is a fresh process, the two tools in turn; medians over runs, with the least and the most. An epoch counts
from the end of the first, so that imports, set-up and compiling are left out. The peak is that of the process, with the
training of the reference that a model of spots stands on (one epoch).
"""

import argparse
import json
import os
import statistics
import time

import anndata as ad
import numpy as np
import scipy.sparse as sp
from analyses_speed import peak
from training_speed import child

MODELS = {  # ours: the class of scvi-tools, and our model that it stands on
    "condscvi": ("model.CondSCVI", None),
    "stereoscope_cells": ("external.RNAStereoscope", None),
    "destvi": ("model.DestVI", "condscvi"),
    "stereoscope": ("external.SpatialStereoscope", "stereoscope_cells"),
}
FIGURES = {"wall": "seconds", "cpu": "CPU seconds", "peak": "peak, GB"}
QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "logger": False, "enable_checkpointing": False}


def make(n, n_genes, n_types, total, seed):
    """Counts of cells of some types, a tenth of them above zero or so."""
    draw = np.random.default_rng(seed)
    profiles = draw.gamma(0.3, 1.0, (n_types, n_genes)) + 1e-3
    kind = draw.integers(0, n_types, n)
    rates = total * profiles / profiles.sum(1, keepdims=True)
    adata = ad.AnnData(sp.csr_matrix(draw.poisson(rates[kind]).astype(np.float32)))
    adata.obs["type"] = [f"type{i}" for i in kind]
    return adata


def measured(tool, name, given):
    """What a fresh process finds."""
    import torch

    torch.set_num_threads(given.threads)
    cells, spots = (make(given.spots, given.genes, given.types, total, i) for i, total in enumerate((1500, 5000)))
    ticks = []
    TOOLS[tool](cells, spots, name, given.epochs + 1, lambda: ticks.append((time.perf_counter(), time.process_time())))
    wall, cpu = (end - start for start, end in zip(ticks[0], ticks[given.epochs], strict=True))
    return {"wall": wall, "cpu": cpu, "peak": peak()}


def ours(cells, spots, name, epochs, tick):
    import scduet as sd
    from scduet.events import silent

    def ends(event):
        if event.kind == "progress":
            tick()

    how = {"recipe": "scvi-tools", "accelerator": "cpu"}
    needed = MODELS[name][1]
    if needed is None:
        return sd.fit(cells, name, labels_key="type", max_epochs=epochs, callback=ends, **how)
    known = sd.fit(cells, needed, labels_key="type", max_epochs=1, callback=silent, **how)
    return sd.fit(spots, name, start=known, max_epochs=epochs, callback=ends, **how)


def theirs(cells, spots, name, epochs, tick):
    import scvi
    from lightning.pytorch.callbacks import LambdaCallback

    def of(model):
        package, cls = MODELS[model][0].split(".")
        return getattr(getattr(scvi, package), cls)

    def made(model):
        of(model).setup_anndata(cells, labels_key="type")
        return of(model)(cells, **({"prior": "mog"} if model == "condscvi" else {}))

    needed, ends = MODELS[name][1], LambdaCallback(on_train_epoch_end=lambda *_: tick())
    if needed is None:
        return made(name).train(max_epochs=epochs, callbacks=[ends], **QUIET)
    known = made(needed)
    known.train(max_epochs=1, **QUIET)
    if name == "stereoscope":
        of(name).setup_anndata(spots)
    return of(name).from_rna_model(spots, known).train(max_epochs=epochs, callbacks=[ends], **QUIET)


TOOLS = {"scvi-tools": theirs, "scduet": ours}


def report(name, found):
    print(f"\n{name:20s} {'scvi-tools':>24s} {'scduet':>24s}  ratio")
    for figure, title in FIGURES.items():
        values = [[run[figure] for run in found[tool]] for tool in TOOLS]
        texts = [f"{statistics.median(v):.2f} ({min(v):.2f} to {max(v):.2f})" for v in values]
        ratio = statistics.median(values[0]) / statistics.median(values[1])
        print(f"{title:20s} {texts[0]:>24s} {texts[1]:>24s}  {ratio:.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"spots": 3000, "genes": 2000, "types": 20, "epochs": 5, "threads": 2, "runs": 3}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        return print(json.dumps(measured(*given.child, given)))
    print(f"{given.spots} spots, {given.genes} genes, {given.types} types; load {os.getloadavg()[0]:.1f}", flush=True)
    for name in given.models:
        found = {tool: [] for tool in TOOLS}
        for _ in range(given.runs):
            for tool in TOOLS:
                found[tool].append(child(tool, name))
        report(name, found)
    return None


if __name__ == "__main__":
    main()
