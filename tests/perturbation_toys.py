"""Simulated screens whose answers are known."""

import anndata as ad
import numpy as np
import pandas as pd

GENES = [f"G{i}" for i in range(60)]


def cells(means, n, rng, noise=0.1, **obs):
    """`n` cells around the mean of each row, and their columns of obs."""
    x = np.repeat(means, n, 0) + rng.normal(0, noise, (len(means) * n, means.shape[1]))
    frame = pd.DataFrame({key: np.repeat(np.asarray(value, object), n) for key, value in obs.items()})
    return ad.AnnData(np.maximum(x, 0).astype(np.float32), frame.set_index(pd.Index([f"c{i}" for i in range(len(x))])))


def screen(rng, names, change, n=40, base=None, noise=0.1, context="K562"):
    """Control cells and `n` cells of each perturbation (gene names of GENES), on a base well above zero."""
    base = rng.uniform(2, 4, len(GENES)) if base is None else base
    found = cells(base + np.vstack([np.zeros(len(GENES)), change]), n, rng, noise, perturbation=["ctrl", *names])
    found.var_names, found.obs["context"] = GENES, context
    return found


def contexts(rng, names=("A", "B", "C", "D"), change=None, n=40):
    """The same perturbation "stim" in several contexts."""
    change = np.r_[np.full(10, 1.0), np.zeros(50)] if change is None else change
    parts = [screen(rng, ["stim"], change[None], n, context=name) for name in names]
    found = ad.concat(parts, index_unique="-")
    found.var_names = GENES
    return found
