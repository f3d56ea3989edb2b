"""Seconds of a training step of the models of spots, beside scvi-tools in the same run.

    python benchmarks/spots_speed.py [--spots 3000] [--genes 2000] [--types 20] [--epochs 5] [--threads 2]

CPU seconds of whole epochs after a first one, which compiles; ratios do not depend much on what else the machine does.
"""

import argparse
import os
import time

import anndata as ad
import numpy as np
import scipy.sparse as sp
import torch

import scduet as sd
from scduet.events import silent

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


def seconds(train, epochs):
    """CPU seconds of `epochs` epochs, less those of what surrounds them, once everything is compiled."""
    train(1)
    times = []
    for n in (1, 1 + epochs):
        began = time.process_time()
        result = train(n)
        times.append(time.process_time() - began)
    return times[1] - times[0], result


def main():
    parser = argparse.ArgumentParser()
    for name, default in (("spots", 3000), ("genes", 2000), ("types", 20), ("epochs", 5), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    import scvi

    cells, spots = (make(given.spots, given.genes, given.types, total, i) for i, total in enumerate((1500, 5000)))
    print(f"{given.spots} spots, {given.genes} genes, {given.types} types; load {os.getloadavg()[0]:.1f}", flush=True)
    how = {"labels_key": "type", "callback": silent, "recipe": "scvi-tools"}
    scvi.model.CondSCVI.setup_anndata(cells, labels_key="type")
    scvi.external.RNAStereoscope.setup_anndata(cells, labels_key="type")
    scvi.external.SpatialStereoscope.setup_anndata(spots)

    def theirs(model):
        return lambda n: (model.train(max_epochs=n, **QUIET), model)[1]

    sd.fit(cells, "condscvi", max_epochs=1, **how)  # compiles
    ours = {}
    for name, cls in (("condscvi", scvi.model.CondSCVI), ("stereoscope_cells", scvi.external.RNAStereoscope)):
        mine, ours[name] = seconds(lambda n, name=name: sd.fit(cells, name, max_epochs=n, **how), given.epochs)
        with_prior = {"prior": "mog"} if name == "condscvi" else {}
        other, ours[f"their {name}"] = seconds(theirs(cls(cells, **with_prior)), given.epochs)
        print(f"{name}: {mine:.2f} s, scvi-tools {other:.2f} s, ratio {other / mine:.1f}", flush=True)
    of_spots = (("destvi", "condscvi", scvi.model.DestVI), ("stereoscope", "stereoscope_cells", None))
    for name, needed, cls in of_spots:
        made = (cls or scvi.external.SpatialStereoscope).from_rna_model(spots, ours[f"their {needed}"])
        other, _ = seconds(theirs(made), given.epochs) if name == "stereoscope" else _in_training(made, given.epochs)
        options = {"start": ours[needed], "callback": silent, "recipe": "scvi-tools"}
        mine, _ = seconds(lambda n, name=name, o=options: sd.fit(spots, name, max_epochs=n, **o), given.epochs)
        print(f"{name}: {mine:.2f} s, scvi-tools {other:.2f} s, ratio {other / mine:.1f}", flush=True)


def _in_training(model, epochs):
    """DestVI of scvi-tools leaves training mode after each call, and then fails."""

    def train(n):
        model.module.train()
        model.train(max_epochs=n, **QUIET)

    return seconds(train, epochs)


if __name__ == "__main__":
    main()
