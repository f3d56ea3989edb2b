"""Cells with RNA, peaks and proteins, of three types, that lack some of the modalities."""

import anndata
import mudata
import numpy as np
import pandas as pd
import scipy.sparse as sp

N, SIZES = 240, {"rna": 40, "atac": 150, "prot": 6}
HAS = {"rna": slice(0, 180), "atac": slice(60, 240), "prot": slice(0, 120)}  # of three types in turn
TYPE = np.arange(N) % 3


def rates():
    draw = np.random.default_rng(0)
    shapes = {"rna": (0.5, 4), "atac": (0.15, 8), "prot": (1, 20)}
    return {name: draw.gamma(*shapes[name], (3, n)) for name, n in SIZES.items()}


def parts(has=HAS):
    """An AnnData for each modality, with the cells that have it."""
    draw, made = np.random.default_rng(1), {}
    for name, mean in rates().items():
        x = draw.poisson(mean[TYPE]).astype(np.float32)
        x[:, 0] += 1
        names = [f"chr1:{100 * i}-{100 * i + 90}" if name == "atac" else f"{name}{i}" for i in range(x.shape[1])]
        made[name] = anndata.AnnData(sp.csr_matrix(x[has[name]]), var=pd.DataFrame(index=names))
        made[name].obs_names = [f"c{i}" for i in range(N)[has[name]]]
    return made


def mosaic(has=HAS):
    whole = mudata.MuData(parts(has))
    whole = whole[[f"c{i}" for i in range(N)]].copy()
    whole.obs["batch"] = np.random.default_rng(2).choice(["a", "b"], N)
    whole.obs["type"] = [f"t{i}" for i in TYPE]
    return whole
