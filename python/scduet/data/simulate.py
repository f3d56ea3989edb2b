"""Counts with known truth: cell types, batches and sequencing depth that the user chooses.

mean[c, g]  = depth[c] * softmax_g(base[g] + type_effect[g, type of c] + batch_effect[g, batch of c])
count[c, g] ~ NegativeBinomial(mean[c, g], dispersion[g])        variance = mean + mean^2 / dispersion
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from jaxtyping import Float, Int
from scipy import sparse

from scduet.errors import OptionError
from scduet.options import seed_of

_CHUNK = 4096  # cells drawn at a time: (chunk, gene) is the largest dense array


def simulate(
    n_cells: int = 1000,
    n_genes: int = 500,
    n_batches: int = 2,
    n_types: int = 4,
    seed: int = 0,
    *,
    depth: float = 2000.0,
    type_strength: float = 1.0,
    batch_strength: float = 0.5,
) -> AnnData:
    """Simulated counts, CSR float32, with the truth beside them.

    `depth`: median count of a cell. `type_strength`, `batch_strength`: standard deviation over genes of the log fold
    change of a type (in a fifth of the genes, the others have none) and of a batch (in all); 0 removes the effect.

    Truth: obs "cell_type", "batch", "depth"; var "base", "dispersion"; varm "type_effect" (gene, type) and
    "batch_effect" (gene, batch), all on the natural log scale. `expected` gives the means. Same seed, same data.
    """
    for name, value in {"n_cells": n_cells, "n_genes": n_genes, "n_batches": n_batches, "n_types": n_types}.items():
        if value < 1:
            raise OptionError(f"{name} must be 1 or more, not {value}")
    random = np.random.default_rng(seed_of(seed))
    truth = _draw_truth(random, n_cells, n_genes, n_batches, n_types, depth, type_strength, batch_strength)
    chunks = [np.arange(start, min(start + _CHUNK, n_cells)) for start in range(0, n_cells, _CHUNK)]
    counts = sparse.vstack([_draw_counts(truth, cells, random) for cells in chunks], format="csr")
    return _as_anndata(truth, counts)


def expected(adata: AnnData, cells: Int[np.ndarray, " cell"] | slice = slice(None)) -> Float[np.ndarray, "cell gene"]:
    """The true means of data made by `simulate`, for the rows `cells`."""
    obs = adata.obs.iloc[cells]
    truth = _Truth(
        base=adata.var["base"].to_numpy(),
        type_effect=np.asarray(adata.varm["type_effect"]),
        batch_effect=np.asarray(adata.varm["batch_effect"]),
        dispersion=adata.var["dispersion"].to_numpy(),
        cell_type=obs["cell_type"].cat.codes.to_numpy(),
        batch=obs["batch"].cat.codes.to_numpy(),
        depth=obs["depth"].to_numpy(),
    )
    return _means(truth, np.arange(len(obs)))


@dataclass(frozen=True)
class _Truth:
    base: Float[np.ndarray, " gene"]
    type_effect: Float[np.ndarray, "gene type"]
    batch_effect: Float[np.ndarray, "gene batch"]
    dispersion: Float[np.ndarray, " gene"]
    cell_type: Int[np.ndarray, " cell"]
    batch: Int[np.ndarray, " cell"]
    depth: Float[np.ndarray, " cell"]


def _draw_truth(
    random: np.random.Generator,
    n_cells: int,
    n_genes: int,
    n_batches: int,
    n_types: int,
    depth: float,
    type_strength: float,
    batch_strength: float,
) -> _Truth:
    marks = random.random((n_genes, n_types)) < 0.2
    return _Truth(
        base=random.normal(0.0, 1.5, n_genes),
        type_effect=type_strength * marks * random.normal(0.0, 1.0, (n_genes, n_types)),
        batch_effect=batch_strength * random.normal(0.0, 1.0, (n_genes, n_batches)),
        dispersion=random.gamma(4.0, 1.0, n_genes) + 0.5,
        cell_type=_every_one(random, n_types, n_cells),
        batch=_every_one(random, n_batches, n_cells),
        depth=depth * random.lognormal(0.0, 0.3, n_cells),
    )


def _every_one(random: np.random.Generator, n_levels: int, n_cells: int) -> Int[np.ndarray, " cell"]:
    """Levels in equal shares and random order, so that none is missing by chance."""
    return random.permutation(np.arange(n_cells) % n_levels)


def _means(truth: _Truth, cells: Int[np.ndarray, " cell"]) -> Float[np.ndarray, "cell gene"]:
    logits = truth.base + truth.type_effect.T[truth.cell_type[cells]] + truth.batch_effect.T[truth.batch[cells]]
    share = np.exp(logits - logits.max(axis=1, keepdims=True))
    return truth.depth[cells, None] * share / share.sum(axis=1, keepdims=True)


def _draw_counts(truth: _Truth, cells: Int[np.ndarray, " cell"], random: np.random.Generator) -> sparse.csr_matrix:
    means = _means(truth, cells)
    counts = random.poisson(means * random.gamma(truth.dispersion, 1 / truth.dispersion, means.shape))
    return sparse.csr_matrix(counts, dtype=np.float32)


def _as_anndata(truth: _Truth, counts: sparse.csr_matrix) -> AnnData:
    n_types, n_batches = truth.type_effect.shape[1], truth.batch_effect.shape[1]
    types, batches = [f"type_{i}" for i in range(n_types)], [f"batch_{i}" for i in range(n_batches)]
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical.from_codes(truth.cell_type, types),
            "batch": pd.Categorical.from_codes(truth.batch, batches),
            "depth": truth.depth,
        },
        index=[f"cell_{i}" for i in range(counts.shape[0])],
    )
    var = pd.DataFrame(
        {"base": truth.base, "dispersion": truth.dispersion}, index=[f"gene_{i}" for i in range(counts.shape[1])]
    )
    return AnnData(
        counts, obs=obs, var=var, varm={"type_effect": truth.type_effect, "batch_effect": truth.batch_effect}
    )
