"""In which samples are states like a cell's common? By aggregated posteriors (Boyeau et al. 2022, MrVI)."""

from __future__ import annotations

from scduet._torch import torch

import math

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, StudentT

from scduet.api import Model
from scduet.data import checks
from scduet.data.levels import coded, text
from scduet.errors import DataError, some
from scduet.options import check_arguments, seed_of
from scduet.tasks.posterior.latent import states

PIECE = 2_000_000  # pairs of cells looked at together


@torch.inference_mode()
def differential_abundance(
    model: Model, adata, sample_key: str, *, n_cells: int | None = None, dof: float | None = None, seed: int = 0
) -> pd.DataFrame:
    """log density of each cell's state under the cells of each sample (cell x sample); also in obsm["da_log_probs"].

    Compare samples of two conditions cell by cell: a difference of means says where one is richer.
    sample_key: column of obs, e.g. donor. n_cells: use at most so many cells of a sample. dof: degrees of freedom of
    Student's t; None for normal densities.

    Raises DataError where the column is missing.
    """
    check_arguments(**{k: v for k, v in {"n_cells": n_cells, "dof": dof}.items() if v is not None})
    draw = np.random.default_rng(seed_of(seed))
    checks.check_cells(adata)
    if sample_key not in adata.obs:
        raise DataError(f"no column {sample_key!r} in adata.obs", f"it has {some(adata.obs.columns, 12)}")
    parts = [(part.mean, part.variance) for part in states(model, adata)]
    mean, deviation = torch.cat([m for m, _ in parts]), torch.cat([v for _, v in parts]).sqrt()
    samples, found = coded(adata.obs[sample_key], sample_key), {}
    for code, name in enumerate(samples.values):
        rows = np.flatnonzero(samples.code == code)
        rows = rows if n_cells is None or n_cells >= len(rows) else draw.choice(rows, n_cells, replace=False)
        found[name] = _log_density(mean, mean[rows], deviation[rows], dof).cpu().numpy()
    table = pd.DataFrame(found, index=adata.obs_names)
    adata.obsm["da_log_probs"] = table.rename(columns=text)
    return table


@torch.inference_mode()
def aggregated_posterior(model: Model, adata=None, *, dof: float | None = 3.0) -> MixtureSameFamily:
    """Even mixture of the posteriors of the cells: Student's t of `dof` degrees of freedom, None for normal.

    Its scales are standard deviations; scvi-tools 1.4 takes variances for them.
    """
    parts = [(part.mean, part.variance) for part in states(model, adata)]
    mean, deviation = torch.cat([m for m, _ in parts]), torch.cat([v for _, v in parts]).sqrt()
    each = Normal(mean, deviation) if dof is None else StudentT(dof, mean, deviation)
    return MixtureSameFamily(Categorical(logits=torch.ones_like(mean[:, 0])), Independent(each, 1))


def _log_density(
    at: Float[Tensor, "cell latent"],
    mean: Float[Tensor, "component latent"],
    deviation: Float[Tensor, "component latent"],
    dof: float | None,
) -> Float[Tensor, " cell"]:
    """log density of an even mixture with these components."""
    size, found = max(1, PIECE // len(mean)), []
    kind = Normal(mean, deviation) if dof is None else StudentT(dof, mean, deviation)
    for start in range(0, len(at), size):
        each = kind.log_prob(at[start : start + size, None]).sum(-1)
        found.append(each.logsumexp(1) - math.log(len(mean)))
    return torch.cat(found)
