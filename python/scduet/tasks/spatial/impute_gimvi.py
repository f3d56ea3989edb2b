"""Genes predicted by gimVI, trained on single cells and spatial data together."""

from __future__ import annotations

from scduet._torch import torch

from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from scduet.api import fit
from scduet.data.side_by_side import side_by_side
from scduet.tasks.spatial.imputers import PER_CELL, Panel, Target, Values

PLACE = "spatial_counts"
TINY = 1e-6


def gimvi(known: Panel, target: Target, new: Panel, **options: Any) -> Values:
    """Log shares of the genes of `target` in the spatial cells, decoded at the mean of their states.

    Each gene has a factor that gives it its mean where decoded in the single cells.

    options: of `fit`. Cells of the spatial data without a count get what gimVI decodes at the mean of the prior.
    """
    n, n_shared = known.counts.shape
    names = pd.Index([f"gene{i}" for i in range(n_shared + target.counts.shape[1])])
    counts = sp.hstack([known.counts, target.counts], format="csr")
    both = side_by_side(counts, new.counts, (names, names[:n_shared]), PLACE)
    model = fit(both, "gimvi", spatial_key=f"obsm/{PLACE}", allow_empty_cells=True, **options)
    module: Any = model.module

    def shares(cells: Any) -> torch.Tensor:
        found = module.normalized_expression(module.posterior(cells)[0], cells, modality="spatial")
        return found[:, n_shared:]  # in the counts of the panel

    of_total = known.total.sum() / target.total.sum()  # the panel's counts among those that shares are of
    found = np.log1p(PER_CELL * of_total * model.map(shares).cpu().numpy(), dtype=np.float32)
    # a logarithm of expected shares is above the expected logarithm, most where counts are few: as in the single cells
    excess = found[:n].mean(0) / np.maximum(np.asarray(target.logged.mean(0)).ravel(), TINY)
    return found[n:] / np.maximum(excess, TINY)
