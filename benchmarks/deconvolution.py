"""Deconvolution with truth, pseudo-spots and RNA mixtures, and without, by held-out genes of two tissues.

python benchmarks/deconvolution.py ../shared/data
"""

import sys
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import spots_data

import scduet as sd
from scduet import metrics
from scduet.errors import ScduetWarning
from scduet.events import silent

GENES = ("markers", "variable")
SEEDS = 5
HEAD = f"{'':58s}   RMSE    JSD   AUPR      r    CCC  CPU s"


def line(title, truth, found, seconds):
    """Scores of proportions that name the same types in the same order."""
    truth, found = truth.to_numpy(float), found[truth.columns].to_numpy(float)
    told = [
        metrics.proportion_rmse(truth, found),
        metrics.proportion_jsd(truth, found),
        metrics.presence_aupr(truth, found),
        np.nanmean(metrics.type_correlation(truth, found)),
        np.nanmean(metrics.type_concordance(truth, found)),
    ]
    print(f"{title:58s}" + "".join(f"  {value:.3f}" for value in told) + f"  {seconds:5.1f}", flush=True)
    return np.array(told)


def pseudo_spots(folder):
    """Half of the cells are the reference; spots are sums of the other half."""
    cells, members = spots_data.seqfish(folder)
    rows = {
        "poisson (default)": {},
        "poisson, no platform effect": {"platform_effect": False},
        "nnls": {"model": "nnls"},
        "weighted_nnls, variable genes": {"model": "weighted_nnls", "genes": "variable"},
        "weighted_nnls, markers": {"model": "weighted_nnls"},
    }
    totals = dict.fromkeys(rows, 0)
    print(f"\nseqFISH+ pseudo-spots, shares of cells\n{HEAD}")
    for seed in range(SEEDS):
        reference, spots, truth = spots_data.halves(cells, members, seed)
        for title, options in rows.items():
            began = time.process_time()
            found = sd.deconvolve(spots.copy(), reference, labels_key="type", **options)
            seconds = time.process_time() - began
            totals[title] = totals[title] + line(
                f"split {seed}: {title}, {found.n_steps} steps", truth, found.proportions, seconds
            )
    for title, total in totals.items():
        print(f"{'mean: ' + title:58s}" + "".join(f"  {value / SEEDS:.3f}" for value in total))


def rna_mixtures(folder):
    """RNA of three cell lines in known shares."""
    bulk, truth, technologies = spots_data.rna_mixtures(folder)
    print(f"\nRNA mixtures, shares of RNA\n{HEAD}")
    for technology, reference in technologies.items():
        for model, choices in {"weighted_nnls": GENES, "nnls": GENES, "scaden": GENES[:1]}.items():
            for genes in choices:
                began = time.process_time()
                how = {"labels_key": "cell_type", "model": model, "genes": genes, "per": "rna", "callback": silent}
                found = sd.deconvolve_bulk(bulk, reference, **how)
                title = f"{technology} reference: {model}, {len(found.genes)} {genes}"
                line(title, truth, found.proportions, time.process_time() - began)


def tissues(folder):
    """Two tissues without truth."""
    for name, spots, reference in (
        ("lymph node", "deconv_lymph_visium_1000spots", "deconv_lymph_reference_330cells"),
        ("cerebellum", "deconv_cerebellum_slideseq_spatial", "deconv_cerebellum_slideseq_reference"),
    ):
        read = [ad.read_h5ad(folder / f"{file}.h5ad") for file in (spots, reference)]
        for effect in (True, False):
            began = time.process_time()
            found = sd.deconvolve(*read, labels_key="cell_type", platform_effect=effect)
            seconds = time.process_time() - began
            title = f"{name}, {'with' if effect else 'without'} platform effect"
            print(f"\n{title}, {found.n_steps} steps, {seconds:.1f} CPU s")
            print(f"log2 factors: standard deviation {found.genes['platform_log2'].std():.2f}")
            print(found)


def main(folder: str) -> None:
    warnings.simplefilter("ignore", ScduetWarning)
    pseudo_spots(Path(folder))
    rna_mixtures(Path(folder))
    tissues(Path(folder))


if __name__ == "__main__":
    main(sys.argv[1])
