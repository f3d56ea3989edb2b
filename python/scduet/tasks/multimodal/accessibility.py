"""Accessibility of peaks: denoised, the factors of cells and peaks beside it, and fragments out of reads."""

from __future__ import annotations

from scduet._torch import torch

import numpy as np
import pandas as pd
import scipy.sparse as sp

from scduet.api import Model
from scduet.capabilities import HasAccessibility, part_with
from scduet.data.checks import check_values
from scduet.data.found import names_in
from scduet.errors import DataError, OptionError, some
from scduet.tasks.posterior.latent import (
    BATCH_SIZE,
    as_batch,
    batch_codes,
    cell_names,
    modality_of,
    opened,
    seeded,
    states,
)


@torch.inference_mode()
def normalized_accessibility(
    model: Model,
    adata=None,
    *,
    transform_batch=None,
    region_list=None,
    use_z_mean: bool = True,
    normalize_cells: bool = False,
    normalize_regions: bool = False,
    threshold: float | None = None,
    rows: np.ndarray | None = None,
    batch_size: int = BATCH_SIZE,
    seed: int | None = 0,
) -> pd.DataFrame | sp.csr_matrix:
    """Denoised accessibility of each peak: the probability that it is open (PeakVI), or its share (PoissonVI).

    adata: AnnData, MuData or the path of a file, None for the cells trained on.
    rows: places of the cells to use, None for all.
    transform_batch: decode as if measured in this batch; a list is averaged; None for the batch of each cell.
    region_list: names of peaks, None for all.
    use_z_mean: at the posterior mean of the state of each cell; else at a draw (with "ln" always at one).
    normalize_cells: times the factor of the cell; normalize_regions: with the factor of the peak. Without both, cells
        and peaks can be compared; with both it is what is expected to be seen. Shares without the factors of peaks are
        those of scvi-tools: the last bias is left out.
    threshold: below it, values are left out, and the result is sparse.

    Returns a DataFrame (cell x peak), float32, or with a threshold a CSR matrix.
    Raises OptionError for a model without peaks, DataError for peaks and batches that the model lacks.
    """
    module, chosen, codes = accessibility_of(model), modality_of(model, "peaks"), batch_codes(model, transform_batch)
    if threshold is not None and not 0 <= threshold <= 1:
        raise OptionError(f"threshold={threshold!r}", "it is a probability: between 0 and 1")
    (place, names), parts, adata = chosen.places(region_list), [], opened(adata)
    column = torch.from_numpy(place)
    with seeded(seed):
        for part in states(model, adata, rows, batch_size):
            is_mean = use_z_mean and getattr(model.config, "latent_distribution", "normal") == "normal"
            z = part.mean if is_mean else part.draw()
            decoded = [module.accessibility(z, part.cells, as_batch(part.cells, c), normalize_regions) for c in codes]
            found = sum(decoded[1:], decoded[0]) / len(codes)
            found = (found * module.cell_factors(part.cells) if normalize_cells else found).cpu()
            found = found if region_list is None else found[:, column]
            parts.append(found.numpy() if threshold is None else sp.csr_matrix(found.where(found >= threshold, 0)))
    if threshold is not None:
        return sp.vstack(parts, format="csr")
    index = cell_names(model, adata)
    return pd.DataFrame(np.concatenate(parts), index=index if rows is None else index[rows], columns=pd.Index(names))


@torch.inference_mode()
def region_factors(model: Model) -> pd.Series:
    """How well each peak is seen: 0 to 1 (PeakVI), or the logit that it adds to its share (PoissonVI)."""
    found = accessibility_of(model).region_factors().cpu().numpy()
    return pd.Series(found, index=pd.Index(modality_of(model, "peaks").features), name="region_factor")


@torch.inference_mode()
def cell_factors(model: Model, adata=None) -> pd.Series:
    """How much is seen of each cell: its depth, 0 to 1 (PeakVI), or its number of fragments (PoissonVI)."""
    module, adata = accessibility_of(model), opened(adata)
    return pd.Series(model.map(module.cell_factors, adata).cpu().numpy()[:, 0], cell_names(model, adata), name="depth")


def accessibility_of(model: Model) -> HasAccessibility:
    """The part of `model` that decodes accessibility. Raises OptionError where there is none."""
    found = part_with(model.module, HasAccessibility)
    if found is None:
        raise OptionError(f"{model.name!r} has no accessibility of peaks", "use e.g. peakvi")
    return found


def reads_to_fragments(adata, read_layer: str | None = None, fragment_layer: str = "fragments") -> None:
    """Turn counts of reads in peaks into counts of fragments, in layers[fragment_layer] (Martens et al. 2024).

    A fragment has two ends, each of which is a read: ceil(reads / 2). One with a single end in a peak counts too.
    read_layer: layer with the reads, None for X; it is not changed. Raises DataError for what is no counts, or where
    the counts look like fragments already, 1 being more frequent than 2.
    """
    where = "X" if read_layer is None else f"layers[{read_layer!r}]"
    if read_layer is not None and read_layer not in adata.layers:
        raise DataError(f"no layer {read_layer!r}", f"there are {some(names_in(adata.layers), 9)}")
    reads = adata.X if read_layer is None else adata.layers[read_layer]
    reads = sp.csr_matrix(reads) if not sp.issparse(reads) else reads.tocsr(copy=True)
    check_values(reads, adata.obs_names, where, "counts")
    n_ones, n_twos = (reads.data == 1).sum(), (reads.data == 2).sum()
    if n_ones > n_twos:
        text = f"{where} does not look like reads: 1 ({n_ones} times) is more frequent than 2 ({n_twos} times)"
        raise DataError(text, "counts of fragments need no change")
    reads.data = np.ceil(reads.data / 2).astype(np.float32)
    adata.layers[fragment_layer] = reads
