"""Denoised expression: the mean of the model's distribution of counts, batch effects taken out or chosen."""

from __future__ import annotations

from scduet._torch import torch

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from scduet.api import Model
from scduet.capabilities import HasLibrary, part_with
from scduet.errors import OptionError
from scduet.options import check_arguments
from scduet.tasks.posterior.latent import (
    BATCH_SIZE,
    Modality,
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
    adata, chosen = opened(adata), modality_of(model, modality)
    wanted = Wanted(chosen, *chosen.places(gene_list), library_size, options)
    rows, index = rows_of(model, adata, rows), cell_names(model, adata)
    draws = {"n_samples": n_samples, "return_mean": return_mean, "batch_size": batch_size, "seed": seed}
    (found,) = expected_values(model, adata, [wanted], batch_codes(model, transform_batch), rows, **draws)
    if n_samples > 1 and not return_mean:
        return found
    return pd.DataFrame(found[0], index=index if rows is None else index[rows], columns=wanted.names, copy=False)


@dataclass(frozen=True)
class Wanted:
    """Features of a modality, and in which unit and with which options of the model."""

    modality: Modality
    place: np.ndarray  # of its features
    names: list[str]
    library_size: float | Literal["latent"] = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)

    def check(self, model: Model) -> None:
        self.modality.check_options(self.options)
        size = self.library_size
        if size != "latent":
            check_arguments(library_size=size)
        if size != 1 and not self.modality.is_main:
            text = f"library_size={size!r} is of the main matrix, not of {self.modality.name!r}"
            raise OptionError(text, "leave it out")
        if size != 1:
            refuse_lognormal(model, f"library_size={size!r}")
        if size == "latent" and part_with(model.module, HasLibrary) is None:
            raise OptionError(f"library_size='latent', and {model.name!r} has no library size", "give a number")


@torch.inference_mode()
def expected_values(
    model: Model,
    adata,
    wanted: Sequence[Wanted],
    codes: Sequence[int | None],
    rows: np.ndarray | None,
    *,
    n_samples: int,
    return_mean: bool,
    batch_size: int,
    seed: int | None,
    at_mean: bool = False,
) -> list[np.ndarray]:
    """What is wanted of each modality, from the same draws of states; float32 (draw, cell, feature), or one mean.

    at_mean: of the posterior mean of each state, not of a draw (with "ln" always of a draw).
    """
    at_mean &= getattr(model.config, "latent_distribution", "normal") == "normal"
    for one in wanted:
        one.check(model)
    apart, n_cells = n_samples > 1 and not return_mean, len(cell_names(model, adata)) if rows is None else len(rows)
    found = [np.zeros((n_samples if apart else 1, n_cells, len(one.place)), np.float32) for one in wanted]
    start, weight = 0, 1 / len(codes) / (1 if apart else n_samples)
    alone = len(codes) == 1 and (apart or n_samples == 1)  # nothing to average
    whole = [alone and np.array_equal(one.place, np.arange(len(one.modality.features))) for one in wanted]
    with seeded(seed):
        for part in states(model, adata, rows, batch_size):
            into = [torch.from_numpy(values[:, start : start + len(part.cells)]) for values in found]
            for draw in range(n_samples):
                z = part.mean if at_mean else part.draw()
                for code in codes:
                    batch = as_batch(part.cells, code)
                    for one, values, as_it_is in zip(wanted, into, whole, strict=True):
                        target = values[draw if apart else 0]
                        if as_it_is:
                            one.modality.normalized(z, part.cells, batch, target, **one.options)
                        else:
                            decoded = one.modality.normalized(z, part.cells, batch, **one.options).cpu()
                            target.add_(decoded[:, torch.from_numpy(one.place)], alpha=weight)
            for one, values in zip(wanted, into, strict=True):
                if one.library_size != 1:
                    latent = one.library_size == "latent"
                    values.mul_(part.log_library.exp().cpu() if latent else float(one.library_size))  # type: ignore[union-attr]
            start += len(part.cells)
    return found
