"""Two modalities that need not be of the same cells, as standardized logarithms of their counts."""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Mapping

import numpy as np
import scipy.sparse as sp
from torch import Tensor

from scduet.contract import CellBatch, Reference
from scduet.data.sources import Cells, gathered
from scduet.errors import DataError
from scduet.models.perturbation.gan import TOTAL, lognormal

MODALITIES = ("rna", "protein")
Both = tuple[Tensor, Tensor]  # of genes, and of proteins


def measure(cells: Cells, reference: Reference) -> dict[str, np.ndarray]:
    """Mean and spread (2, feature) of the logarithms of either modality; the number of types that both have."""
    x, y = gathered(cells.counts).astype(np.float64), gathered(cells.extra["protein"])
    total = np.asarray(x.sum(1))
    logs = x.multiply(TOTAL / np.maximum(total, 1)).tocsr().log1p(), sp.csr_matrix(np.log1p(np.nan_to_num(y)))
    seen, found = (total[:, 0] > 0, ~np.isnan(y).any(1)), {}
    for name, values, there in zip(MODALITIES, logs, seen, strict=True):
        if not there.any():
            raise DataError(f"{name!r} was measured in no cell", "is it in another place?")
        mean, square = (np.asarray(v[there].mean(0)).ravel() for v in (values, values.power(2)))
        found[name] = np.stack([mean, np.sqrt(np.maximum(square - mean**2, 1e-6))])
    types = [set() if cells.label is None else {*cells.label[there]} - {-1} for there in seen]
    found["types"] = np.array([len(types[0] & types[1])])
    return {name: values.astype(np.float32) for name, values in found.items()}


def standardized(cells: CellBatch, measured: Mapping[str, np.ndarray]) -> tuple[Both, Both]:
    """Logarithms of either modality less their mean, by their spread, 0 where it was not measured; and where it was.

    measured: what `measure` returns.
    """
    proteins = cells.extra["protein"]
    known = cells.x.sum() > 0, ~proteins.isnan().any(1)
    logs, values = (lognormal(cells.x), proteins.nan_to_num().log1p()), []
    for name, x, there in zip(MODALITIES, logs, known, strict=True):
        mean, spread = torch.from_numpy(measured[name]).to(x)
        values.append((x - mean) / spread * there[:, None])
    return (values[0], values[1]), known
