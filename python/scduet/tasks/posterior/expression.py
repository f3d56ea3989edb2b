"""Denoised expression: the mean of the model's distribution of counts, batch effects taken out or chosen."""

from __future__ import annotations

from scduet._torch import torch

from typing import Literal

import numpy as np
import pandas as pd

from scduet.api import Model
from scduet.capabilities import HasLibrary, part_with
from scduet.errors import OptionError
from scduet.options import check_arguments
from scduet.tasks.posterior.latent import (
    BATCH_SIZE,
    as_batch,
    batch_codes,
    cell_names,
    modality_of,
    opened,
    refuse_lognormal,
    rows_of,
    seeded,
    states,
)


@torch.inference_mode()
def normalized_expression(
    model: Model,
    adata=None,
    *,
    transform_batch=None,
    gene_list=None,
    library_size: float | Literal["latent"] = 1.0,
    n_samples: int = 1,
    return_mean: bool = True,
    rows=None,
    batch_size: int = BATCH_SIZE,
    seed: int | None = 0,
    modality: str | None = None,
    **options,
) -> pd.DataFrame | np.ndarray:
    """Expected expression of each gene, from draws of the state of each cell (Lopez et al. 2018).

    adata: AnnData, None for the cells trained on.
    transform_batch: decode as if measured in this batch; a list is averaged; None for the batch of each cell.
    library_size: what shares are multiplied by: with 1 the genes of a cell sum to 1, with 10,000 they are counts per
        10,000; "latent" gives the mean counts, before dropout.
    n_samples: draws a cell, averaged when return_mean.
    rows: the cells to use: a mask, names, places, or a query of obs; None for all.
    seed: of the draws; None goes on in torch's own stream.
    modality: another matrix that the model decodes, e.g. "protein", instead of the main one. Its expected values are
        given as the model scales them: no library_size.
    options: of the model. Proteins of totalVI: include_protein_background=True adds the background to the foreground,
        sample_protein_mixing=True draws which of both a cell shows, scale_protein=True has a cell sum to 1.

    Expected counts are smoother than counts: their log1p lies above the mean of log1p of counts. For comparisons with
    log-normalized cells draw counts by `posterior_predictive_sample`.

    Returns a DataFrame (cell x gene) or, with several draws not averaged, an array (draw, cell, gene), float32.
    Raises DataError for genes and batches that the model lacks and for cells that are not there, OptionError for a
    modality that it lacks.
    """
    check_arguments(n_samples=n_samples, batch_size=batch_size)
    adata, chosen, codes = opened(adata), modality_of(model, modality), batch_codes(model, transform_batch)
    place, names = chosen.places(gene_list)
    chosen.check_options(options)
    if library_size != "latent":
        check_arguments(library_size=library_size)
    if library_size != 1 and not chosen.is_main:
        raise OptionError(
            f"library_size={library_size!r} is of the main matrix, not of {chosen.name!r}", "leave it out"
        )
    if library_size != 1:
        refuse_lognormal(model, f"library_size={library_size!r}")
    if library_size == "latent" and part_with(model.module, HasLibrary) is None:
        raise OptionError(f"library_size='latent', and {model.name!r} has no library size", "give a number")
    rows, index = rows_of(model, adata, rows), cell_names(model, adata)
    index = index if rows is None else index[rows]
    apart = n_samples > 1 and not return_mean
    found = np.zeros((n_samples if apart else 1, len(index), len(place)), dtype=np.float32)
    start, weight, column = 0, 1 / len(codes) / (1 if apart else n_samples), torch.from_numpy(place)
    alone = gene_list is None and len(codes) == 1 and (apart or n_samples == 1)  # nothing to pick or to average
    with seeded(seed):
        for part in states(model, adata, rows, batch_size):
            into = torch.from_numpy(found[:, start : start + len(part.cells)])
            for draw in range(n_samples):
                z = part.draw()
                for code in codes:
                    batch, target = as_batch(part.cells, code), into[draw if apart else 0]
                    if alone:
                        chosen.normalized(z, part.cells, batch, target, **options)
                    else:
                        values = chosen.normalized(z, part.cells, batch, **options)
                        target.add_(values.cpu()[:, column], alpha=weight)
            if library_size != 1:
                into.mul_(part.log_library.exp().cpu() if library_size == "latent" else float(library_size))  # type: ignore[union-attr]
            start += len(part.cells)
    if apart:
        return found
    return pd.DataFrame(found[0], index=index, columns=names, copy=False)
