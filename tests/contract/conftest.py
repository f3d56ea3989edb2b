"""Models that only tests have, as rows of the table of models: a further input, and two players."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scduet.models import MODELS, Row

TOYS = {
    "toy_citeseq": Row("contract.toys.citeseq:ToyCiteSeq", "X_toyCiteSeq", "toyciteseq", "RunToyCiteSeq"),
    "toy_masked": Row("contract.toys.masked:ToyMasked", "X_toyMasked", "toymasked", "RunToyMasked"),
    "toy_spots": Row("contract.toys.spots:ToySpots", "X_toySpots", "toyspots", "RunToySpots", task="deconvolution"),
    "toy_profiles": Row("contract.toys.profiles:ToyProfiles", "X_toyProfiles", "toyprofiles", "RunToyProfiles"),
}


@pytest.fixture
def toys(monkeypatch):
    for name, row in TOYS.items():
        monkeypatch.setitem(MODELS, name, row)


@pytest.fixture
def cite(counts):
    return add_inputs(counts)


def add_inputs(adata):
    """With five proteins of which the cells of batch b0 lack two, peaks, and three gene sets.

    obsm["unspliced"]: counts of all genes. obsm["some"]: nine proteins that a quarter of the cells lacks.
    obsm["panel"]: counts of a third of the genes in three quarters of the cells.
    """
    draw, kind = np.random.default_rng(1), adata.obs["cell_type"].cat.codes.to_numpy()
    proteins = draw.poisson(draw.gamma(2, 5, (3, 5))[kind]).astype(np.float32)
    proteins[np.ix_(adata.obs["batch"] == "b0", [1, 3])] = np.nan
    adata.obsm["prot"] = pd.DataFrame(proteins, adata.obs_names, [f"CD{i}" for i in range(5)])
    peaks = draw.poisson(draw.gamma(0.4, 0.5, (3, 70))[kind]).astype(np.float32)
    peaks[:, 0] += 1
    adata.obsm["peaks"] = sp.csr_matrix(peaks)
    some = draw.poisson(draw.gamma(2, 5, (3, 9))[kind]).astype(np.float32) + 1
    some[::4] = np.nan
    adata.obsm["some"] = pd.DataFrame(some, adata.obs_names, [f"CD{i}" for i in range(9)])
    unspliced = draw.poisson(0.3 * adata.X.toarray() + 0.1).astype(np.float32)
    adata.obsm["unspliced"] = pd.DataFrame(unspliced, adata.obs_names, adata.var_names)
    adata.uns["shared"] = pd.DataFrame({"gene": adata.var_names[:3], "protein": ["CD0", "CD1", "CD2"]})
    panel = draw.poisson(0.5 * adata.X.toarray()[:, ::3]).astype(np.float32)
    panel[::4] = 0
    adata.obsm["panel"] = pd.DataFrame(panel, adata.obs_names, adata.var_names[::3])
    sets = draw.integers(0, 2, (adata.n_vars, 3)).astype(np.float32)
    nodes = [f"node{i % 6}" for i in range(adata.n_vars)]
    edges = {"parent": [*nodes, *["top0"] * 3, *["top1"] * 4], "child": [*adata.var_names, *sorted({*nodes}), "node0"]}
    adata.uns["graph"] = pd.DataFrame(edges)
    adata.varm["programs"] = pd.DataFrame(sets, adata.var_names, ["one", "two", "three"])
    return adata
