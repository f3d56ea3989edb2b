"""Deconvolution with truth, pseudo-spots and RNA mixtures, and without, by held-out genes of two tissues.

python benchmarks/deconvolution.py ../shared/data
"""

import sys
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import scipy.sparse as sp

import scduet as sd
from scduet import metrics
from scduet.errors import ScduetWarning

RADIUS = 55 / 0.103 / 2  # of a Visium spot, in pixels of the seqFISH+ images
MERGED = {"Neuroblast": "Neuroblasts", "Excitatory 5/6": "Excitatory layer 5/6", "Interneuron": "Interneurons"}
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


def seqfish(folder):
    """Cells of 17 types, and which of them each of the 63 pseudo-spots is the sum of.

    The proportions stored with the spots are those of the cells that lie in them, but the counts are sums of others:
    the cells of a field near any spot, in order of their index, dealt out in order of the spots. The sums agree.
    """
    spots = ad.read_h5ad(folder / "deconv_seqfishplus_cortex_63spots_truth.h5ad")
    cells = ad.read_h5ad(folder / "seqfishplus_cortex_cells.h5ad")
    cells = cells[cells.obs["cell_type"] != "unannotated"].copy()
    cells.obs["type"] = cells.obs["cell_type"].astype(str).replace(MERGED)
    genes = cells.var_names[cells.var_names.isin(spots.var_names)]
    spots, cells = spots[:, genes].copy(), cells[:, genes].copy()
    members = np.zeros((spots.n_obs, cells.n_obs))
    for field in spots.obs["batch"].unique():
        here = np.flatnonzero((spots.obs["batch"] == field).to_numpy())
        mine = np.flatnonzero((cells.obs["fov"].astype(str) == str(field)).to_numpy())
        apart = ((cells.obsm["spatial"][mine] - spots.obsm["spatial"][here][:, None]) ** 2).sum(2)
        near = [mine[row <= RADIUS**2] for row in apart]
        inside, start = np.unique(np.concatenate(near)), 0
        for spot, own in zip(here, near, strict=True):
            members[spot, inside[start : start + len(own)]] = 1
            start += len(own)
    assert np.array_equal(members @ cells.X, spots.X.toarray())
    return cells, members


def pseudo_spots(folder):
    """Half of the cells are the reference; spots are sums of the other half."""
    cells, members = seqfish(folder)
    one = np.asarray([cells.obs["type"] == kind for kind in sorted(cells.obs["type"].unique())], float).T
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
        reference = np.random.default_rng(seed).permutation(cells.n_obs) < cells.n_obs // 2
        own = members * ~reference
        own = own[own.sum(1) > 0]
        spots = ad.AnnData(sp.csr_matrix((own @ cells.X).astype(np.float32)), var=cells.var[[]])
        spots.obs_names = [f"spot {i}" for i in range(spots.n_obs)]
        kinds = sorted(cells.obs["type"].unique())
        truth = ad.AnnData(own @ one).to_df().set_axis(kinds, axis=1)
        for title, options in rows.items():
            began = time.process_time()
            found = sd.deconvolve(spots.copy(), cells[reference].copy(), labels_key="type", **options)
            seconds = time.process_time() - began
            truth.index = found.proportions.index
            share = truth.div(truth.sum(1), axis=0)
            totals[title] = totals[title] + line(
                f"split {seed}: {title}, {found.n_steps} steps", share, found.proportions, seconds
            )
    for title, total in totals.items():
        print(f"{'mean: ' + title:58s}" + "".join(f"  {value / SEEDS:.3f}" for value in total))


def rna_mixtures(folder):
    """RNA of three cell lines in known shares. The columns of two of them are exchanged in the file."""
    bulk = ad.read_h5ad(folder / "cellbench_rnamix_celseq2_known_props.h5ad")
    cells = ad.read_h5ad(folder / "cellbench_3cl_celseq2_dropseq.h5ad")
    truth = bulk.obsm["proportions"].rename(columns={"H2228": "HCC827", "HCC827": "H2228"}).astype(float)
    truth = truth.div(truth.sum(1), axis=0)
    print(f"\nRNA mixtures, shares of RNA\n{HEAD}")
    for technology in ("CEL-seq2", "Drop-seq"):
        reference = cells[cells.obs["technology"] == technology].copy()
        for model in ("weighted_nnls", "nnls"):
            for genes in ("markers", "variable"):
                began = time.process_time()
                found = sd.deconvolve_bulk(bulk, reference, labels_key="cell_type", model=model, genes=genes, per="rna")
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
