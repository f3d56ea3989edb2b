"""Deep deconvolution of mixtures of known composition: pseudo-spots of seqFISH+ cells, and mixtures of RNA.

    python benchmarks/spots_deep.py ../shared/data [--seeds 3] [--epochs 0] [--mixture-epochs 0]

Each seed has its own split of the seqFISH+ cells into the reference and the cells that spots are sums of. All methods
see the 1,000 genes that vary most in the reference. Errors are against shares of cells, for mixtures against shares of
RNA. Epochs are those of DestVI's training on the spots, 0 those of its recipe.
"""

import argparse
import os
import time
import warnings
from pathlib import Path

import spots_data

import scduet as sd
from scduet.errors import ScduetWarning
from scduet.events import silent

PLAIN = ("poisson", "weighted_nnls", "nnls")


def rows(title, mixtures, reference, truth, labels_key, per, seed, deep):
    """A line for each method: the error of its proportions."""
    for model, options in [*((name, {}) for name in PLAIN), *deep.items()]:
        began = time.process_time()
        how = {"labels_key": labels_key, "per": per, "genes": "variable", "n_genes": 1000, "seed": seed}
        found = sd.deconvolve(mixtures.copy(), reference, model=model, callback=silent, **how, **options).proportions
        error = sd.metrics.proportion_rmse(truth, found[truth.columns])
        told = "".join(f", {name}={value}" for name, value in options.items())
        print(f"{title}, seed {seed}: {model}{told}: {error:.3f}, {time.process_time() - began:.0f} CPU s", flush=True)


def main():
    warnings.simplefilter("ignore", ScduetWarning)
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, nargs="*", default=[0])
    parser.add_argument("--mixture-epochs", type=int, nargs="*", default=[0])
    given = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}")
    cells, members = spots_data.seqfish(given.folder)
    mixtures, shares, technologies = spots_data.rna_mixtures(given.folder)
    mixtures.obsm.clear()
    for seed in range(given.seeds):
        reference, spots, truth = spots_data.halves(cells, members, seed)
        for epochs in given.epochs:
            deep = {"stereoscope": {}, "destvi": {"max_epochs": epochs or None}}
            rows("seqFISH+ halves", spots, reference, truth, "type", "cell", seed, deep)
        for epochs in given.mixture_epochs:
            deep = {"destvi": {"max_epochs": epochs or None}}
            rows("RNA mixtures", mixtures, technologies["CEL-seq2"], shares, "cell_type", "rna", seed, deep)


if __name__ == "__main__":
    main()
