"""Mixtures of known composition for the benchmarks of deconvolution: pseudo-spots of seqFISH+ and mixtures of RNA."""

import anndata as ad
import numpy as np
import scipy.sparse as sp

RADIUS = 55 / 0.103 / 2  # of a Visium spot, in pixels of the seqFISH+ images
MERGED = {"Neuroblast": "Neuroblasts", "Excitatory 5/6": "Excitatory layer 5/6", "Interneuron": "Interneurons"}


def seqfish(folder):
    """Cells of 17 types, and which of them each of the 63 pseudo-spots is the sum of (spot, cell).

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


def halves(cells, members, split):
    """Half of the cells as the reference, spots that are sums of the other half, and their true shares of cells."""
    known = np.random.default_rng(split).permutation(cells.n_obs) < cells.n_obs // 2
    own = members * ~known
    own = own[own.sum(1) > 0]
    spots = ad.AnnData(sp.csr_matrix((own @ cells.X).astype(np.float32)), var=cells.var[[]])
    spots.obs_names = [f"spot {i}" for i in range(spots.n_obs)]
    types = sorted(cells.obs["type"].unique())
    one = np.asarray([cells.obs["type"] == kind for kind in types], float).T
    truth = ad.AnnData(own @ one, spots.obs[[]]).to_df().set_axis(types, axis=1)
    return cells[known].copy(), spots, truth.div(truth.sum(axis=1), axis=0)


def rna_mixtures(folder):
    """Mixtures of the RNA of three cell lines, their true shares of RNA, and single cells of two technologies.

    The columns of two of the lines are exchanged in the file, as EGFR, amplified in HCC827, shows.
    """
    mixtures = ad.read_h5ad(folder / "cellbench_rnamix_celseq2_known_props.h5ad")
    cells = ad.read_h5ad(folder / "cellbench_3cl_celseq2_dropseq.h5ad")
    truth = mixtures.obsm["proportions"].rename(columns={"H2228": "HCC827", "HCC827": "H2228"}).astype(float)
    technologies = {name: cells[cells.obs["technology"] == name].copy() for name in ("CEL-seq2", "Drop-seq")}
    return mixtures, truth.div(truth.sum(axis=1), axis=0), technologies
